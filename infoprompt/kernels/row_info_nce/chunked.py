"""The statistics of the losses in torch, a part of the rows at a time: what runs on a CPU.

What is made on the way takes about `PART_BYTES`, or one row. The gradients are derived in `triton_kernels`.
Shapes: B rows, K negatives, L positions, E embedding width, R rows of a panel (its K may be some of all).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

PART_BYTES = 2**20
"""About what stays in a core's cache."""


def gaussian_log_sum_exp(std_B: Tensor, noise_BK: Tensor) -> tuple[Tensor, Tensor]:
    """log( sum_k exp(std_i * noise_ik) ) and its derivative by std, [B] each."""
    num_negatives = noise_BK.shape[1]
    log_sum_B, tilt_B = torch.full_like(std_B, -torch.inf), torch.zeros_like(std_B)
    most = PART_BYTES // std_B.element_size()  # of a row, so that the memory stays where it is for any K
    for part in _parts(len(std_B), min(num_negatives, most) * std_B.element_size()):
        for start in range(0, num_negatives, most):
            noise_RK = noise_BK[part, start : start + most].to(std_B.dtype)
            score_RK = noise_RK * std_B[part].unsqueeze(1)
            own_R = score_RK.logsumexp(1)
            tilt_R = (_shares(score_RK, own_R) * noise_RK).sum(1)
            log_sum_R = torch.logaddexp(log_sum_B[part], own_R)
            tilt_B[part] = tilt_B[part] * (log_sum_B[part] - log_sum_R).exp() + tilt_R * (own_R - log_sum_R).exp()
            log_sum_B[part] = log_sum_R
    return log_sum_B, tilt_B


def vector_log_odds(
    positive_B: Tensor, embeddings_BLE: Tensor, keep_BL: Tensor, direction_E: Tensor, with_mean: bool
) -> tuple[Tensor, Tensor]:
    """log( sum_l c_il exp(e_il . u - p_i) ), [B], and its derivative by u, [B, E]; without `with_mean` [0, E].

    A row without negatives has -inf, and zeros; c as in `row_info_nce_reference`.
    """
    exact = embeddings_BLE.dtype == direction_E.dtype
    # what is read where it is takes no memory but for its scores
    row_bytes = embeddings_BLE.shape[1] * (direction_E.element_size() if exact else direction_E.nbytes)
    log_odds_B = torch.empty_like(positive_B)
    mean_BE = direction_E.new_empty(len(positive_B) if with_mean else 0, len(direction_E))
    for part in _parts(len(positive_B), row_bytes):
        vector_RLE = embeddings_BLE[part].to(direction_E.dtype)
        shifted_RL = _shifted(vector_RLE @ direction_E, positive_B[part], keep_BL[part])
        log_odds_B[part] = shifted_RL.logsumexp(1)
        if with_mean:
            share_R1L = _shares(shifted_RL, log_odds_B[part]).unsqueeze(1)
            mean_BE[part] = torch.bmm(share_R1L, vector_RLE).squeeze(1)
    return log_odds_B, mean_BE


def _shifted(score_RL: Tensor, positive_R: Tensor, keep_RL: Tensor) -> Tensor:
    """log c_il + n_il - p_i: what rows have in common is gone before any exp."""
    shifted_RL = score_RL - positive_R.unsqueeze(1)
    if keep_RL.dtype != torch.bool:
        shifted_RL += keep_RL.to(positive_R.dtype).log()
    return shifted_RL.masked_fill_(keep_RL.logical_not(), -torch.inf)


def _shares(shifted_RK: Tensor, log_sum_R: Tensor) -> Tensor:
    """What part of the sum each exp is; zeros in a row without negatives."""
    return (shifted_RK - log_sum_R.masked_fill(log_sum_R == -torch.inf, 0).unsqueeze(1)).exp_()


def _parts(num_rows: int, row_bytes: int) -> Iterator[slice]:
    """Rows that together take `PART_BYTES`, at least one at a time."""
    step = max(1, PART_BYTES // max(row_bytes, 1))
    yield from (slice(start, start + step) for start in range(0, num_rows, step))
