"""What the scores of all pairs of queries and keys say of each row: the formulas in plain torch.

    S_ij = q_i . k_j + row_bias_i

The function stores S. Shapes: N rows (queries), M keys, D hidden width.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class PairStats(NamedTuple):
    """What the estimators read of S, in nats, float32 or wider."""

    positive_N: Tensor
    """Score of each row's positive."""
    row_lse_N: Tensor
    """log sum_j exp S_ij over the row's other keys."""


def pair_stats_reference(query_ND: Tensor, key_MD: Tensor, row_bias_N: Tensor, first_positive: int = 0) -> PairStats:
    """Statistics of the scores of all pairs.

    Args:
        query_ND, key_MD: [N, D] and [M, D], any float dtype.
        row_bias_N: in nats, [N].
        first_positive: key of the first row's positive; row i's is i keys further.
    """
    wide = torch.promote_types(torch.promote_types(query_ND.dtype, key_MD.dtype), torch.float32)
    score_NM = query_ND.to(wide) @ key_MD.to(wide).T + row_bias_N.to(wide).unsqueeze(1)
    column_N = first_positive + torch.arange(len(query_ND), device=query_ND.device)
    is_positive_NM = column_N.unsqueeze(1) == torch.arange(len(key_MD), device=query_ND.device)
    others_NM = score_NM.masked_fill(is_positive_NM, -torch.inf)
    return PairStats(score_NM.gather(1, column_N.unsqueeze(1)).squeeze(1), others_NM.logsumexp(1))
