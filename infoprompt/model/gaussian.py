"""The Gaussian latent of a state.

Shapes: B examples, D hidden width, Z latent width.
"""

from torch import Tensor, nn

from infoprompt.objective.encoding import Latent


class GaussianLayer(nn.Module):
    """A state's Gaussian latent: two linear layers, log standard deviation clipped to [-2, 10].

    Source: InfoPrompt's released code (arXiv:2306.04933).
    """

    def __init__(self, hidden_size: int, latent_size: int) -> None:
        super().__init__()
        self.mean = nn.Linear(hidden_size, latent_size)
        self.log_std = nn.Linear(hidden_size, latent_size)

    def forward(self, state_BD: Tensor) -> Latent:
        """The latent of pooled states, [B, D]."""
        return Latent(self.mean(state_BD), self.log_std(state_BD).clamp(-2, 10))
