"""The statistics of the losses in torch, a part of the rows at a time: what runs on a CPU.

What is made on the way takes about `PART_BYTES`, or one row. The gradients are derived in `triton_kernels`.
Shapes: B rows, K negatives, L tokens, V vocabulary, E embedding width, R rows of a part, N columns of a part.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from infoprompt.kernels.row_info_nce.philox import gaussian_draws

PART_BYTES = 2**20
"""About what stays in a core's cache."""

Draws = Callable[[range, range], Tensor]
"""Standard normal draws of some rows and columns, [R, N]."""


def row_log_odds(positive_B: Tensor, negative_BK: Tensor, keep_BK: Tensor | None) -> Tensor:
    """log( sum_k c_ik exp(n_ik - p_i) ), [B], -inf for a row without negatives; c as in `row_info_nce_reference`."""
    log_odds_B = torch.empty_like(positive_B)
    for part in _parts(len(positive_B), negative_BK.shape[1] * positive_B.element_size()):
        log_odds_B[part] = _shifted(negative_BK[part], positive_B[part], _at(keep_BK, part)).logsumexp(1)
    return log_odds_B


def row_log_odds_backward(
    grad_B: Tensor, positive_B: Tensor, negative_BK: Tensor, keep_BK: Tensor | None, log_odds_B: Tensor
) -> Tensor:
    """Gradient of the negatives, [B, K], in their dtype."""
    grad_BK = torch.empty_like(negative_BK, memory_format=torch.contiguous_format)
    for part in _parts(len(positive_B), negative_BK.shape[1] * positive_B.element_size()):
        shifted_RK = _shifted(negative_BK[part], positive_B[part], _at(keep_BK, part))
        grad_BK[part] = _shares(shifted_RK, log_odds_B[part]) * grad_B[part].unsqueeze(1)
    return grad_BK


def gaussian_log_sum_exp(std_B: Tensor, noise_BK: Tensor) -> tuple[Tensor, Tensor]:
    """log( sum_k exp(std_i * noise_ik) ) and its derivative by std, [B] each."""

    def draws(rows: range, columns: range) -> Tensor:
        return noise_BK[rows.start : rows.stop, columns.start : columns.stop].to(std_B.dtype)

    return _of_draws(std_B, noise_BK.shape[1], draws)


def drawn_gaussian_log_sum_exp(
    std_B: Tensor, num_negatives: int, seed: int, offset: int, first_row: int
) -> tuple[Tensor, Tensor]:
    """The same, with `gaussian_draws` for the noise."""

    def draws(rows: range, columns: range) -> Tensor:
        own = range(first_row + rows.start, first_row + rows.stop)
        return gaussian_draws(seed, offset, own, columns, std_B.dtype, std_B.device)

    return _of_draws(std_B, num_negatives, draws)


def vector_log_odds(
    positive_B: Tensor,
    vectors: Tensor,
    token_ids_BL: Tensor | None,
    keep_BL: Tensor | None,
    direction_E: Tensor,
    with_mean: bool,
) -> tuple[Tensor, Tensor]:
    """log( sum_l c_il exp(e_il . u - p_i) ), [B], and its derivative by u, [B, E]; without `with_mean` [0, E].

    The vectors e are [B, L, E], or with token ids rows of a table, [V, E].
    """
    exact = vectors.dtype == direction_E.dtype
    if token_ids_BL is None:
        # what is read where it is takes no memory but for its scores
        row_bytes = vectors.shape[1] * (direction_E.element_size() if exact else direction_E.nbytes)
        return _of_gathered(positive_B, vectors.__getitem__, row_bytes, keep_BL, direction_E, with_mean)
    ids_BL = token_ids_BL if keep_BL is None else token_ids_BL.masked_fill(keep_BL == 0, 0)
    # embedding_bag sums rows of the table as it reads them, but in the table's dtype
    if ids_BL.numel() > len(vectors) and (exact or not with_mean):
        return _of_scored_table(positive_B, ids_BL, keep_BL, vectors, direction_E, with_mean)

    def rows(part: slice) -> Tensor:
        return F.embedding(ids_BL[part], vectors)

    row_bytes = ids_BL.shape[1] * direction_E.nbytes
    return _of_gathered(positive_B, rows, row_bytes, keep_BL, direction_E, with_mean)


