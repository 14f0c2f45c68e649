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
from infoprompt.model.gaussian import GaussianLayer
from infoprompt.model.heads.kind import Head, HeadContext, Reading, head_kind
from infoprompt.model.insert import insert_prompt, pool
from infoprompt.model.prompts.kind import Prompt, PromptKind, PromptParts, Surroundings
from infoprompt.model.prompts.start import Vocabulary
from infoprompt.objective.encoding import Encoding, Latent
from infoprompt.objective.head_information import HeadInformation
from infoprompt.objective.representation_information import RepresentationInformation


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
    return of_prompt | head_kind(config.head.kind).needs


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
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
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
            logits_BC, pooled_BD, latent = self._read(batch.pooled_BD, batch)
            return Encoding(logits_BC, pooled_BD, latent=latent)
        parts = PromptParts() if self.prompt is None else self.prompt(batch)
        embeddings_BLE = self.backbone.embed(batch.input_ids_BL)
        inserted_BLE = embeddings_BLE
        if parts.input_BPE is not None:
            inserted_BLE = insert_prompt(embeddings_BLE, parts.input_BPE, batch.slot_BL)
        if self.head.passes_itself:
            logits_BC, states_BLD = self.head.score_pass(self.backbone, inserted_BLE, batch, parts.deep)
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
        return self._read(pool(states_BLD, batch, self.pooling), batch, states_BLD)

    def _read(
        self, pooled_BD: Tensor, batch: Batch, states_BLD: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Latent | None]:
        latent = None if self.gaussian is None else self.gaussian(pooled_BD)
        scores_BC: Tensor = self.head(Reading(pooled_BD, latent, batch, self.backbone, states_BLD))
        return scores_BC, pooled_BD, latent

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
        of_head = head_kind(config.head.kind)
        head = of_head.build(config, HeadContext(vocabulary, task, pooled_size, generator))
        latent = of_head.latent or objective.representation_weight > 0
        gaussian = GaussianLayer(pooled_size, objective.latent_size) if latent else None
        head_information = representation_information = None
        if objective.head_weight > 0:
            head_information = HeadInformation(objective, width, head.class_vectors().shape[1])
        if objective.representation_weight > 0:
            representation_information = RepresentationInformation(
                objective, width, vocabulary.scale, head.latent_map()
            )
    return PromptedModel(
        backbone,
        head,
        pooling,
        prompt=prompt,
        gaussian=gaussian,
        head_information=head_information,
        representation_information=representation_information,
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
    of_head = head_kind(head.kind)
    if task.kind not in of_head.tasks:
        raise ConfigError(
            f"head.kind is {head.kind}, but {task.name} is of the kind {task.kind}, which only the linear head scores. "
            "Use head.kind=linear."
        )
    pooling = None if of_head.pooling is None else of_head.pooling(backbone.kind)
    if pooling is not None and head.pooling not in (None, pooling):
        raise ConfigError(
            f"head.pooling is {head.pooling}, but head.kind {head.kind} reads this model's words at its "
            f"{pooling} token. Use head.pooling={pooling}, or leave it out."
        )
    if not config.backbone.frozen and (reads_unprompted(config) or objective.representation_weight > 0):
        raise ConfigError(
            "backbone.frozen is false, but the prompt or the representation loss reads states of the plain text, which "
            "are kept once and would grow stale. Set backbone.frozen=true, or use another prompt.kind and "
            "objective.representation_weight=0."
        )
    if kind == "none" and config.backbone.frozen and of_head.lm_head:
        raise ConfigError(
            f"prompt.kind is none and head.kind is {head.kind}, so there is nothing to train. Use another of the two."
        )
