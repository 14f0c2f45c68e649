"""Statistics of all pairs in Triton: tiles of S in registers, merged later; the gradient of S in panels.

    S_ij = scale * q_i . k_j + row_bias_i + col_bias_j, in the tiles as bits, S / ln 2, so that exp is exp2

A tile gives the maximum of each of its rows and the sum of exp below it, and the same of its columns; no tile waits for
another, and nothing is added in an order that changes. `merge` makes log-sum-exps of them. A positive is taken from the
accumulator that the sums are made of, so that it exceeds its log-sum-exp by rounding at most.

Backward, with g the upstream gradients, away from the positives, which `gradients` adds:

    weight_ij = g_row_i exp(S_ij - row_lse_i) + g_col_j exp(S_ij - col_lse_j),   or g_i sigmoid(S_ij) for softplus

The accumulator of a tile fills half of the registers; what is made of it is made of its left half, then of its right
one, and so spills none.

Shapes: N queries (or a panel of them), M keys, D width, T half tiles of keys or tiles of rows.
"""
# mypy: allow-untyped-defs

import itertools
import math
from typing import Any

import torch
import triton
import triton.language as tl

from infoprompt.kernels.offline import ShippedKernel

LOG2_E = tl.constexpr(math.log2(math.e))
LN_2 = tl.constexpr(math.log(2))
NEVER = tl.constexpr(-math.inf)
GROUP = tl.constexpr(8)  # tiles of rows that walk the same keys at a time, for the cache's sake