def _of_gathered(
    positive_B: Tensor,
    vectors: Callable[[slice], Tensor],
    row_bytes: int,
    keep_BL: Tensor | None,
    direction_E: Tensor,
    with_mean: bool,
) -> tuple[Tensor, Tensor]:
    """The rows' vectors, a part at a time."""
    log_odds_B, mean_BE = torch.empty_like(positive_B), _mean_like(positive_B, direction_E, with_mean)
    for part in _parts(len(positive_B), row_bytes):
        vector_RLE = vectors(part).to(direction_E.dtype)
        shifted_RL = _shifted(vector_RLE @ direction_E, positive_B[part], _at(keep_BL, part))
        log_odds_B[part] = shifted_RL.logsumexp(1)
        if with_mean:
            share_R1L = _shares(shifted_RL, log_odds_B[part]).unsqueeze(1)
            mean_BE[part] = torch.bmm(share_R1L, vector_RLE).squeeze(1)
    return log_odds_B, mean_BE


def _of_scored_table(
    positive_B: Tensor,
    ids_BL: Tensor,
    keep_BL: Tensor | None,
    table_VE: Tensor,
    direction_E: Tensor,
    with_mean: bool,
) -> tuple[Tensor, Tensor]:
    """Every row of the table is scored once, and the tokens' scores are looked up."""
    score_V = torch.empty(len(table_VE), dtype=direction_E.dtype, device=direction_E.device)
    for part in _parts(len(table_VE), direction_E.nbytes):
        score_V[part] = table_VE[part].to(direction_E.dtype) @ direction_E
    shifted_BL = _shifted(score_V[ids_BL], positive_B, keep_BL)
    log_odds_B = shifted_BL.logsumexp(1)
    if not with_mean:
        return log_odds_B, _mean_like(positive_B, direction_E, with_mean)
    share_BL = _shares(shifted_BL, log_odds_B)
    return log_odds_B, F.embedding_bag(ids_BL, table_VE, mode="sum", per_sample_weights=share_BL)


def _of_draws(std_B: Tensor, num_negatives: int, draws: Draws) -> tuple[Tensor, Tensor]:
    log_sum_B, tilt_B = torch.full_like(std_B, -torch.inf), torch.zeros_like(std_B)
    most = PART_BYTES // std_B.element_size()  # of a row, so that the memory stays where it is for any K
    for part in _parts(len(std_B), min(num_negatives, most) * std_B.element_size()):
        rows = range(len(std_B))[part]
        for start in range(0, num_negatives, most):
            noise_RN = draws(rows, range(num_negatives)[start : start + most])
            score_RN = noise_RN * std_B[part].unsqueeze(1)
            own_R = score_RN.logsumexp(1)
            tilt_R = (_shares(score_RN, own_R) * noise_RN).sum(1)
            log_sum_R = torch.logaddexp(log_sum_B[part], own_R)
            tilt_B[part] = tilt_B[part] * (log_sum_B[part] - log_sum_R).exp() + tilt_R * (own_R - log_sum_R).exp()
            log_sum_B[part] = log_sum_R
    return log_sum_B, tilt_B


def _shifted(score_RK: Tensor, positive_R: Tensor, keep_RK: Tensor | None) -> Tensor:
    """log c_ik + n_ik - p_i: what rows have in common is gone before any exp."""
    shifted_RK = score_RK.to(positive_R.dtype) - positive_R.unsqueeze(1)
    if keep_RK is None:
        return shifted_RK
    if keep_RK.dtype != torch.bool:
        shifted_RK += keep_RK.to(positive_R.dtype).log()
    return shifted_RK.masked_fill_(keep_RK.logical_not(), -torch.inf)


def _shares(shifted_RK: Tensor, log_sum_R: Tensor) -> Tensor:
    """What part of the sum each exp is; zeros in a row without negatives."""
    return (shifted_RK - log_sum_R.masked_fill(log_sum_R == -torch.inf, 0).unsqueeze(1)).exp_()


def _mean_like(positive_B: Tensor, direction_E: Tensor, with_mean: bool) -> Tensor:
    return direction_E.new_empty(len(positive_B) if with_mean else 0, len(direction_E))


def _at(keep_BK: Tensor | None, part: slice) -> Tensor | None:
    return None if keep_BK is None else keep_BK[part]


def _parts(num_rows: int, row_bytes: int) -> Iterator[slice]:
    """Rows that together take `PART_BYTES`, at least one at a time."""
    step = max(1, PART_BYTES // max(row_bytes, 1))
    yield from (slice(start, start + step) for start in range(0, num_rows, step))
