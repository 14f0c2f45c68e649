"""One prompt for all examples.

Shapes: B examples, P prompt vectors, E embedding width.
"""

from torch import Tensor, nn

from infoprompt.data.batch import Batch
from infoprompt.model.prompts.kind import Prompt, PromptContext, PromptKind, PromptParts
from infoprompt.model.prompts.start import start_vectors
from infoprompt.peft.read import input_start
from infoprompt.settings.prompt import StaticSettings


class StaticPrompt(Prompt):
    """Trained vectors at the input layer. Source: Lester et al. 2021; WARP, Hambardzumyan et al. 2021."""

    def __init__(self, start_PE: Tensor) -> None:
        super().__init__()
        self.vectors_PE = nn.Parameter(start_PE.clone())

    def vectors(self) -> Tensor:
        """The vectors, [P, E]."""
        return self.vectors_PE

    def forward(self, batch: Batch) -> PromptParts:
        """The same vectors for every example (a view)."""
        return PromptParts(self.vectors().expand(len(batch), -1, -1))


def build(settings: StaticSettings, context: PromptContext) -> StaticPrompt:
    """Vectors with the start that the settings name, or those of a PEFT folder."""
    if settings.start_from is not None:
        return StaticPrompt(input_start(settings.start_from, settings.length, context.embedding_size))
    return StaticPrompt(start_vectors(settings, context.vocabulary, context.generator))


KIND = PromptKind(build)
