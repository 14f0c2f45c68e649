"""From the words that are not the target to loss and gradient of each row: what all implementations share.

With y the target, l_v the (capped) logits, l'_v the derivative of the cap (1 without one), q the probability of all
words but the target:

    odds = log sum_{v != y} exp(l_v) - l_y,   loss = log(1 + exp(odds)),   q = 1 / (1 + exp(-odds))
    d loss / dh = O - q l'_y w_y,   d lse / dh = O + (1 - q) l'_y w_y,   O = sum_{v != y} p_v l'_v w_v

The target stands apart, so that a common offset is gone before anything is rounded, no loss is negative, and where
the target is nearly certain neither its loss nor its gradient is a difference of near-equal numbers.

Shapes: N rows, V words, D hidden width, G rows with a gradient (N, or 0 if none is wanted), M mean rows.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Others(NamedTuple):
    """Sums over the words that are not the row's target, and means over all words; float32 or wider."""

    max_N: Tensor
    """max_{v != y} l_v, or a very negative number where there is no other word."""
    sum_N: Tensor
    """sum_{v != y} exp(l_v - max): at least 1, or 0 where there is no other word."""
    weighted_ND: Tensor | None
    """sum_{v != y} exp(l_v - max) l'_v w_v; None unless the gradient is wanted."""
    mean_N: Tensor | None = None
    """Mean capped logit; None unless asked for."""
    mean_ND: Tensor | None = None
    """Its gradient; without rows unless that is wanted."""


class RowStatistics(NamedTuple):
    """Three statistics of each row, and what their gradients are made of."""

    loss_N: Tensor
    """lse - l_y."""
    lse_N: Tensor
    """log sum_v exp(l_v)."""
    gap_N: Tensor
    """l_y - mean_v l_v; empty if not asked for."""
    others_GD: Tensor
    """O."""
    target_GD: Tensor
    """w_y, in the weight's dtype."""
    slope_G: Tensor
    """l'_y; 0 where the row has no target."""
    rest_G: Tensor
    """q."""
    mean_MD: Tensor
    """mean_v l'_v w_v; without a cap one row is all rows'."""


def row_statistics(
    others: Others,
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None,
    ignore_index: int,
    softcap: float | None,
    with_gap: bool,
) -> RowStatistics:
    """Statistics of rows whose other words are summed; all but w_y are 0 for an ignored row.

    Args:
        others: of these rows; used up, for `weighted_ND` becomes `others_GD`.
        hidden_ND, weight_VD, target_N, bias_V: as for the op; a target out of range has a probability of 0.
        ignore_index, softcap: as for the op.
        with_gap: whether `gap_N` is wanted.
    """
    kept_N, index_N = target_N != ignore_index, target_N.clamp(0, len(weight_VD) - 1)
    target_ND, wide_ND = weight_VD[index_N], hidden_ND.to(others.sum_N.dtype)
    logit_N = (wide_ND * target_ND).sum(1)
    logit_N = logit_N if bias_V is None else logit_N + bias_V[index_N]
    slope_N = torch.ones_like(logit_N)
    if softcap is not None:
        tanh_N = (logit_N / softcap).tanh()
        logit_N, slope_N = softcap * tanh_N, 1 - tanh_N.square()
    gap_N, mean_MD = wide_ND.new_empty(0), wide_ND.new_empty(0, wide_ND.shape[1])
    if with_gap:
        gap_N, mean_MD = _gap(others, logit_N, wide_ND, target_ND, weight_VD, bias_V, index_N)
        gap_N = gap_N.where(kept_N, 0.0)
    has_target_N = kept_N & (index_N == target_N)
    logit_N, slope_N = logit_N.where(has_target_N, -torch.inf), slope_N.where(has_target_N, 0.0)
    log_sum_N = others.sum_N.log()
    odds_N = others.max_N - logit_N + log_sum_N
    loss_N = F.softplus(odds_N, threshold=40).where(kept_N, 0.0)
    lse_N = torch.logaddexp(others.max_N + log_sum_N, logit_N).where(kept_N, 0.0)
    if others.weighted_ND is None:
        none, no_rows = (torch.empty_like(tensor[:0]) for tensor in (odds_N, wide_ND))
        return RowStatistics(loss_N, lse_N, gap_N, no_rows, target_ND[:0], none, none.clone(), mean_MD)
    rest_N = odds_N.sigmoid().where(kept_N, 0.0)
    others_ND = others.weighted_ND.mul_((rest_N / others.sum_N.clamp(min=1)).unsqueeze(1))
    others_ND.masked_fill_(~kept_N.unsqueeze(1), 0.0)
    return RowStatistics(loss_N, lse_N, gap_N, others_ND, target_ND, slope_N, rest_N, mean_MD)


def _gap(
    others: Others,
    logit_N: Tensor,
    hidden_ND: Tensor,
    target_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    index_N: Tensor,
) -> tuple[Tensor, Tensor]:
    if others.mean_N is not None:
        assert others.mean_ND is not None
        return logit_N - others.mean_N, others.mean_ND
    mean_1D = weight_VD.mean(0, keepdim=True, dtype=hidden_ND.dtype)
    gap_N = (hidden_ND * (target_ND - mean_1D)).sum(1)
    if bias_V is not None:
        # in float64, for a common offset is to leave no trace
        gap_N += bias_V[index_N].double() - bias_V.mean(dtype=torch.float64)
    return gap_N, mean_1D


def hidden_gradient(
    grad_loss_N: Tensor,
    grad_lse_N: Tensor,
    grad_gap_N: Tensor | None,
    others_ND: Tensor,
    target_ND: Tensor,
    slope_N: Tensor,
    rest_N: Tensor,
    mean_MD: Tensor,
) -> Tensor:
    """Gradient to the hidden states, [N, D] in the weight's dtype.

    Args:
        grad_loss_N, grad_lse_N, grad_gap_N: gradients to the three statistics; None if there is no gap.
        others_ND, target_ND, slope_N, rest_N, mean_MD: as in `RowStatistics`; not changed.
    """
    on_target_N = (1 - rest_N) * grad_lse_N - rest_N * grad_loss_N
    if grad_gap_N is not None:
        on_target_N += grad_gap_N
    grad_ND = (grad_loss_N + grad_lse_N).unsqueeze(1) * others_ND
    grad_ND.addcmul_((slope_N * on_target_N).unsqueeze(1), target_ND.to(grad_ND.dtype))
    if grad_gap_N is not None:
        grad_ND.addcmul_(grad_gap_N.unsqueeze(1), mean_MD, value=-1)
    return grad_ND.to(target_ND.dtype)
