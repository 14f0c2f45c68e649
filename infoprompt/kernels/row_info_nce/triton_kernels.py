"""The statistics of the losses in Triton: launchers of the kernels of `triton_scores` and `triton_gaussian`.

With p the positive, n_k the negatives' scores and c_k how often each counts:

    s = log sum_k c_k exp(n_k - p)            the log odds against the positive; the loss is softplus(s)
    ds/dn_k = q_k = c_k exp(n_k - p - s)      a negative's share of the sum;  ds/dp = -1
    n_k = m + std eps_k:   ds/dm = 1,  ds/dstd = sum_k q_k eps_k
    n_l = e_l . u:         ds/du = sum_l q_l e_l

So for Gaussian negatives and for vectors the forward pass sums, beside exp(n_k - p), its product with eps_k or e_k, and
the quotient of the two sums is the whole derivative: the backward pass neither reads a negative nor draws one again,
and no score is ever written down. Letters: B rows, K negatives, L tokens, V vocabulary, E embedding width.
"""

import torch
import triton
from torch import Tensor

from infoprompt.kernels.offline import ShippedKernel
from infoprompt.kernels.row_info_nce.triton_gaussian import drawn_gaussian_kernel, gaussian_kernel
from infoprompt.kernels.row_info_nce.triton_scores import (
    row_log_odds_backward_kernel,
    row_log_odds_kernel,
    vector_log_odds_kernel,
)

LANES = 512
"""Scores, or groups of four draws, of a row at a time."""
TILE = 8192
"""Entries of a row's vectors at a time, in 8 warps; one vector has to fit."""


def row_log_odds(positive_B: Tensor, negative_BK: Tensor, keep_BK: Tensor | None) -> Tensor:
    """See `chunked.row_log_odds`."""
    log_odds_B = torch.empty_like(positive_B)
    keep = negative_BK if keep_BK is None else _readable(keep_BK)
    if len(positive_B):
        row_log_odds_kernel[(len(positive_B),)](
            positive_B,
            negative_BK,
            keep,
            log_odds_B,
            negative_BK.shape[1],
            *negative_BK.stride(),
            *keep.stride(),
            HAS_KEEP=keep_BK is not None,
            BLOCK=LANES,
        )
    return log_odds_B


def row_log_odds_backward(
    grad_B: Tensor, positive_B: Tensor, negative_BK: Tensor, keep_BK: Tensor | None, log_odds_B: Tensor
) -> Tensor:
    """See `chunked.row_log_odds_backward`."""
    grad_BK = torch.empty_like(negative_BK, memory_format=torch.contiguous_format)
    keep = negative_BK if keep_BK is None else _readable(keep_BK)
    if grad_BK.numel():
        row_log_odds_backward_kernel[(len(grad_BK), triton.cdiv(grad_BK.shape[1], LANES))](
            grad_B,
            positive_B,
            negative_BK,
            keep,
            log_odds_B,
            grad_BK,
            negative_BK.shape[1],
            *negative_BK.stride(),
            *keep.stride(),
            HAS_KEEP=keep_BK is not None,
            BLOCK=LANES,
        )
    return grad_BK


def gaussian_log_sum_exp(std_B: Tensor, noise_BK: Tensor) -> tuple[Tensor, Tensor]:
    """See `chunked.gaussian_log_sum_exp`."""
    log_sum_B, tilt_B = torch.empty_like(std_B), torch.empty_like(std_B)
    if len(std_B):
        gaussian_kernel[(len(std_B),)](
            std_B, noise_BK, log_sum_B, tilt_B, noise_BK.shape[1], *noise_BK.stride(), BLOCK=LANES
        )
    return log_sum_B, tilt_B


def drawn_gaussian_log_sum_exp(
    std_B: Tensor, num_negatives: int, seed: int, offset: int, first_row: int
) -> tuple[Tensor, Tensor]:
    """See `chunked.drawn_gaussian_log_sum_exp`."""
    log_sum_B, tilt_B = torch.empty_like(std_B), torch.empty_like(std_B)
    if len(std_B):
        drawn_gaussian_kernel[(len(std_B),)](
            std_B, log_sum_B, tilt_B, num_negatives, seed, offset, first_row, BLOCK=LANES
        )
    return log_sum_B, tilt_B


