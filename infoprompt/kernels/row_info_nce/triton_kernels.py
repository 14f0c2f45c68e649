"""The statistics of the losses in Triton: the functions of `chunked`, with one program a row.

With p the positive, n_k the negatives' scores and c_k how often each counts:

    s = log sum_k c_k exp(n_k - p)            the log odds against the positive; the loss is softplus(s)
    ds/dn_k = q_k = c_k exp(n_k - p - s)      a negative's share of the sum;  ds/dp = -1
    n_k = m + std eps_k:   ds/dm = 1,  ds/dstd = sum_k q_k eps_k
    n_l = e_l . u:         ds/du = sum_l q_l e_l

So the forward pass sums, beside exp(n_k - p), its product with eps_k or e_k, and the quotient of the two sums is the
whole derivative. The backward pass reads no negative, and no score is ever written down. The sums are of powers of 2,
each relative to the largest exponent so far, `top`, which is -inf until something counts.

Shapes: B rows, K negatives, L positions, E embedding width.
"""
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from infoprompt.kernels.offline import ShippedKernel

LANES = 512
"""Draws of a row at a time."""
TILE = 8192
"""Entries of a row's vectors at a time, in 8 warps; one vector has to fit."""
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _rescaled(top, exponent, largest):
    """The new top, the factor that brings older sums to it, and 2**exponent relative to it.

    `largest` is what a new exponent can be: the exponent itself if each lane sums alone, their maximum if all together.
    """
    new = tl.maximum(top, largest)
    origin = tl.where(new == float("-inf"), 0.0, new)
    return new, tl.exp2(top - origin), tl.exp2(exponent - origin)


@triton.jit
def _log_sum(top, total):
    """Natural logarithm of total * 2**top; -inf where the total is 0."""
    return tl.where(total == 0.0, float("-inf"), top * LN_2 + tl.log(tl.where(total == 0.0, 1.0, total)))


@triton.jit
def _gaussian_kernel(
    std_ptr,  # [B]
    noise_ptr,  # [B, K]
    log_sum_ptr,  # [B]
    tilt_ptr,  # [B]
    num_negatives,
    noise_row_stride,
    noise_stride,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    scale = tl.load(std_ptr + row) * LOG2_E
    top, total = tl.full([BLOCK], float("-inf"), tl.float32), tl.zeros([BLOCK], tl.float32)
    tilted = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_negatives, BLOCK):
        column = (start + tl.arange(0, BLOCK)).to(tl.int64)
        inside = column < num_negatives
        draw = tl.load(noise_ptr + row * noise_row_stride + column * noise_stride, mask=inside, other=0)
        draw = draw.to(tl.float32)
        exponent = tl.where(inside, scale * draw, float("-inf"))
        top, kept, share = _rescaled(top, exponent, exponent)
        total, tilted = total * kept + share, tilted * kept + share * draw
    most = tl.max(top, 0)
    share = tl.exp2(top - tl.where(most == float("-inf"), 0.0, most))
    whole = tl.sum(total * share, 0)
    tl.store(log_sum_ptr + row, _log_sum(most, whole))
    tl.store(tilt_ptr + row, tl.sum(tilted * share, 0) / whole)


