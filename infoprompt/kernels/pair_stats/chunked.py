"""Statistics of all pairs in plain torch, a panel of rows at a time, so that S is never whole.

Forward: the panel's rows are complete, so their log-sum-exp is; a column's maximum and sum of exp go on from panel to
panel. Backward: the panel is made again. With g the upstream gradients, away from the positives

    d row_lse_i / d S_ij = exp(S_ij - row_lse_i),   d col_lse_j / d S_ij = exp(S_ij - col_lse_j)
    weight_ij = g_row_i exp(S_ij - row_lse_i) + g_col_j exp(S_ij - col_lse_j)

and for the sum of softplus it is g_i sigmoid(S_ij). Letters: N queries, M keys, D width, R rows of a panel.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from infoprompt.kernels.pair_stats.gradients import Needs, of_inputs, panels
from infoprompt.kernels.pair_stats.pairs import Pairs
from infoprompt.kernels.pair_stats.reference import PairSoftplus, PairStats

# What suits a core's cache: with more rows it is read from memory, with fewer the threads wait for each other.
THREAD_BYTES = 4 << 20
GPU_BYTES = 256 << 20
MIN_PANEL_ROWS = 64


def pair_stats(pairs: Pairs, exclude_positive: bool, clamp: float | None) -> PairStats:
    """Statistics of each row and column, as `reference.pair_stats_reference`."""
    positive_N, row_lse_N = _two_of_rows(pairs)
    col_max_M = pairs.key_MD.new_full((len(pairs.key_MD),), -torch.inf, dtype=pairs.wide)
    col_sum_M = torch.zeros_like(col_max_M)
    for rows, score_RM in _score_panels(pairs):
        positive_N[rows] = _take_positives(score_RM, pairs.positive_N[rows], exclude_positive)
        if clamp is not None:
            masked_RM = score_RM == -torch.inf
            score_RM.clamp_(-clamp, clamp).masked_fill_(masked_RM, -torch.inf)
        row_lse_N[rows] = score_RM.logsumexp(1)
        max_M = torch.maximum(col_max_M, score_RM.amax(0))
        offset_M = max_M.masked_fill(max_M == -torch.inf, 0)  # -inf - -inf is no number
        col_sum_M = col_sum_M * (col_max_M - offset_M).exp() + score_RM.sub_(offset_M).exp_().sum(0)
        col_max_M = max_M
    return PairStats(positive_N, row_lse_N, col_max_M + col_sum_M.log())


def pair_stats_backward(
    pairs: Pairs,
    stats: PairStats,
    grad_row_N: Tensor | None,
    grad_col_M: Tensor | None,
    coefficient_N: Tensor,
    needs: Needs,
) -> list[Tensor]:
    """Gradients of the inputs asked for; see `gradients.of_inputs` for the coefficient."""
    row_lse_N, col_lse_M = (lse.masked_fill(lse == -torch.inf, torch.inf) for lse in stats[1:])  # no share of nothing

    def weights(rows: slice, score_RM: Tensor) -> Tensor:
        by_row_RM = None
        if grad_row_N is not None:
            by_row_RM = torch.sub(score_RM, row_lse_N[rows, None]).exp_().mul_(grad_row_N[rows, None])
        if grad_col_M is None:
            return score_RM.zero_() if by_row_RM is None else by_row_RM
        by_col_RM = score_RM.sub_(col_lse_M).exp_().mul_(grad_col_M)
        return by_col_RM if by_row_RM is None else by_col_RM.add_(by_row_RM)

    return _backward(pairs, weights, coefficient_N, needs)


def pair_softplus(pairs: Pairs) -> PairSoftplus:
    """Sum of softplus of each row, as `reference.pair_softplus_reference`."""
    positive_N, row_sum_N = _two_of_rows(pairs)
    for rows, score_RM in _score_panels(pairs):
        positive_N[rows] = _take_positives(score_RM, pairs.positive_N[rows], exclude=True)
        row_sum_N[rows] = F.softplus(score_RM, threshold=40).sum(1)
    return PairSoftplus(positive_N, row_sum_N)


def pair_softplus_backward(pairs: Pairs, grad_sum_N: Tensor, coefficient_N: Tensor, needs: Needs) -> list[Tensor]:
    """Gradients of the inputs asked for."""

    def weights(rows: slice, score_RM: Tensor) -> Tensor:
        return score_RM.sigmoid_().mul_(grad_sum_N[rows, None])

    return _backward(pairs, weights, coefficient_N, needs)


def _backward(
    pairs: Pairs, weights: Callable[[slice, Tensor], Tensor], coefficient_N: Tensor, needs: Needs
) -> list[Tensor]:
    pairs = _widened(pairs)

    def weights_of(rows: slice) -> Tensor:
        score_RM = _scores(pairs, rows)
        _take_positives(score_RM, pairs.positive_N[rows], exclude=True)
        return weights(rows, score_RM)

    return of_inputs(pairs, weights_of, coefficient_N, _panel_rows(pairs), needs)


def _score_panels(pairs: Pairs) -> Iterator[tuple[slice, Tensor]]:
    pairs = _widened(pairs)
    for rows in panels(len(pairs.query_ND), _panel_rows(pairs)):
        yield rows, _scores(pairs, rows)


def _scores(pairs: Pairs, rows: slice) -> Tensor:
    query_RD, row_bias_N = pairs.query_ND[rows] * pairs.scale, pairs.row_bias_N
    if pairs.col_bias_M is None:
        score_RM = query_RD @ pairs.key_MD.T
    else:
        score_RM = torch.addmm(pairs.col_bias_M, query_RD, pairs.key_MD.T)
    return score_RM if row_bias_N is None else score_RM.add_(row_bias_N[rows, None])


def _take_positives(score_RM: Tensor, positive_R: Tensor, exclude: bool) -> Tensor:
    """The positives' scores, [R], -inf for none; where they are excluded, the panel has -inf in their place."""
    column_R1, none_R1 = positive_R.clamp(min=0).unsqueeze(1), (positive_R < 0).unsqueeze(1)
    found_R1 = score_RM.gather(1, column_R1)
    if exclude:
        score_RM.scatter_(1, column_R1, found_R1.where(none_R1, -torch.inf))
    return found_R1.masked_fill(none_R1, -torch.inf).squeeze(1)


def _two_of_rows(pairs: Pairs) -> list[Tensor]:
    return [pairs.query_ND.new_empty(len(pairs.query_ND), dtype=pairs.wide) for _ in range(2)]


def _widened(pairs: Pairs) -> Pairs:
    # products of low precision in the dtype of sums: torch on a CPU would round each score to that of its factors
    return pairs._replace(query_ND=pairs.query_ND.to(pairs.wide), key_MD=pairs.key_MD.to(pairs.wide))


def _panel_rows(pairs: Pairs) -> int:
    panel_bytes = GPU_BYTES if pairs.key_MD.is_cuda else THREAD_BYTES * torch.get_num_threads()
    return max(MIN_PANEL_ROWS, panel_bytes // (len(pairs.key_MD) * pairs.wide.itemsize))
