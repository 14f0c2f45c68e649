"""What the scores of all pairs of queries and keys say of each row and column: the formulas in plain torch.

    S_ij = scale * q_i . k_j + row_bias_i + col_bias_j

These functions store S. Letters: N queries, M keys, D width.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class PairStats(NamedTuple):
    """What the estimators read of S, in nats, float32 or wider."""

    positive_N: Tensor
    """Score of each row's positive; -inf for a row without one."""
    row_lse_N: Tensor
    """log sum_j exp S_ij; -inf over nothing."""
    col_lse_M: Tensor
    """log sum_i exp S_ij; -inf over nothing."""

    def transposed(self) -> "PairStats":
        """Rows and columns exchanged; only where row i's positive is key i and M = N."""
        return PairStats(self.positive_N, self.col_lse_M, self.row_lse_N)


class PairSoftplus(NamedTuple):
    """What a discriminator of pairs is trained by, in nats, float32 or wider."""

    positive_N: Tensor
    """Score of each row's positive; -inf for a row without one."""
    row_sum_N: Tensor
    """sum_j softplus(S_ij) over the row's non-positives."""


def pair_scores(
    query_ND: Tensor,
    key_MD: Tensor,
    scale: Tensor | float = 1.0,
    row_bias_N: Tensor | None = None,
    col_bias_M: Tensor | None = None,
) -> Tensor:
    """S, [N, M], float32 or wider."""
    wide = torch.promote_types(torch.promote_types(query_ND.dtype, key_MD.dtype), torch.float32)
    score_NM = scale * (query_ND.to(wide) @ key_MD.to(wide).T)
    if row_bias_N is not None:
        score_NM = score_NM + row_bias_N.to(wide).unsqueeze(1)
    if col_bias_M is not None:
        score_NM = score_NM + col_bias_M.to(wide)
    return score_NM


def pair_stats_reference(
    score_NM: Tensor, positive_N: Tensor, exclude_positive: bool = False, clamp: float | None = None
) -> PairStats:
    """Statistics of a matrix of scores, as `pair_stats` defines them.

    Args:
        score_NM: S, [N, M], float32 or wider.
        positive_N: column of each row's positive, [N], int64; -1 for none.
        exclude_positive: whether the positives are left out of both log-sum-exps.
        clamp: limits the scores in the log-sum-exps to [-clamp, clamp]; masked pairs, of score -inf, stay so.
    """
    is_positive_NM = _is_positive(score_NM, positive_N)
    positive_score_N = _positive_scores(score_NM, positive_N)
    if clamp is not None:
        score_NM = score_NM.clamp(-clamp, clamp).masked_fill(score_NM == -torch.inf, -torch.inf)
    if exclude_positive:
        score_NM = score_NM.masked_fill(is_positive_NM, -torch.inf)
    return PairStats(positive_score_N, _log_sum_exp(score_NM, 1), _log_sum_exp(score_NM, 0))


def pair_softplus_reference(score_NM: Tensor, positive_N: Tensor) -> PairSoftplus:
    """Softplus sums of a matrix of scores, as `pair_softplus` defines them."""
    # softplus is x to the last bit above 40, in float64 too
    softplus_NM = F.softplus(score_NM, threshold=40).masked_fill(_is_positive(score_NM, positive_N), 0)
    return PairSoftplus(_positive_scores(score_NM, positive_N), softplus_NM.sum(1))


def _is_positive(score_NM: Tensor, positive_N: Tensor) -> Tensor:
    return positive_N.unsqueeze(1) == torch.arange(score_NM.shape[1], device=score_NM.device)


def _positive_scores(score_NM: Tensor, positive_N: Tensor) -> Tensor:
    score_N = score_NM.gather(1, positive_N.clamp(min=0).unsqueeze(1)).squeeze(1)
    return score_N.masked_fill((positive_N < 0) | (score_N == -torch.inf), -torch.inf)  # a masked one has no gradient


def _log_sum_exp(score_NM: Tensor, dim: int) -> Tensor:
    # over nothing it is -inf, whose gradient would be NaN; there it is set aside
    empty = (score_NM == -torch.inf).all(dim, keepdim=True)
    return score_NM.masked_fill(empty, 0).logsumexp(dim).masked_fill(empty.squeeze(dim), -torch.inf)
