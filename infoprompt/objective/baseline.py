"""The baseline that some estimators of mutual information learn.

Shapes: B examples, W width of what it sees.
"""

import torch
from torch import Tensor, nn


class Baseline(nn.Module):
    """Learned baseline of an estimator: linear in what it sees, detached, and zero at the start.

    What it sees is detached because at its optimum the bound does not change with it: it makes the bound tight, and
    steers nothing else.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        # made without a draw, so that a run with a baseline starts from the same values as one without
        self.weight_W = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(1))  # not a scalar: DeepSpeed cannot send one to other ranks

    def forward(self, *seen_BW: Tensor) -> Tensor:
        """Baseline of each example in nats, [B], from vectors whose widths add up to the baseline's."""
        return torch.cat(seen_BW, dim=1).detach() @ self.weight_W + self.bias