@triton.jit
def _vector_kernel(
    positive_ptr,  # [B]
    vector_ptr,  # [B, L, E]
    keep_ptr,  # [B, L]
    direction_ptr,  # [E]
    log_odds_ptr,  # [B]
    mean_ptr,  # [B, E], contiguous, with WITH_MEAN
    length,
    width,
    vector_row_stride,
    vector_stride,
    entry_stride,
    keep_row_stride,
    keep_stride,
    WITH_MEAN: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    entry = tl.arange(0, WIDTH)
    direction = tl.load(direction_ptr + entry, mask=entry < width, other=0)
    positive = tl.load(positive_ptr + row)
    top, total, tilted = float("-inf"), 0.0, tl.zeros([WIDTH], tl.float32)
    for start in range(0, length, BLOCK):
        place = (start + tl.arange(0, BLOCK)).to(tl.int64)
        count = tl.load(keep_ptr + row * keep_row_stride + place * keep_stride, mask=place < length, other=0)
        count = count.to(tl.float32)
        read = (count > 0)[:, None] & (entry < width)[None, :]
        start_of = row * vector_row_stride + place * vector_stride
        at = vector_ptr + start_of[:, None] + entry[None, :].to(tl.int64) * entry_stride
        vector = tl.load(at, mask=read, other=0).to(tl.float32)
        score = tl.sum(vector * direction[None, :], 1)
        exponent = tl.where(count > 0, (score - positive) * LOG2_E, float("-inf"))
        top, kept, share = _rescaled(top, exponent, tl.max(exponent, 0))
        share *= count
        total = total * kept + tl.sum(share, 0)
        if WITH_MEAN:
            tilted = tilted * kept + tl.sum(share[:, None] * vector, 0)
    tl.store(log_odds_ptr + row, _log_sum(top, total))
    if WITH_MEAN:
        tl.store(mean_ptr + row * width + entry, tilted / tl.where(total == 0.0, 1.0, total), mask=entry < width)


def gaussian_log_sum_exp(std_B: Tensor, noise_BK: Tensor) -> tuple[Tensor, Tensor]:
    """See `chunked.gaussian_log_sum_exp`."""
    log_sum_B, tilt_B = torch.empty_like(std_B), torch.empty_like(std_B)
    if len(std_B):
        _gaussian_kernel[(len(std_B),)](
            std_B, noise_BK, log_sum_B, tilt_B, noise_BK.shape[1], *noise_BK.stride(), BLOCK=LANES
        )
    return log_sum_B, tilt_B


def vector_log_odds(
    positive_B: Tensor, embeddings_BLE: Tensor, keep_BL: Tensor, direction_E: Tensor, with_mean: bool
) -> tuple[Tensor, Tensor]:
    """See `chunked.vector_log_odds`."""
    size, width = len(positive_B), len(direction_E)
    log_odds_B = torch.empty_like(positive_B)
    mean_BE = direction_E.new_empty(size if with_mean else 0, width)
    whole = triton.next_power_of_2(width)
    if size:
        _vector_kernel[(size,)](
            positive_B,
            embeddings_BLE,
            keep_BL.view(torch.uint8) if keep_BL.dtype == torch.bool else keep_BL,
            direction_E,
            log_odds_B,
            mean_BE,
            embeddings_BLE.shape[1],
            width,
            *embeddings_BLE.stride(),
            *keep_BL.stride(),
            WITH_MEAN=with_mean,
            BLOCK=TILE // whole,
            WIDTH=whole,
            num_warps=8,
        )
    return log_odds_B, mean_BE


_OF_ROWS = ("positive_ptr", "std_ptr", "direction_ptr", "log_odds_ptr", "log_sum_ptr", "mean_ptr", "tilt_ptr")


def _shipped(name: str, kernel: triton.JITFunction, kinds: dict[str, str], constants: dict[str, int]) -> ShippedKernel:
    signature = dict.fromkeys(_OF_ROWS, "*fp32") | dict.fromkeys(("num_negatives", "length", "width"), "i32") | kinds
    strides = ("noise_row_stride", "vector_row_stride", "vector_stride", "keep_row_stride")
    signature |= dict.fromkeys(strides, "i64")
    of_vectors = kernel is _vector_kernel
    return ShippedKernel(
        name,
        kernel,
        {argument: kind for argument, kind in signature.items() if argument in kernel.arg_names},
        constants,
        num_warps=8 if of_vectors else 4,
        aligned=frozenset({"width", "vector_row_stride", "vector_stride"} if of_vectors else {}),
    )


def _vectors(dtype: str, width: int, with_mean: bool = True) -> ShippedKernel:
    constants = {"entry_stride": 1, "keep_stride": 1, "WITH_MEAN": with_mean, "BLOCK": TILE // width, "WIDTH": width}
    name = f"vector_log_odds {dtype} {width}{', mean' if with_mean else ''}"
    return _shipped(name, _vector_kernel, {"vector_ptr": f"*{dtype}", "keep_ptr": "*u8"}, constants)


SHIPPED = [
    _shipped("gaussian fp32", _gaussian_kernel, {"noise_ptr": "*fp32"}, {"noise_stride": 1, "BLOCK": LANES}),
    _vectors("bf16", 1024),
    _vectors("bf16", 4096),
    _vectors("fp32", 8192),
    _vectors("fp32", 512, with_mean=False),
]
"""A choice of what the launchers ask for: every kernel, both ends of the widths, and every switch."""
