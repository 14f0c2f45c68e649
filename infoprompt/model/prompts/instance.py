"""A prompt made from the example itself.

Shapes: B examples, P prompt vectors, E embedding width, D hidden width, R bottleneck width, M rows to probe with.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprompt.data.batch import Batch
from infoprompt.model.prompts.kind import Prompt, PromptContext, PromptKind, PromptParts
from infoprompt.model.prompts.start import start_vectors
from infoprompt.model.prompts.static import StaticPrompt
from infoprompt.settings.prompt import InstanceSettings


class InstancePrompt(Prompt):
    """Linear D -> R, GELU, Linear R -> P * E on the state that stands for the text in the unprompted pass.

    Source: InfoPrompt's released code (arXiv:2306.04933), after IDPG (Wu et al. 2022). Two departures: the state is
    normalised to unit variance first, and the output is in units of the word embeddings' spread. It starts at that
    scale (a tenth of it where it is added to static vectors), and an update moves it about as far as one moves a static
    vector. With PyTorch's default start and no such scale it leaves the embeddings' range within a few updates, and
    does worse than a static prompt.
    """

    def __init__(
        self,
        hidden_size: int,
        bottleneck: int,
        num_vectors: int,
        width: int,
        scale: float,
        base: StaticPrompt | None = None,
        constant: bool = False,
    ) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, bottleneck)
        self.up = nn.Linear(bottleneck, num_vectors * width)
        self.base = base
        self.shape_PE = (num_vectors, width)
        self.scale = scale
        self.constant_D: Tensor | None
        drawn_D = torch.randn(hidden_size, generator=torch.Generator().manual_seed(0)) if constant else None
        self.register_buffer("constant_D", drawn_D, persistent=False)

    def forward(self, batch: Batch) -> PromptParts:
        """Prompt vectors from the batch's unprompted states, [B, D]."""
        assert batch.summary_BD is not None
        state_BD = batch.summary_BD if self.constant_D is None else self.constant_D.expand(len(batch), -1)
        state_BD = F.layer_norm(state_BD, state_BD.shape[-1:])
        made_BPE = self.scale * self.up(F.gelu(self.down(state_BD))).unflatten(1, self.shape_PE)
        return PromptParts(made_BPE if self.base is None else made_BPE + self.base.vectors())

    @torch.no_grad()
    def start(self, spread: float, generator: torch.Generator) -> None:
        """Draw weights such that the output's standard deviation is `spread * scale`."""
        start_generator(self.down, self.up, spread, generator)


@torch.no_grad()
def start_generator(down: nn.Linear, up: nn.Linear, spread: float, generator: torch.Generator) -> None:
    """Draw both layers such that up(gelu(down(x))) of normal x has the standard deviation `spread`; biases are zero."""
    for layer in (down, up):
        layer.bias.zero_()
        draws = torch.randn(layer.weight.shape, generator=generator)
        layer.weight.copy_(draws / layer.in_features**0.5)
    probe_MR = F.gelu(down(torch.randn(256, down.in_features, generator=generator)))
    up.weight.mul_(spread / up(probe_MR).std())


def build(settings: InstanceSettings, context: PromptContext) -> InstancePrompt:
    """A generator, added to static vectors if the settings say so."""
    base = None
    if settings.static_base:
        base = StaticPrompt(start_vectors(settings, context.vocabulary, context.generator))
    prompt = InstancePrompt(
        context.hidden_size,
        settings.bottleneck,
        settings.length,
        context.embedding_size,
        context.vocabulary.scale,
        base,
        constant=settings.source == "constant",
    )
    prompt.start(0.1 if settings.static_base else 1.0, context.generator)
    return prompt


KIND = PromptKind(build, reads_unprompted=True)
