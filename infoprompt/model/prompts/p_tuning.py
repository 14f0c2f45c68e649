"""P-tuning: a static prompt that is the output of a small recurrent or feed-forward network.

Shapes: P prompt vectors, E embedding width, R bottleneck width.
"""

from torch import Tensor, nn

from infoprompt.model.prompts.kind import PromptContext, PromptKind
from infoprompt.model.prompts.start import start_vectors
from infoprompt.model.prompts.static import StaticPrompt
from infoprompt.settings.prompt import PTuningSettings


class ReparameterizedPrompt(StaticPrompt):
    """s MLP(biLSTM(e)), or s MLP(e), of trained vectors e of unit scale.

    Source: P-tuning, Liu et al. 2021, with the backbone frozen. Departures: the output is in units of the word
    embeddings' spread s, and the start that `prompt.init` names is added to it.
    """

    def __init__(self, start_PE: Tensor, kind: str, hidden: int, scale: float) -> None:
        super().__init__(start_PE)
        length, width = start_PE.shape
        self.inputs_PE = nn.Parameter(nn.init.normal_(start_PE.new_empty(length, width)))
        self.lstm = None
        if kind == "lstm":
            self.lstm = nn.LSTM(width, hidden, num_layers=2, bidirectional=True, batch_first=True)
        read = 2 * hidden if self.lstm else width
        self.mlp = nn.Sequential(nn.Linear(read, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.scale = scale

    def vectors(self) -> Tensor:
        """The vectors, [P, E]."""
        read_PR = self.inputs_PE if self.lstm is None else self.lstm(self.inputs_PE[None])[0][0]
        return self.vectors_PE + self.scale * self.mlp(read_PR)


def build(settings: PTuningSettings, context: PromptContext) -> ReparameterizedPrompt:
    """A network of width `prompt.bottleneck`, as `prompt.reparameterization` names it."""
    start_PE = start_vectors(settings, context.vocabulary, context.generator)
    return ReparameterizedPrompt(start_PE, settings.reparameterization, settings.bottleneck, context.vocabulary.scale)


KIND = PromptKind(build)
