"""The task's own loss."""

from torch import Tensor
from torch.nn import functional as F


def task_loss(logits_BC: Tensor, label_B: Tensor) -> Tensor:
    """Cross-entropy in nats, the mean over examples.

    Args:
        logits_BC: label scores, [B, C].
        label_B: class indices, [B].
    """
    return F.cross_entropy(logits_BC.float(), label_B)
