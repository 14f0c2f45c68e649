"""The backbone with what is trained around it: Batch -> Encoding.

Letters: B examples (or their choices), C classes, D hidden width, E embedding width, P prompt vectors, W words,
Z latent width.
"""

import importlib
from dataclasses import replace

import torch
from torch import Tensor, nn

from infoprompt.config import ConfigError, PromptSettings, RunConfig
from infoprompt.data.batch import Batch
from infoprompt.data.tasks import Task
from infoprompt.model.backbone import Backbone
from infoprompt.model.head import (
    GaussianLayer,
    LabelWordsHead,
    LinearHead,
    TextHead,
    VariationalHead,
    label_token_ids,
    num_outputs,
    random_class_vectors,
)
from infoprompt.model.insert import insert_prompt, pool
from infoprompt.model.prompts.kind import Prompt, PromptKind, PromptParts, Surroundings
from infoprompt.model.prompts.start import Vocabulary
from infoprompt.objective.encoding import Encoding, Latent
from infoprompt.objective.head_information import HeadInformation
from infoprompt.objective.representation_information import RepresentationInformation

Head = LinearHead | VariationalHead | LabelWordsHead | TextHead


def prompt_kind(name: str) -> PromptKind:
    """The kind of prompt that `prompt.kind` names: the file of that name in `prompts/`."""
    kind: PromptKind = importlib.import_module(f"infoprompt.model.prompts.{name}").KIND
    return kind


def reads_unprompted(config: RunConfig) -> bool:
    """Whether the prompt is made from the states of the plain text."""
    return config.prompt.kind != "none" and prompt_kind(config.prompt.kind).reads_unprompted


def prompt_slots(settings: PromptSettings) -> int:
    """Slots that the prompt takes in the input."""
    return 0 if settings.kind == "none" else prompt_kind(settings.kind).slots(settings)


def backbone_needs(config: RunConfig) -> frozenset[str]:
    """What prompt and head ask of the backbone's family beside input vectors, keys of `families.NEEDS`."""
    kind = config.prompt.kind
    of_prompt = frozenset() if kind == "none" else prompt_kind(kind).needs(config.prompt)
    return of_prompt | {"label_words": {"label_words"}, "text": {"label_texts"}}.get(config.head.kind, set())