@triton.jit
def _halves(
    query,
    key,
    query_stride,
    key_stride,
    num_rows,
    num_keys,
    width,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    WHOLE_STEPS: tl.constexpr,
    DOT_UPCAST: tl.constexpr,
):
    """q_i . k_j of this program's tile, left and right half of its columns; its place, in tiles; its rows."""
    row_tiles, key_tiles = tl.cdiv(num_rows, BLOCK_N), tl.cdiv(num_keys, BLOCK_M)
    program = tl.program_id(0)
    first = program // (GROUP * key_tiles) * GROUP
    size = tl.minimum(row_tiles - first, GROUP)
    within = program % (GROUP * key_tiles)
    row_tile, key_tile = first + within % size, within // size
    row, column = row_tile * BLOCK_N + tl.arange(0, BLOCK_N), key_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    step = tl.arange(0, BLOCK_D)
    queries = query + row[:, None].to(tl.int64) * query_stride + step[None, :]
    keys = key + column[None, :].to(tl.int64) * key_stride + step[:, None]
    product = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for start in range(0, width, BLOCK_D):
        inside_rows, inside_keys = (row < num_rows)[:, None], (column < num_keys)[None, :]
        if not WHOLE_STEPS:
            inside_rows = inside_rows & (start + step < width)[None, :]
            inside_keys = inside_keys & (start + step < width)[:, None]
        q = tl.load(queries + start, mask=inside_rows, other=0.0)
        k = tl.load(keys + start, mask=inside_keys, other=0.0)
        if DOT_UPCAST:
            q, k = q.to(tl.float32), k.to(tl.float32)
        product = tl.dot(q, k, product, input_precision="ieee")
    halves = tl.split(tl.permute(tl.reshape(product, (BLOCK_N, 2, BLOCK_M // 2)), (0, 2, 1)))
    return halves, row_tile, key_tile, row


@triton.jit
def _bits(product, scale, row_bias, col_bias, row, column, num_rows, num_keys):
    """S of half a tile, in bits; -inf beyond the edges, where the products are 0."""
    row_bias_N = tl.load(row_bias + row, mask=row < num_rows, other=NEVER) * LOG2_E
    col_bias_M = tl.load(col_bias + column, mask=column < num_keys, other=NEVER) * LOG2_E
    return product * (tl.load(scale) * LOG2_E) + row_bias_N[:, None] + col_bias_M[None, :]


@triton.jit
def _is_positive(positive, row, column, num_rows):
    return column[None, :] == tl.load(positive + row, mask=row < num_rows, other=-1).to(tl.int32)[:, None]


@triton.jit
def _store_positives(bits, is_positive, positive_bits, row):
    # no two tiles hold the positive of one row; to reduce the tile to it would take registers that there are not
    tl.store(tl.broadcast_to((positive_bits + row)[:, None], bits.shape), bits, mask=is_positive)


@triton.jit
def _store_sums(bits, highest, total, at, inside, AXIS: tl.constexpr):
    """Maximum, and sum of exp below it; of nothing -inf and 0."""
    highest_X = tl.max(bits, AXIS)
    offset_X = tl.where(highest_X == NEVER, 0.0, highest_X)  # -inf - -inf is no number
    tl.store(highest + at, highest_X, mask=inside)
    tl.store(total + at, tl.sum(tl.exp2(bits - tl.expand_dims(offset_X, AXIS)), AXIS), mask=inside)


@triton.jit
def statistics(
    query,  # [N, D]
    key,  # [M, D]
    scale,  # []
    row_bias,  # [N]
    col_bias,  # [M]
    positive,  # [N], -1 for none
    positive_bits,  # [N], -inf before
    row_max,  # [T, N], T half tiles of keys; bits
    row_sum,  # [T, N]
    col_max,  # [T, M], T tiles of rows; bits
    col_sum,  # [T, M]
    query_stride,
    key_stride,
    num_rows,
    num_keys,
    width,
    clamp_bits,
    EXCLUDE_POSITIVE: tl.constexpr,
    CLAMPED: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    WHOLE_STEPS: tl.constexpr,
    DOT_UPCAST: tl.constexpr,
):
    """Maxima and sums of exp of a tile's rows and columns, and its positives."""
    halves, row_tile, key_tile, row = _halves(
        query, key, query_stride, key_stride, num_rows, num_keys, width,
        BLOCK_N, BLOCK_M, BLOCK_D, WHOLE_STEPS, DOT_UPCAST,
    )  # fmt: skip
    for half in tl.static_range(2):
        tile = key_tile.to(tl.int64) * 2 + half
        column = (key_tile * 2 + half) * (BLOCK_M // 2) + tl.arange(0, BLOCK_M // 2)
        bits = _bits(halves[half], scale, row_bias, col_bias, row, column, num_rows, num_keys)
        is_positive = _is_positive(positive, row, column, num_rows)
        _store_positives(bits, is_positive, positive_bits, row)
        if CLAMPED:
            bits = tl.where(bits == NEVER, bits, tl.clamp(bits, -clamp_bits, clamp_bits))
        if EXCLUDE_POSITIVE:
            bits = tl.where(is_positive, NEVER, bits)
        _store_sums(bits, col_max, col_sum, row_tile.to(tl.int64) * num_keys + column, column < num_keys, 0)
        _store_sums(bits, row_max, row_sum, tile * num_rows + row, row < num_rows, 1)


@triton.jit
def merge(
    highest,  # [T, X], bits
    total,  # [T, X]
    lse,  # [X], nats
    num_tiles,
    length,
    BLOCK: tl.constexpr,
):
    """Log-sum-exp of rows or columns from those of their tiles."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < length
    highest_X = tl.full((BLOCK,), NEVER, tl.float32)
    there = at.to(tl.int64)
    for _ in range(num_tiles):
        highest_X = tl.maximum(highest_X, tl.load(highest + there, mask=inside, other=NEVER))
        there += length
    offset_X = tl.where(highest_X == NEVER, 0.0, highest_X)
    total_X = tl.zeros((BLOCK,), tl.float32)
    there = at.to(tl.int64)
    for _ in range(num_tiles):
        share_X = tl.exp2(tl.load(highest + there, mask=inside, other=NEVER) - offset_X)
        total_X += share_X * tl.load(total + there, mask=inside, other=0.0)
        there += length
    total_X = tl.where(highest_X == NEVER, 1.0, total_X)
    tl.store(lse + at, (highest_X + tl.log2(total_X)) * LN_2, mask=inside)


@triton.jit
def statistics_weights(
    query,  # [N, D]
    key,  # [M, D]
    scale,  # []
    row_bias,  # [N]
    col_bias,  # [M]
    positive,  # [N], -1 for none
    row_lse,  # [N], inf where it is over nothing
    col_lse,  # [M], inf where it is over nothing
    grad_row,  # [N]
    grad_col,  # [M]
    weight,  # [N, M], rows padded to `weight_stride`
    query_stride,
    key_stride,
    weight_stride,
    num_rows,
    num_keys,
    width,
    HAS_GRAD_ROW: tl.constexpr,
    HAS_GRAD_COL: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    WHOLE_STEPS: tl.constexpr,
    DOT_UPCAST: tl.constexpr,
):
    """Gradient of a tile's scores but its positives', from those of its rows' and columns' log-sum-exps."""
    halves, _, key_tile, row = _halves(
        query, key, query_stride, key_stride, num_rows, num_keys, width,
        BLOCK_N, BLOCK_M, BLOCK_D, WHOLE_STEPS, DOT_UPCAST,
    )  # fmt: skip
    for half in tl.static_range(2):
        column = (key_tile * 2 + half) * (BLOCK_M // 2) + tl.arange(0, BLOCK_M // 2)
        bits = _bits(halves[half], scale, row_bias, col_bias, row, column, num_rows, num_keys)
        value = tl.zeros_like(bits)
        if HAS_GRAD_ROW:
            lse_N = tl.load(row_lse + row, mask=row < num_rows, other=0.0) * LOG2_E
            grad_N = tl.load(grad_row + row, mask=row < num_rows, other=0.0)
            value += tl.exp2(bits - lse_N[:, None]) * grad_N[:, None]
        if HAS_GRAD_COL:
            lse_M = tl.load(col_lse + column, mask=column < num_keys, other=0.0) * LOG2_E
            grad_M = tl.load(grad_col + column, mask=column < num_keys, other=0.0)
            value += tl.exp2(bits - lse_M[None, :]) * grad_M[None, :]
        _store_weights(value, weight, weight_stride, positive, row, column, num_rows)


@triton.jit
def _store_weights(value, weight, weight_stride, positive, row, column, num_rows):
    value = tl.where(_is_positive(positive, row, column, num_rows), 0.0, value)
    at = weight + row[:, None].to(tl.int64) * weight_stride + column[None, :]
    # the padding is written too, with any numbers: so a store is 16 bytes wide whatever M is
    inside = (row < num_rows)[:, None] & (column < weight_stride)[None, :]
    tl.store(at, value.to(weight.dtype.element_ty), mask=inside)


@triton.jit
def softplus(
    query,  # [N, D]
    key,  # [M, D]
    scale,  # []
    row_bias,  # [N]
    col_bias,  # [M]
    positive,  # [N], -1 for none
    positive_bits,  # [N], -inf before
    row_sum,  # [T, N], T half tiles of keys
    query_stride,
    key_stride,
    num_rows,
    num_keys,
    width,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    WHOLE_STEPS: tl.constexpr,
    DOT_UPCAST: tl.constexpr,
):
    """Sum of softplus over the non-positives of a tile's rows, and its positives."""
    halves, _, key_tile, row = _halves(
        query, key, query_stride, key_stride, num_rows, num_keys, width,
        BLOCK_N, BLOCK_M, BLOCK_D, WHOLE_STEPS, DOT_UPCAST,
    )  # fmt: skip
    for half in tl.static_range(2):
        tile = key_tile.to(tl.int64) * 2 + half
        column = (key_tile * 2 + half) * (BLOCK_M // 2) + tl.arange(0, BLOCK_M // 2)
        bits = _bits(halves[half], scale, row_bias, col_bias, row, column, num_rows, num_keys)
        is_positive = _is_positive(positive, row, column, num_rows)
        _store_positives(bits, is_positive, positive_bits, row)
        bits = tl.where(is_positive, NEVER, bits)
        # log(1 + x) = 2 atanh(t), t = x / (2 + x) <= 1/3, by its series: a hardware log is all rounding near 1
        small = tl.exp2(-tl.abs(bits))
        t = small / (2.0 + small)
        u = t * t
        series = 1 / 7 + u * (1 / 9 + u * (1 / 11 + u * (1 / 13)))
        log_more = 2 * t * (1 + u * (1 / 3 + u * (1 / 5 + u * series)))
        sum_N = tl.sum(tl.maximum(bits, 0.0) * LN_2 + log_more, 1)
        tl.store(row_sum + tile * num_rows + row, sum_N, mask=row < num_rows)


@triton.jit
def softplus_weights(
    query,  # [N, D]
    key,  # [M, D]
    scale,  # []
    row_bias,  # [N]
    col_bias,  # [M]
    positive,  # [N], -1 for none
    grad_sum,  # [N]
    weight,  # [N, M], rows padded to `weight_stride`
    query_stride,
    key_stride,
    weight_stride,
    num_rows,
    num_keys,
    width,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    WHOLE_STEPS: tl.constexpr,
    DOT_UPCAST: tl.constexpr,
):
    """Gradient of a tile's scores but its positives', from that of its rows' sums of softplus."""
    halves, _, key_tile, row = _halves(
        query, key, query_stride, key_stride, num_rows, num_keys, width,
        BLOCK_N, BLOCK_M, BLOCK_D, WHOLE_STEPS, DOT_UPCAST,
    )  # fmt: skip
    for half in tl.static_range(2):
        column = (key_tile * 2 + half) * (BLOCK_M // 2) + tl.arange(0, BLOCK_M // 2)
        bits = _bits(halves[half], scale, row_bias, col_bias, row, column, num_rows, num_keys)
        grad_N = tl.load(grad_sum + row, mask=row < num_rows, other=0.0)
        value = grad_N[:, None] / (1.0 + tl.exp2(-bits))
        _store_weights(value, weight, weight_stride, positive, row, column, num_rows)


# (rows, keys, width of a step, warps, stages). float16 stores its weights in float32, which takes registers; float32 is
# exact without tensor cores, so its tiles are what plain multiplications leave of them.
TILES = {
    torch.bfloat16: (128, 256, 64, 8, 3),
    torch.float16: (128, 128, 64, 8, 3),
    torch.float32: (64, 64, 32, 4, 2),
}
MERGE_BLOCK = 128
ALIGNED = frozenset({"query_stride", "key_stride", "weight_stride", "width"})


def _shipped() -> list[ShippedKernel]:
    variants = [
        *((statistics, {"EXCLUDE_POSITIVE": exclude, "CLAMPED": False}) for exclude in (False, True)),
        (statistics, {"EXCLUDE_POSITIVE": True, "CLAMPED": True}),
        *((statistics_weights, {"HAS_GRAD_ROW": row, "HAS_GRAD_COL": col}) for row, col in ((1, 1), (1, 0), (0, 1))),
        (softplus, {}),
        (softplus_weights, {}),
    ]
    found = [ShippedKernel("pair_stats.merge", merge, _signature(merge, "fp32"), {"BLOCK": MERGE_BLOCK})]
    names = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
    for (kernel, flags), (kind, tile), whole in itertools.product(variants, TILES.items(), (True, False)):
        dtype, (rows, keys, step, warps, stages) = names[kind], tile
        blocks = {"BLOCK_N": rows, "BLOCK_M": keys, "BLOCK_D": step, "WHOLE_STEPS": whole, "DOT_UPCAST": False}
        said = " ".join([*(flag.lower() for flag, on in flags.items() if on), *([] if whole else ["ragged"])])
        found.append(
            ShippedKernel(
                f"pair_stats.{kernel.__name__} {dtype} {said}".rstrip(),
                kernel,
                _signature(kernel, dtype),
                {**flags, **blocks},
                num_warps=warps,
                num_stages=stages,
                aligned=ALIGNED & set(kernel.arg_names),
                tensor_cores=dtype != "fp32",
            )
        )
    return found


def _signature(kernel: Any, dtype: str) -> dict[str, str]:
    """Triton types of a kernel's arguments, told by their names."""
    special = {
        **dict.fromkeys(("query", "key"), f"*{dtype}"),
        **dict.fromkeys((*ALIGNED, "num_rows", "num_keys", "num_tiles", "length"), "i32"),
        "positive": "*i64",
        "weight": "*bf16" if dtype == "bf16" else "*fp32",
        "clamp_bits": "fp32",
    }
    return {name: special.get(name, "*fp32") for name in kernel.arg_names if not name.isupper()}


SHIPPED = _shipped()
