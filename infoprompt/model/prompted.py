"""The frozen backbone with what is trained around it: Batch -> Encoding.

Letters: B examples, C classes, D hidden width, E embedding width, P prompt vectors, Z latent width.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from infoprompt.config import RunConfig
from infoprompt.data.batch import Batch
from infoprompt.data.tasks import Task
from infoprompt.model.backbone import Backbone
from infoprompt.model.critics import HEAD_CRITICS, BilinearRepresentationCritic, ProjectionsCritic
from infoprompt.model.encoding import Encoding, Latent
from infoprompt.model.head import GaussianLayer, LinearHead, VariationalHead, random_class_vectors
from infoprompt.model.insert import insert_prompt, pool
from infoprompt.model.prompts.instance import build_instance
from infoprompt.model.prompts.start import Vocabulary
from infoprompt.model.prompts.static import build_static

PROMPTS: dict[str, Callable[..., nn.Module]] = {"instance": build_instance, "static": build_static}


class PromptedModel(nn.Module):
    """Prompt, frozen backbone, head and critics; everything but the backbone is trained."""

    def __init__(
        self,
        backbone: Backbone,
        head: LinearHead | VariationalHead,
        pooling: str,
        *,
        prompt: nn.Module | None = None,
        gaussian: GaussianLayer | None = None,
        head_critic: nn.Module | None = None,
        representation_critic: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.prompt = prompt
        self.gaussian = gaussian
        self.head = head
        self.head_critic = head_critic
        self.representation_critic = representation_critic

    def forward(self, batch: Batch) -> Encoding:
        """One encoder pass: unprompted if `batch.plain`, prompted else; none at all where there is no prompt."""
        if batch.plain:
            return self._plain(batch)
        if self.prompt is None:
            assert batch.pooled_BD is not None
            latent = None if self.gaussian is None else self.gaussian(batch.pooled_BD)
            return Encoding(self._scores(batch.pooled_BD, latent, batch), batch.pooled_BD, latent=latent)
        prompt_BPE = self.prompt(batch)
        embeddings_BLE = self.backbone.embed(batch.input_ids_BL)
        states_BLD = self.backbone(insert_prompt(embeddings_BLE, prompt_BPE, batch.slot_BL), batch)
        pooled_BD = pool(states_BLD, batch, self.pooling)
        latent = None if self.gaussian is None else self.gaussian(pooled_BD)
        logits_BC = self._scores(pooled_BD, latent, batch)
        if not self.training:
            return Encoding(logits_BC, pooled_BD, prompt_BPE=prompt_BPE)
        direction_BZ, offset_B = (
            (None, None) if self.representation_critic is None else self.representation_critic(prompt_BPE)
        )
        has_unprompted = self.gaussian is not None and batch.pooled_BD is not None
        return Encoding(
            logits_BC,
            pooled_BD,
            prompt_BPE=prompt_BPE,
            token_embeddings_BLE=None if self.head_critic is None else embeddings_BLE,
            head_direction_E=None if self.head_critic is None else self.head_critic(self.head.class_vectors()),
            latent=latent,
            unprompted_latent=self.gaussian(batch.pooled_BD) if has_unprompted and self.gaussian else None,
            representation_direction_BZ=direction_BZ,
            representation_offset_B=offset_B,
        )

    def _plain(self, batch: Batch) -> Encoding:
        states_BLD = self.backbone(self.backbone.embed(batch.input_ids_BL), batch)
        pooled_BD = pool(states_BLD, batch, self.pooling)
        latent = None if self.gaussian is None else self.gaussian(pooled_BD)
        return Encoding(self._scores(pooled_BD, latent, batch), pooled_BD, first_BD=states_BLD[:, 0].float())

    def _scores(self, pooled_BD: Tensor, latent: Latent | None, batch: Batch) -> Tensor:
        if latent is None or isinstance(self.head, LinearHead):
            return self.head(pooled_BD, None)
        drawn_BZ = latent.mean_BZ
        if self.training and batch.gaussian_BN is not None:
            draws_BZ = batch.gaussian_BN[:, 1 : 1 + drawn_BZ.shape[1]]
            drawn_BZ = drawn_BZ + latent.log_std_BZ.exp() * draws_BZ
        return self.head(pooled_BD, drawn_BZ)


def build_model(config: RunConfig, backbone: Backbone, task: Task) -> PromptedModel:
    """Everything that is trained, started from `config.seed` alone, around the backbone.

    A linear head that starts from label names is left at zero here: its start takes an encoder pass over the label
    texts, see `setup.start_head`.

    Raises:
        ConfigError: two settings do not fit each other or this backbone.
    """
    table_VE = backbone.embedding_table()
    vocabulary = Vocabulary(table_VE, backbone.tokenizer, task.label_texts)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        objective, width = config.objective, backbone.embedding_size
        prompt = None
        if config.prompt.kind != "none":
            prompt = PROMPTS[config.prompt.kind](config.prompt, vocabulary, backbone.hidden_size, generator)
        head = _build_head(config, vocabulary, backbone.hidden_size, generator)
        gaussian = GaussianLayer(backbone.hidden_size, objective.latent_size) if config.has_latent else None
        head_critic = None
        if objective.head_weight > 0:
            head_critic = HEAD_CRITICS[objective.head_critic](width, head.class_vectors().shape[1])
        representation_critic: nn.Module | None = None
        if objective.representation_weight > 0 and objective.representation_critic == "bilinear":
            representation_critic = BilinearRepresentationCritic(width, objective.latent_size, vocabulary.scale)
        elif objective.representation_weight > 0:
            out = head.out if isinstance(head, VariationalHead) else None
            representation_critic = ProjectionsCritic(width, objective.latent_size, out)
    return PromptedModel(
        backbone,
        head,
        config.head.pooling,
        prompt=prompt,
        gaussian=gaussian,
        head_critic=head_critic,
        representation_critic=representation_critic,
    )


def _build_head(
    config: RunConfig, vocabulary: Vocabulary, hidden_size: int, generator: torch.Generator
) -> LinearHead | VariationalHead:
    num_classes = len(vocabulary.label_texts)
    if config.head.kind == "linear":
        head = LinearHead(hidden_size, num_classes)
        if config.head.init == "labels":
            nn.init.zeros_(head.linear.weight)
        return head
    if config.head.init == "labels":
        start_CE = torch.stack([vocabulary.mean_embedding(text) for text in vocabulary.label_texts])
    else:
        start_CE = random_class_vectors(num_classes, vocabulary.table_VE, generator)
    return VariationalHead(config.objective.latent_size, start_CE)
