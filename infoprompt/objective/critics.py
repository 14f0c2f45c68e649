"""Critics of the two mutual-information losses, each reduced to the one vector that scores candidates.

Shapes: B examples, C classes, E embedding width, P prompt vectors, W width of the class vectors, Z latent width.
"""

import torch
from torch import Tensor, nn

from infoprompt.config import ConfigError


class DotHeadCritic(nn.Module):
    """v . h_mean / sqrt(E). Source: InfoPrompt's released code."""

    def __init__(self, embedding_size: int, class_width: int) -> None:
        super().__init__()
        if embedding_size != class_width:
            raise ConfigError(
                f"objective.head_critic is dot, but class vectors are {class_width} wide and word embeddings "
                f"{embedding_size}. Use objective.head_critic=bilinear."
            )

    def forward(self, class_vectors_CW: Tensor) -> Tensor:
        """Scoring vector, [E]."""
        mean_E = class_vectors_CW.mean(0)
        return mean_E / mean_E.shape[0] ** 0.5


class BilinearHeadCritic(nn.Module):
    """v . (W1 h_mean), W1 learned, started as the scaled dot product where the widths agree.

    Source: InfoPrompt (arXiv:2306.04933), l(P, theta | X) = P^T W1 theta; the start is ours.
    """

    def __init__(self, embedding_size: int, class_width: int) -> None:
        super().__init__()
        self.matrix = nn.Linear(class_width, embedding_size, bias=False)
        with torch.no_grad():
            self.matrix.weight.copy_(torch.eye(embedding_size, class_width) / embedding_size**0.5)

    def forward(self, class_vectors_CW: Tensor) -> Tensor:
        """Scoring vector, [E]."""
        direction_E: Tensor = self.matrix(class_vectors_CW.mean(0))
        return direction_E


class BilinearRepresentationCritic(nn.Module):
    """z . (W2^T p_mean), W2 learned; the prompt is detached, so it is trained only through the prompted state.

    Source: InfoPrompt (arXiv:2306.04933), l(P, Z | X) = P^T W2 Z. The start is ours: a scoring vector of unit norm for
    prompts at the embeddings' scale.
    """

    def __init__(self, embedding_size: int, latent_size: int, embedding_scale: float) -> None:
        super().__init__()
        self.matrix = nn.Linear(embedding_size, latent_size, bias=False)
        nn.init.normal_(self.matrix.weight, std=(embedding_size * latent_size) ** -0.5 / embedding_scale)

    def forward(self, prompt_BPE: Tensor) -> tuple[Tensor, Tensor]:
        """Scoring vector of latents, [B, Z], and offset, [B]."""
        direction_BZ: Tensor = self.matrix(prompt_BPE.detach().mean(1))
        return direction_BZ, direction_BZ.new_zeros(len(direction_BZ))


class ProjectionsCritic(nn.Module):
    """O(z) . q / sqrt(E), q the mean over prompt vectors of A sg(P) + a. Source: InfoPrompt's released code.

    O is the classifier's where the head is variational, as released; else the critic's own.
    """

    def __init__(self, embedding_size: int, latent_size: int, out: nn.Linear | None) -> None:
        super().__init__()
        self.project = nn.Linear(embedding_size, embedding_size)
        self.out = nn.Linear(latent_size, embedding_size) if out is None else out

    def forward(self, prompt_BPE: Tensor) -> tuple[Tensor, Tensor]:
        """Scoring vector of latents, [B, Z], and offset, [B]."""
        # the mean of a linear map is the map of the mean
        context_BE = self.project(prompt_BPE.detach().mean(1)) / prompt_BPE.shape[-1] ** 0.5
        return context_BE @ self.out.weight, context_BE @ self.out.bias


HEAD_CRITICS: dict[str, type[DotHeadCritic] | type[BilinearHeadCritic]] = {
    "dot": DotHeadCritic,
    "bilinear": BilinearHeadCritic,
}
