"""Triton kernels for Gaussian negatives: the noise given, or drawn in the kernel. One program a row.

What they compute is derived in `triton_kernels`, the draws are those of `philox.gaussian_draws`. Letters: B rows, K
negatives.
"""
# mypy: allow-untyped-defs

import triton
import triton.language as tl

from infoprompt.kernels.row_info_nce.triton_sums import LOG2_E, joined, log_sum, rescaled

TWO_PI = tl.constexpr(6.283185307179586)


@triton.jit
def _add(top, total, tilted, scale, draw, inside):
    """Join each lane's next draw to its sums of exp(std * draw) and of that times the draw; scale is std in base 2."""
    exponent = tl.where(inside, scale * draw, float("-inf"))
    top, kept, share = rescaled(top, exponent, exponent)
    return top, total * kept + share, tilted * kept + share * draw


@triton.jit
def _store(log_sum_ptr, tilt_ptr, top, total, tilted):
    most, share = joined(top)
    total = tl.sum(total * share, 0)
    tl.store(log_sum_ptr, log_sum(most, total))
    tl.store(tilt_ptr, tl.sum(tilted * share, 0) / total)


@triton.jit
def gaussian_kernel(
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
        top, total, tilted = _add(top, total, tilted, scale, draw.to(tl.float32), inside)
    _store(log_sum_ptr + row, tilt_ptr + row, top, total, tilted)


@triton.jit(do_not_specialize=["seed", "offset", "first_row"])
def drawn_gaussian_kernel(
    std_ptr,  # [B]
    log_sum_ptr,  # [B]
    tilt_ptr,  # [B]
    num_negatives,
    seed,
    offset,
    first_row,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    number = (first_row + row).to(tl.uint32)
    low, high = offset.to(tl.uint32), (offset.to(tl.uint64) >> 32).to(tl.uint32)
    scale = tl.load(std_ptr + row) * LOG2_E
    top, total = tl.full([BLOCK], float("-inf"), tl.float32), tl.zeros([BLOCK], tl.float32)
    tilted = tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_negatives, 4 * BLOCK):
        group = start // 4 + tl.arange(0, BLOCK)
        left = num_negatives - 4 * group
        word0, word1, word2, word3 = tl.philox(seed, group.to(tl.uint32), number, low, high)
        first, second = _normals(word0, word1)
        top, total, tilted = _add(top, total, tilted, scale, first, left > 0)
        top, total, tilted = _add(top, total, tilted, scale, second, left > 1)
        first, second = _normals(word2, word3)
        top, total, tilted = _add(top, total, tilted, scale, first, left > 2)
        top, total, tilted = _add(top, total, tilted, scale, second, left > 3)
    _store(log_sum_ptr + row, tilt_ptr + row, top, total, tilted)


@triton.jit
def _normals(first, second):
    radius = tl.sqrt_rn(-2.0 * tl.log(_uniform(first)))
    # The library's cosine keeps numbers for huge angles in local memory. An angle in turns is brought within an eighth
    # of the next quarter without rounding, and from there few terms of the series are enough.
    turns = _uniform(second) - 0.5
    quarter = tl.floor(4.0 * turns + 0.5)
    x = (turns - 0.25 * quarter) * TWO_PI
    y = x * x
    sine = x * (1.0 + y * (-1 / 6 + y * (1 / 120 + y * (-1 / 5040 + y * (1 / 362880)))))
    cosine = 1.0 + y * (-1 / 2 + y * (1 / 24 + y * (-1 / 720 + y * (1 / 40320 + y * (-1 / 3628800)))))
    odd, half = tl.abs(quarter) == 1.0, tl.abs(quarter) == 2.0
    turned_cosine = tl.where(odd, -quarter * sine, tl.where(half, -cosine, cosine))
    turned_sine = tl.where(odd, quarter * cosine, tl.where(half, -sine, sine))
    return radius * turned_cosine, radius * turned_sine


@triton.jit
def _uniform(word):
    return ((word >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07  # 2**-23
