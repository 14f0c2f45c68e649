"""Statistics of all pairs in plain torch, a panel of rows at a time, so that S is never whole.

Backward, the panel is made again; the gradient is derived in `gradients`.
Shapes: N rows (queries), M keys, D hidden width, R rows of a panel.
"""

import torch
from torch import Tensor

from infoprompt.kernels.pair_stats.gradients import of_inputs, panels

# What suits a core's cache: with more rows it is read from memory, with fewer the threads wait for each other.
THREAD_BYTES = 4 << 20
GPU_BYTES = 256 << 20
MIN_PANEL_ROWS = 64


def pair_stats(query_ND: Tensor, key_MD: Tensor, row_bias_N: Tensor, first_positive: int) -> tuple[Tensor, Tensor]:
    """Statistics of each row, as `reference.pair_stats_reference`; the bias is in the dtype of sums."""
    positive_N, row_lse_N = torch.empty_like(row_bias_N), torch.empty_like(row_bias_N)
    query_ND, key_MD = _widened(query_ND, key_MD, row_bias_N)
    for rows in panels(len(query_ND), _panel_rows(key_MD)):
        positive_N[rows], score_RM = _scores(query_ND, key_MD, row_bias_N, first_positive, rows)
        row_lse_N[rows] = score_RM.logsumexp(1)
    return positive_N, row_lse_N


def pair_stats_backward(
    query_ND: Tensor,
    key_MD: Tensor,
    row_bias_N: Tensor,
    first_positive: int,
    row_lse_N: Tensor,
    coefficient_N: Tensor,
    grad_row_N: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and biases; see `gradients.of_inputs` for the coefficient."""
    query_ND, key_MD = _widened(query_ND, key_MD, row_bias_N)

    def weights(rows: slice) -> Tensor:
        _, score_RM = _scores(query_ND, key_MD, row_bias_N, first_positive, rows)
        return score_RM.sub_(row_lse_N[rows, None]).exp_().mul_(grad_row_N[rows, None])

    return of_inputs(query_ND, key_MD, first_positive, weights, coefficient_N, _panel_rows(key_MD))


def _scores(
    query_ND: Tensor, key_MD: Tensor, row_bias_N: Tensor, first_positive: int, rows: slice
) -> tuple[Tensor, Tensor]:
    """The positives' scores, [R], and the panel, [R, M], with -inf in their place."""
    score_RM = (query_ND[rows] @ key_MD.T).add_(row_bias_N[rows, None])
    at_positives_R = score_RM.diagonal(first_positive + rows.start)
    positive_R = at_positives_R.clone()
    at_positives_R.fill_(-torch.inf)
    return positive_R, score_RM


def _widened(query_ND: Tensor, key_MD: Tensor, row_bias_N: Tensor) -> tuple[Tensor, Tensor]:
    # products of low precision in the dtype of sums: torch on a CPU would round each score to that of its factors
    return query_ND.to(row_bias_N.dtype), key_MD.to(row_bias_N.dtype)


def _panel_rows(key_MD: Tensor) -> int:
    panel_bytes = GPU_BYTES if key_MD.is_cuda else THREAD_BYTES * torch.get_num_threads()
    return max(MIN_PANEL_ROWS, panel_bytes // (len(key_MD) * key_MD.element_size()))