class PromptedModel(nn.Module):
    """Prompt, backbone, head and information terms; the backbone is frozen unless the run fine-tunes it."""

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        pooling: str,
        *,
        prompt: Prompt | None = None,
        gaussian: GaussianLayer | None = None,
        head_information: HeadInformation | None = None,
        representation_information: RepresentationInformation | None = None,
        tags: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.tags = tags
        self.prompt = prompt
        self.gaussian = gaussian
        self.head = head
        self.head_information = head_information
        self.representation_information = representation_information

    def forward(self, batch: Batch) -> Encoding:
        """One encoder pass: unprompted if `batch.plain`, prompted else; none where kept states are all that is read."""
        if batch.plain:
            return self._plain(batch)
        if self.prompt is None and batch.pooled_BD is not None:
            latent = None if self.gaussian is None else self.gaussian(batch.pooled_BD)
            return Encoding(self._pooled_scores(batch.pooled_BD, latent, batch), batch.pooled_BD, latent=latent)
        parts = PromptParts() if self.prompt is None else self.prompt(batch)
        embeddings_BLE = self.backbone.embed(batch.input_ids_BL)
        inserted_BLE = embeddings_BLE
        if parts.input_BPE is not None:
            inserted_BLE = insert_prompt(embeddings_BLE, parts.input_BPE, batch.slot_BL)
        if isinstance(self.head, TextHead):
            logits_BC, states_BLD = self.backbone.score_texts(inserted_BLE, batch, self.head.token_ids, parts.deep)
            pooled_BD = pool(states_BLD, batch, self.pooling)
            latent = None if self.gaussian is None else self.gaussian(pooled_BD)
        else:
            states_BLD = self.backbone(inserted_BLE, batch, parts.deep)
            logits_BC, pooled_BD, latent = self.read_out(states_BLD, batch)
        if not self.training:
            return Encoding(logits_BC, pooled_BD, prompt_BPE=parts.input_BPE)
        encoding = Encoding(logits_BC, pooled_BD, prompt_BPE=parts.input_BPE, latent=latent)
        return self._with_information(encoding, embeddings_BLE, batch)

    def read_out(self, states_BLD: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Latent | None]:
        """Scores, [B, C] (of tags [B, W, C]), pooled states, [B, D], and their latents, of the backbone's states."""
        pooled_BD = pool(states_BLD, batch, self.pooling)
        latent = None if self.gaussian is None else self.gaussian(pooled_BD)
        if self.tags:
            return self._word_scores(states_BLD, batch), pooled_BD, latent
        return self._pooled_scores(pooled_BD, latent, batch), pooled_BD, latent

    def _with_information(self, encoding: Encoding, embeddings_BLE: Tensor, batch: Batch) -> Encoding:
        """The encoding with its information terms, of what the critics read in it."""
        unprompted = None
        if self.gaussian is not None and batch.pooled_BD is not None:
            unprompted = self.gaussian(batch.pooled_BD)
        head = representation = None
        if self.head_information is not None:
            head = self.head_information(encoding.prompt_BPE, embeddings_BLE, self.head.class_vectors(), batch)
        if self.representation_information is not None:
            representation = self.representation_information(encoding.prompt_BPE, encoding.latent, unprompted, batch)
        return replace(encoding, unprompted_latent=unprompted, head=head, representation=representation)

    def _plain(self, batch: Batch) -> Encoding:
        states_BLD = self.backbone(self.backbone.embed(batch.input_ids_BL), batch)
        pooled_BD = pool(states_BLD, batch, self.pooling)
        summary_BD = pool(states_BLD, batch, self.backbone.summary)
        return Encoding(pooled_BD.new_zeros(len(batch), 1), pooled_BD, first_BD=summary_BD)

    def _word_scores(self, states_BLD: Tensor, batch: Batch) -> Tensor:
        """Scores of each word's tag, [B, W, C], from the state of its first token."""
        assert batch.word_BW is not None
        index_BWD = batch.word_BW.clamp(min=0).unsqueeze(-1).expand(-1, -1, states_BLD.shape[-1])
        scores_BWC: Tensor = self.head(states_BLD.gather(1, index_BWD).float(), None)
        return scores_BWC

    def _pooled_scores(self, pooled_BD: Tensor, latent: Latent | None, batch: Batch) -> Tensor:
        if isinstance(self.head, LabelWordsHead):
            return self.head.gather(self.backbone.word_scores(pooled_BD, self.head.flat_ids))
        drawn_BZ = None
        if isinstance(self.head, VariationalHead):
            assert latent is not None
            drawn_BZ = latent.mean_BZ
            if self.training and batch.noise is not None and batch.noise.latent_BZ is not None:
                drawn_BZ = drawn_BZ + latent.log_std_BZ.exp() * batch.noise.latent_BZ
        scores_BC: Tensor = self.head(pooled_BD, drawn_BZ)
        return scores_BC.unflatten(0, (-1, batch.num_choices)).squeeze(-1) if batch.num_choices > 1 else scores_BC


def build_model(config: RunConfig, backbone: Backbone, task: Task) -> PromptedModel:
    """Everything that is trained, started from `config.seed` alone, around the backbone.

    A linear head that starts from label names is left at zero here: its start takes an encoder pass over the label
    texts, see `setup.start_head`.

    Raises:
        ConfigError: two settings do not fit each other, this backbone or the task.
    """
    check_parts(config, backbone, task)
    vocabulary = Vocabulary(backbone.embedding_table(), backbone.tokenizer, task.label_texts)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        objective, width = config.objective, backbone.embedding_size
        pooling = config.head.pooling_of(backbone.kind)
        pooled_size = backbone.hidden_size * (2 if pooling == "entities" else 1)
        prompt = None
        if config.prompt.kind != "none":
            around = Surroundings(
                vocabulary,
                backbone.hidden_size,
                backbone.num_layers,
                backbone.num_kv_heads,
                backbone.head_size,
                backbone.summary,
                generator,
            )
            prompt = prompt_kind(config.prompt.kind).build(config.prompt, around)
        head = _build_head(config, vocabulary, task, pooled_size, generator)
        gaussian = GaussianLayer(pooled_size, objective.latent_size) if config.has_latent else None
        head_information = representation_information = None
        if objective.head_weight > 0:
            head_information = HeadInformation(objective, width, head.class_vectors().shape[1])
        if objective.representation_weight > 0:
            out = head.out if isinstance(head, VariationalHead) else None
            representation_information = RepresentationInformation(objective, width, vocabulary.scale, out)
    return PromptedModel(
        backbone,
        head,
        pooling,
        prompt=prompt,
        gaussian=gaussian,
        head_information=head_information,
        representation_information=representation_information,
        tags=task.kind == "tags",
    )