def vector_log_odds(
    positive_B: Tensor,
    vectors: Tensor,
    token_ids_BL: Tensor | None,
    keep_BL: Tensor | None,
    direction_E: Tensor,
    with_mean: bool,
) -> tuple[Tensor, Tensor]:
    """See `chunked.vector_log_odds`."""
    size, width = len(positive_B), len(direction_E)
    log_odds_B = torch.empty_like(positive_B)
    mean_BE = direction_E.new_empty(size if with_mean else 0, width)
    tokens = positive_B.unsqueeze(1) if token_ids_BL is None else token_ids_BL
    keep = tokens if keep_BL is None else _readable(keep_BL)
    whole = triton.next_power_of_2(width)
    if size:
        vector_log_odds_kernel[(size,)](
            positive_B,
            vectors,
            tokens,
            keep,
            direction_E,
            log_odds_B,
            mean_BE,
            vectors.shape[1] if token_ids_BL is None else token_ids_BL.shape[1],
            width,
            *(0, *vectors.stride())[-3:],
            *tokens.stride(),
            *keep.stride(),
            HAS_KEEP=keep_BL is not None,
            LOOK_UP=token_ids_BL is not None,
            WITH_MEAN=with_mean,
            BLOCK=TILE // whole,
            WIDTH=whole,
            num_warps=8,
        )
    return log_odds_B, mean_BE


def _readable(keep_BK: Tensor) -> Tensor:
    return keep_BK.view(torch.uint8) if keep_BK.dtype == torch.bool else keep_BK


_OF_ROWS = {"num_negatives": "i32", "negative_row_stride": "i64", "keep_row_stride": "i64"}
_OF_VECTORS = {
    "positive_ptr": "*fp32",
    "token_ptr": "*i64",
    "keep_ptr": "*u8",
    "direction_ptr": "*fp32",
    "log_odds_ptr": "*fp32",
    "mean_ptr": "*fp32",
    "length": "i32",
    "width": "i32",
    "vector_row_stride": "i64",
    "vector_stride": "i64",
    "token_row_stride": "i64",
    "keep_row_stride": "i64",
}
_ADJACENT = {"entry_stride": 1, "token_stride": 1, "keep_stride": 1}


def _vectors(dtype: str, width: int, look_up: bool, with_mean: bool) -> ShippedKernel:
    kind = f"{'table' if look_up else 'embeddings'}{', mean' if with_mean else ''}"
    return ShippedKernel(
        f"vector_log_odds {dtype} {width} {kind}",
        vector_log_odds_kernel,
        {**_OF_VECTORS, "vector_ptr": f"*{dtype}"},
        {
            **_ADJACENT,
            "HAS_KEEP": True,
            "LOOK_UP": look_up,
            "WITH_MEAN": with_mean,
            "BLOCK": TILE // width,
            "WIDTH": width,
        },
        num_warps=8,
        aligned=frozenset({"width", "vector_row_stride", "vector_stride"}),
    )


def _scores(dtype: str, has_keep: bool, *, backward: bool) -> ShippedKernel:
    pointers = {"positive_ptr": "*fp32", "negative_ptr": f"*{dtype}", "keep_ptr": "*u8", "log_odds_ptr": "*fp32"}
    if backward:
        pointers |= {"grad_ptr": "*fp32", "out_ptr": f"*{dtype}"}
    return ShippedKernel(
        f"row_log_odds{'_backward' if backward else ''} {dtype}{', keep' if has_keep else ''}",
        row_log_odds_backward_kernel if backward else row_log_odds_kernel,
        {**_OF_ROWS, **pointers},
        {"negative_stride": 1, "keep_stride": 1, "HAS_KEEP": has_keep, "BLOCK": LANES},
    )


_OF_DRAWS = {"std_ptr": "*fp32", "log_sum_ptr": "*fp32", "tilt_ptr": "*fp32", "num_negatives": "i32"}
SHIPPED = [
    _scores("bf16", True, backward=False),
    _scores("fp32", False, backward=False),
    _scores("bf16", True, backward=True),
    ShippedKernel(
        "gaussian fp32",
        gaussian_kernel,
        {**_OF_DRAWS, "noise_ptr": "*fp32", "noise_row_stride": "i64"},
        {"noise_stride": 1, "BLOCK": LANES},
    ),
    ShippedKernel(
        "drawn_gaussian",
        drawn_gaussian_kernel,
        {**_OF_DRAWS, "seed": "i64", "offset": "i64", "first_row": "i64"},
        {"BLOCK": LANES},
    ),
    _vectors("bf16", 1024, look_up=True, with_mean=True),
    _vectors("bf16", 4096, look_up=False, with_mean=True),
    _vectors("fp32", 8192, look_up=True, with_mean=True),
    _vectors("fp32", 512, look_up=False, with_mean=False),
]
"""A choice of what the launchers ask for: every kernel, both ends of the widths, and every switch."""
