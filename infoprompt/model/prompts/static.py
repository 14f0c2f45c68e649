"""One prompt for all examples.

Letters: B examples, P prompt vectors, E embedding width.
"""

import torch
from torch import Tensor, nn

from infoprompt.config import PromptSettings
from infoprompt.data.batch import Batch
from infoprompt.model.prompts.start import Vocabulary, start_vectors


class StaticPrompt(nn.Module):
    """Trained vectors at the input layer. Source: Lester et al. 2021; WARP, Hambardzumyan et al. 2021."""

    def __init__(self, start_PE: Tensor) -> None:
        super().__init__()
        self.vectors_PE = nn.Parameter(start_PE.clone())

    def forward(self, batch: Batch) -> Tensor:
        """Prompt vectors, [B, P, E]: the same for every example (a view)."""
        return self.vectors_PE.expand(len(batch), -1, -1)


def build_static(
    settings: PromptSettings, vocabulary: Vocabulary, hidden_size: int, generator: torch.Generator
) -> StaticPrompt:
    """A static prompt with the start that the settings name."""
    return StaticPrompt(start_vectors(settings, vocabulary, generator))