def check_parts(config: RunConfig, backbone: Backbone, task: Task) -> None:
    """Raise ConfigError where prompt, head, objective, backbone and task do not fit each other."""
    objective, head, kind = config.objective, config.head, config.prompt.kind
    weights = {
        "objective.head_weight": objective.head_weight,
        "objective.representation_weight": objective.representation_weight,
    }
    for key, weight in weights.items():
        if weight > 0 and kind != "none" and not prompt_kind(kind).embeds(config.prompt):
            raise ConfigError(
                f"{key} is {weight:g}, but prompt.kind {kind} has no vectors among the word embeddings, for which the "
                "information terms are defined. Set it to 0, or use another prompt.kind."
            )
    if head.pooling == "entities" and task.kind != "relation":
        raise ConfigError(
            f"head.pooling is entities, but {task.name} is of the kind {task.kind} and marks no two entities. Use mean."
        )
    if head.kind in ("label_words", "text", "variational") and task.kind in ("tags", "choice", "regression"):
        raise ConfigError(
            f"head.kind is {head.kind}, but {task.name} is of the kind {task.kind}, which only the linear head scores. "
            "Use head.kind=linear."
        )
    if head.kind == "label_words":
        pooling = "mask" if backbone.kind == "encoder" else "last"
        if head.pooling not in (None, pooling):
            raise ConfigError(
                f"head.pooling is {head.pooling}, but head.kind label_words reads this model's words at its "
                f"{pooling} token. Use head.pooling={pooling}, or leave it out."
            )
    if not config.backbone.frozen and (reads_unprompted(config) or objective.representation_weight > 0):
        raise ConfigError(
            "backbone.frozen is false, but the prompt or the representation loss reads states of the plain text, which "
            "are kept once and would grow stale. Set backbone.frozen=true, or use another prompt.kind and "
            "objective.representation_weight=0."
        )
    if kind == "none" and config.backbone.frozen and head.kind in ("label_words", "text"):
        raise ConfigError(
            f"prompt.kind is none and head.kind is {head.kind}, so there is nothing to train. Use another of the two."
        )


def _build_head(
    config: RunConfig, vocabulary: Vocabulary, task: Task, pooled_size: int, generator: torch.Generator
) -> Head:
    if config.head.kind == "label_words":
        token_ids = label_token_ids(vocabulary.tokenizer, task.label_texts)
        return LabelWordsHead(token_ids, vocabulary.table_VE)
    if config.head.kind == "text":
        return TextHead(label_token_ids(vocabulary.tokenizer, task.label_texts, end=True), vocabulary.table_VE)
    if config.head.kind == "linear":
        head = LinearHead(pooled_size, num_outputs(task))
        if starts_from_labels(config, task):
            nn.init.zeros_(head.linear.weight)
        return head
    if config.head.init == "labels":
        start_CE = torch.stack([vocabulary.mean_embedding(text) for text in vocabulary.label_texts])
    else:
        start_CE = random_class_vectors(task.num_classes, vocabulary.table_VE, generator)
    return VariationalHead(config.objective.latent_size, start_CE)


def starts_from_labels(config: RunConfig, task: Task) -> bool:
    """Whether the head's start is read off the label texts' states: a linear head with a score for each class."""
    return config.head.kind == "linear" and config.head.init == "labels" and num_outputs(task) > 1
