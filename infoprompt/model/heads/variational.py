"""Class vectors on a Gaussian latent of the pooled state: the published head.

Shapes: B examples, C classes, E embedding width, Z latent width.
"""

import torch
from torch import Tensor, nn

from infoprompt.config import RunConfig
from infoprompt.model.gaussian import GaussianLayer
from infoprompt.model.heads.kind import Head, HeadContext, HeadKind, Reading


class VariationalHead(Head):
    """Scores O(z) . h_c of a latent z, without bias. Source: InfoPrompt's released code (arXiv:2306.04933)."""

    def __init__(self, latent_size: int, start_CE: Tensor) -> None:
        super().__init__()
        self.out = nn.Linear(latent_size, start_CE.shape[1])
        self.vectors_CE = nn.Parameter(start_CE.clone())

    def forward(self, reading: Reading) -> Tensor:
        """See `Head`; of the latent's mean, in training of a draw from it."""
        latent, noise = reading.latent, reading.batch.noise
        assert latent is not None
        latent_BZ = latent.mean_BZ
        if self.training and noise is not None and noise.latent_BZ is not None:
            latent_BZ = latent_BZ + latent.log_std_BZ.exp() * noise.latent_BZ
        scores_BC: Tensor = self.out(latent_BZ) @ self.vectors_CE.T
        return scores_BC

    def class_vectors(self) -> Tensor:
        """See `Head`; [C, E]."""
        return self.vectors_CE

    def latent_map(self) -> nn.Linear:
        """See `Head`."""
        return self.out

    def linear_form(self, gaussian: GaussianLayer | None) -> tuple[Tensor, Tensor]:
        """See `Head`; of the latent's mean it is h_c . (O (M s + m) + o) for the state s."""
        assert gaussian is not None
        mean, out = gaussian.mean, self.out
        weight_CD = self.vectors_CE @ out.weight @ mean.weight
        return weight_CD, self.vectors_CE @ (out.weight @ mean.bias + out.bias)


def _build(config: RunConfig, context: HeadContext) -> VariationalHead:
    vocabulary = context.vocabulary
    if config.head.from_labels:
        start_CE = torch.stack([vocabulary.mean_embedding(text) for text in vocabulary.label_texts])
    else:
        start_CE = vocabulary.random_embeddings(context.task.num_classes, context.generator)
    return VariationalHead(config.objective.latent_size, start_CE)


KIND = HeadKind(_build, latent=True)
