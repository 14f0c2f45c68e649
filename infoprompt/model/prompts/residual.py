"""Residual prompt tuning: a static prompt through a shared network with a skip connection.

Shapes: P prompt vectors, E embedding width, R bottleneck width.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from infoprompt.model.prompts.kind import PromptContext, PromptKind
from infoprompt.model.prompts.start import start_vectors
from infoprompt.model.prompts.static import StaticPrompt
from infoprompt.settings.prompt import ResidualSettings


class ResidualPrompt(StaticPrompt):
    """P + s LN(W_up ReLU(W_down P)), the network shared by all vectors.

    Source: Razdaibiedina et al. 2023. Departure: the normalised output has unit entries, some twenty times the size of
    most models' word embeddings, so it is scaled by their spread s.
    """

    def __init__(self, start_PE: Tensor, bottleneck: int, scale: float) -> None:
        super().__init__(start_PE)
        width = start_PE.shape[1]
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        self.norm = nn.LayerNorm(width)
        self.scale = scale

    def vectors(self) -> Tensor:
        """The vectors, [P, E]."""
        return self.vectors_PE + self.scale * self.norm(self.up(F.relu(self.down(self.vectors_PE / self.scale))))


def build(settings: ResidualSettings, context: PromptContext) -> ResidualPrompt:
    """A network of width `prompt.bottleneck` around vectors with the start that the settings name."""
    start_PE = start_vectors(settings, context.vocabulary, context.generator)
    return ResidualPrompt(start_PE, settings.bottleneck, context.vocabulary.scale)


KIND = PromptKind(build)
