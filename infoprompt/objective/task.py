"""The task's own loss.

Shapes: B examples, C classes or choices, D hidden width, S words, M rows (examples, or their words below each other).
"""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from infoprompt.data.batch import Batch


def task_loss(logits_BC: Tensor, batch: Batch, weight_C: Tensor | None = None) -> Tensor:
    """Loss of a micro-batch.

    Classes and choices: cross-entropy in nats, the mean over examples. Tags: the same, the mean over the words whose
    tag is known; each micro-batch and rank counts alike, so a word weighs a little more where fewer stand beside it.
    Regression: mean squared error of values scaled to [0, 1].

    Args:
        logits_BC: label scores, [B, C]; [B, S, C] for tags, [B, 1] for regression.
        batch: holds the targets; of multiple choice, B counts examples here and their choices in the batch.
        weight_C: what the loss of an example (of tags, a word) of each class is multiplied by, before the mean; so the
            gradient does not depend on which examples share a micro-batch.
    """
    scores = logits_BC.float()
    if batch.tag_BS is not None:
        known_BS = batch.tag_BS >= 0
        num_known = known_BS.sum().clamp(min=1)  # an update may have no known word; its loss is zero then
        return _cross_entropy(scores[known_BS], batch.tag_BS[known_BS], weight_C, "sum") / num_known
    if batch.value_B is not None:
        return F.mse_loss(scores.squeeze(1), batch.value_B)
    return _cross_entropy(scores, batch.label_B[:: batch.num_choices], weight_C, "mean")


def contrastive_loss(pooled_BD: Tensor, batch: Batch) -> Tensor:
    """Mean squared error of the cosine of each pair's pooled states against 1 for one class, 0 for two.

    Args:
        pooled_BD: pooled states, [B, D]; rows 2 i and 2 i + 1 are a pair.
        batch: holds the classes.

    Source: Tunstall et al. 2022, arXiv:2209.11055; the cosine loss of Reimers and Gurevych 2019, arXiv:1908.10084.
    """
    cosine = F.cosine_similarity(pooled_BD[::2], pooled_BD[1::2])
    return F.mse_loss(cosine, (batch.label_B[::2] == batch.label_B[1::2]).to(cosine.dtype))


def example_losses(logits_BC: Tensor, batch: Batch) -> list[float]:
    """`task_loss` of each example alone, without weights; the batch may be on another device."""
    scores = logits_BC.float()
    if batch.tag_BS is not None:
        tag_BS = batch.tag_BS.to(scores.device)
        loss_BS = F.cross_entropy(scores.transpose(1, 2), tag_BS, ignore_index=-1, reduction="none")
        losses_B = loss_BS.sum(1) / (tag_BS >= 0).sum(1).clamp(min=1)
    elif batch.value_B is not None:
        losses_B = (scores.squeeze(1) - batch.value_B.to(scores.device)).square()
    else:
        label_B = batch.label_B[:: batch.num_choices].to(scores.device)
        losses_B = F.cross_entropy(scores, label_B, ignore_index=-1, reduction="none")
    values: list[float] = losses_B.tolist()
    return values


def _cross_entropy(
    scores_MC: Tensor, target_M: Tensor, weight_C: Tensor | None, reduction: Literal["mean", "sum"]
) -> Tensor:
    if weight_C is None:
        return F.cross_entropy(scores_MC, target_M, reduction=reduction)
    # torch's own weights would divide by the sum of the batch's
    weighed_M = F.cross_entropy(scores_MC, target_M, reduction="none") * weight_C.to(scores_MC.device)[target_M]
    return weighed_M.mean() if reduction == "mean" else weighed_M.sum()
