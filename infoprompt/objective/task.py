"""The task's own loss.

Letters: B examples, C classes or choices, W words.
"""

from torch import Tensor
from torch.nn import functional as F

from infoprompt.data.batch import Batch


def task_loss(logits_BC: Tensor, batch: Batch) -> Tensor:
    """Loss of a micro-batch.

    Classes and choices: cross-entropy in nats, the mean over examples. Tags: the same, the mean over the words whose
    tag is known; each micro-batch and rank counts alike, so a word weighs a little more where fewer stand beside it.
    Regression: mean squared error of values scaled to [0, 1].

    Args:
        logits_BC: label scores, [B, C]; [B, W, C] for tags, [B, 1] for regression.
        batch: holds the targets; of multiple choice, B counts examples here and their choices in the batch.
    """
    scores = logits_BC.float()
    if batch.tag_BW is not None:
        known_BW = batch.tag_BW >= 0
        num_known = known_BW.sum().clamp(min=1)  # an update may have no known word; its loss is zero then
        return F.cross_entropy(scores[known_BW], batch.tag_BW[known_BW], reduction="sum") / num_known
    if batch.value_B is not None:
        return F.mse_loss(scores.squeeze(1), batch.value_B)
    return F.cross_entropy(scores, batch.label_B[:: batch.num_choices])
