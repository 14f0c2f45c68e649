"""A prompt made from the example itself.

Letters: B examples, P prompt vectors, E embedding width, D hidden width, H bottleneck width, N probe rows.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprompt.config import PromptSettings
from infoprompt.data.batch import Batch
from infoprompt.model.prompts.start import Vocabulary, start_vectors
from infoprompt.model.prompts.static import StaticPrompt


class InstancePrompt(nn.Module):
    """Linear D -> H, GELU, Linear H -> P * E on the first-token state of the unprompted pass.

    Source: InfoPrompt's released code (arXiv:2306.04933), after IDPG (Wu et al. 2022). Two departures: the state is
    normalised to unit variance first, and the output is in units of the word embeddings' spread: it starts at that
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
    ) -> None:
        super().__init__()
        self.down = nn.Linear(hidden_size, bottleneck)
        self.up = nn.Linear(bottleneck, num_vectors * width)
        self.base = base
        self.shape_PE = (num_vectors, width)
        self.scale = scale

    def forward(self, batch: Batch) -> Tensor:
        """Prompt vectors, [B, P, E], from the batch's unprompted first-token states, [B, D]."""
        assert batch.first_BD is not None
        state_BD = F.layer_norm(batch.first_BD, batch.first_BD.shape[-1:])
        made_BPE = self.scale * self.up(F.gelu(self.down(state_BD))).unflatten(1, self.shape_PE)
        return made_BPE if self.base is None else made_BPE + self.base(batch)

    @torch.no_grad()
    def start(self, spread: float, generator: torch.Generator) -> None:
        """Draw weights such that the output's standard deviation is `spread * scale`."""
        for layer in (self.down, self.up):
            layer.bias.zero_()
            draws = torch.randn(layer.weight.shape, generator=generator)
            layer.weight.copy_(draws / layer.in_features**0.5)
        probe_NH = F.gelu(self.down(torch.randn(256, self.down.in_features, generator=generator)))
        self.up.weight.mul_(spread / self.up(probe_NH).std())


def build_instance(
    settings: PromptSettings, vocabulary: Vocabulary, hidden_size: int, generator: torch.Generator
) -> InstancePrompt:
    """A generator, added to static vectors if the settings say so."""
    base = StaticPrompt(start_vectors(settings, vocabulary, generator)) if settings.static_base else None
    width = vocabulary.table_VE.shape[1]
    prompt = InstancePrompt(hidden_size, settings.bottleneck, settings.length, width, vocabulary.scale, base)
    prompt.start(0.1 if settings.static_base else 1.0, generator)
    return prompt
