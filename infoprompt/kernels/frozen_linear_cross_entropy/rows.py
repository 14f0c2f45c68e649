"""From the words that are not the target to loss and gradient of each row: what all implementations share.

With y the target, l_v the (capped) logits, l'_v the derivative of the cap (1 without one), q the probability of all
words but the target:

    odds = log sum_{v != y} exp(l_v) - l_y,   loss = log(1 + exp(odds)),   q = 1 / (1 + exp(-odds))
    d loss / dh = O - q l'_y w_y,   O = sum_{v != y} p_v l'_v w_v

The target stands apart, so that a common offset is gone before anything is rounded, and no loss is negative. Where the
target is nearly certain, neither its loss nor its gradient is a difference of near-equal numbers.

Shapes: N rows, V vocabulary, D hidden width, G rows with a gradient (N, or 0 if none is wanted).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Others(NamedTuple):
    """Sums over the words that are not the row's target; float32 or wider."""

    max_N: Tensor
    """max_{v != y} l_v, or a very negative number where there is no other word."""
    sum_N: Tensor
    """sum_{v != y} exp(l_v - max): at least 1, or 0 where there is no other word."""
    weighted_ND: Tensor | None
    """sum_{v != y} exp(l_v - max) l'_v w_v; None unless the gradient is wanted."""


class RowStatistics(NamedTuple):
    """The loss of each row, and what its gradient is made of."""

    loss_N: Tensor
    others_GD: Tensor
    """O."""
    target_GD: Tensor
    """w_y, in the weight's dtype."""
    slope_G: Tensor
    """l'_y; 0 where the row has no target."""
    rest_G: Tensor
    """q."""


def row_statistics(
    others: Others,
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None,
    softcap: float | None,
) -> RowStatistics:
    """Statistics of rows whose other words are summed.

    Args:
        others: of these rows; used up, for `weighted_ND` becomes `others_GD`.
        hidden_ND, weight_VD, target_N, bias_V: as for the op; a target out of range has a probability of 0.
        softcap: as for the op.
    """
    index_N = target_N.clamp(0, len(weight_VD) - 1)
    target_ND, wide_ND = weight_VD[index_N], hidden_ND.to(others.sum_N.dtype)
    logit_N = (wide_ND * target_ND).sum(1)
    logit_N = logit_N if bias_V is None else logit_N + bias_V[index_N]
    slope_N = torch.ones_like(logit_N)
    if softcap is not None:
        tanh_N = (logit_N / softcap).tanh()
        logit_N, slope_N = softcap * tanh_N, 1 - tanh_N.square()
    in_range_N = index_N == target_N
    logit_N, slope_N = logit_N.where(in_range_N, -torch.inf), slope_N.where(in_range_N, 0.0)
    odds_N = others.max_N - logit_N + others.sum_N.log()
    loss_N = F.softplus(odds_N, threshold=40)
    if others.weighted_ND is None:
        none, no_rows = (torch.empty_like(tensor[:0]) for tensor in (odds_N, wide_ND))
        return RowStatistics(loss_N, no_rows, target_ND[:0], none, none.clone())
    rest_N = odds_N.sigmoid()
    others_ND = others.weighted_ND.mul_((rest_N / others.sum_N.clamp(min=1)).unsqueeze(1))
    return RowStatistics(loss_N, others_ND, target_ND, slope_N, rest_N)


def hidden_gradient(
    grad_loss_N: Tensor, others_ND: Tensor, target_ND: Tensor, slope_N: Tensor, rest_N: Tensor
) -> Tensor:
    """Gradient to the hidden states, [N, D] in the weight's dtype.

    Args:
        grad_loss_N: gradient to the loss.
        others_ND, target_ND, slope_N, rest_N: as in `RowStatistics`; not changed.
    """
    grad_ND = grad_loss_N.unsqueeze(1) * others_ND
    grad_ND.addcmul_((slope_N * (-rest_N * grad_loss_N)).unsqueeze(1), target_ND.to(grad_ND.dtype))
    return grad_ND.to(target_ND.dtype)
