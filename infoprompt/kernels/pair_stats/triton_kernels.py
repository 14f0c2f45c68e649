"""Statistics of all pairs in Triton: the functions of `chunked`, with tiles of S in registers.

    S_ij = q_i . k_j + row_bias_i, in the tiles as bits, S / ln 2, so that exp is exp2

A tile gives the maximum of each of its rows and the sum of exp below it, without the positives. No tile waits for
another, and nothing is added in an order that changes. `_merge` makes log-sum-exps of them. A positive is taken from
the accumulator that the sums are made of.

Backward, a panel of the weights of `gradients` is written. The accumulator of a tile fills half of the registers; what
is made of it is made of its left half, then of its right one, and so spills none.

Shapes: N rows (queries, or a panel of them), M keys, D hidden width, R rows of a panel, T tile halves of keys.
"""
# mypy: allow-untyped-defs

import itertools
import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from infoprompt.kernels.implementation import interpreting
from infoprompt.kernels.offline import ShippedKernel
from infoprompt.kernels.pair_stats.gradients import of_inputs, panels

LOG2_E = tl.constexpr(math.log2(math.e))
LN_2 = tl.constexpr(math.log(2))
NEVER = tl.constexpr(-math.inf)
GROUP = tl.constexpr(8)  # tiles of rows that walk the same keys at a time, for the cache's sake
# (rows, keys, width of a step, warps, stages). float16 stores its weights in float32, which takes registers; float32 is
# exact without tensor cores, so its tiles are what plain multiplications leave of them.
TILES = {
    torch.bfloat16: (128, 256, 64, 8, 3),
    torch.float16: (128, 128, 64, 8, 3),
    torch.float32: (64, 64, 32, 4, 2),
}
MERGE_BLOCK = 128
# Of the tiles' sums, or of a panel of weights: enough rows to fill a GPU, little beside what it holds.
PANEL_BYTES = 256 << 20


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
    """q_i . k_j of this program's tile, left and right half of its columns; its tile of keys; its rows."""
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
    return halves, key_tile, row


@triton.jit
def _bits(product, row_bias, row, num_rows):
    """S of half a tile, in bits; anything beyond the edge of the keys."""
    row_bias_N = tl.load(row_bias + row, mask=row < num_rows, other=0.0) * LOG2_E
    return product * LOG2_E + row_bias_N[:, None]


@triton.jit
def _is_positive(row, column, first_positive, num_rows):
    return column[None, :] == tl.where(row < num_rows, first_positive + row, -1)[:, None]


@triton.jit(do_not_specialize=["first_positive"])
def _sums(
    query,  # [N, D]
    key,  # [M, D]
    row_bias,  # [N]
    positive,  # [N]; bits
    row_max,  # [T, N]; bits
    row_sum,  # [T, N]
    query_stride,
    key_stride,
    num_rows,
    num_keys,
    width,
    first_positive,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    WHOLE_STEPS: tl.constexpr,
    DOT_UPCAST: tl.constexpr,
):
    """Maxima and sums of exp of a tile's rows, and its positives."""
    halves, key_tile, row = _halves(
        query, key, query_stride, key_stride, num_rows, num_keys, width,
        BLOCK_N, BLOCK_M, BLOCK_D, WHOLE_STEPS, DOT_UPCAST,
    )  # fmt: skip
    for half in tl.static_range(2):
        tile = key_tile.to(tl.int64) * 2 + half
        column = (key_tile * 2 + half) * (BLOCK_M // 2) + tl.arange(0, BLOCK_M // 2)
        bits = _bits(halves[half], row_bias, row, num_rows)
        is_positive = _is_positive(row, column, first_positive, num_rows)
        # no two tiles hold the positive of one row; to reduce the tile to it would take registers that there are not
        tl.store(tl.broadcast_to((positive + row)[:, None], bits.shape), bits, mask=is_positive)
        bits = tl.where(is_positive | (column >= num_keys)[None, :], NEVER, bits)
        highest_N = tl.max(bits, 1)
        offset_N = tl.where(highest_N == NEVER, 0.0, highest_N)  # -inf - -inf is no number
        tl.store(row_max + tile * num_rows + row, highest_N, mask=row < num_rows)
        tl.store(row_sum + tile * num_rows + row, tl.sum(tl.exp2(bits - offset_N[:, None]), 1), mask=row < num_rows)


@triton.jit
def _merge(
    highest,  # [T, N], bits
    total,  # [T, N]
    lse,  # [N], nats
    num_tiles,
    num_rows,
    BLOCK: tl.constexpr,
):
    """Log-sum-exp of rows from those of their tiles."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < num_rows
    highest_N = tl.full((BLOCK,), NEVER, tl.float32)
    there = at.to(tl.int64)
    for _ in range(num_tiles):
        highest_N = tl.maximum(highest_N, tl.load(highest + there, mask=inside, other=NEVER))
        there += num_rows
    offset_N = tl.where(highest_N == NEVER, 0.0, highest_N)
    total_N = tl.zeros((BLOCK,), tl.float32)
    there = at.to(tl.int64)
    for _ in range(num_tiles):
        share_N = tl.exp2(tl.load(highest + there, mask=inside, other=NEVER) - offset_N)
        total_N += share_N * tl.load(total + there, mask=inside, other=0.0)
        there += num_rows
    tl.store(lse + at, (highest_N + tl.log2(tl.where(inside, total_N, 1.0))) * LN_2, mask=inside)


@triton.jit(do_not_specialize=["first_positive"])
def _weights(
    query,  # [N, D]
    key,  # [M, D]
    row_bias,  # [N]
    row_lse,  # [N]
    grad_row,  # [N]
    weight,  # [N, M], rows padded to `weight_stride`
    query_stride,
    key_stride,
    num_rows,
    num_keys,
    width,
    first_positive,
    weight_stride,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    WHOLE_STEPS: tl.constexpr,
    DOT_UPCAST: tl.constexpr,
):
    """Gradient of a tile's scores but its positives'."""
    halves, key_tile, row = _halves(
        query, key, query_stride, key_stride, num_rows, num_keys, width,
        BLOCK_N, BLOCK_M, BLOCK_D, WHOLE_STEPS, DOT_UPCAST,
    )  # fmt: skip
    for half in tl.static_range(2):
        column = (key_tile * 2 + half) * (BLOCK_M // 2) + tl.arange(0, BLOCK_M // 2)
        bits = _bits(halves[half], row_bias, row, num_rows)
        lse_N = tl.load(row_lse + row, mask=row < num_rows, other=0.0) * LOG2_E
        grad_N = tl.load(grad_row + row, mask=row < num_rows, other=0.0)
        left_out = _is_positive(row, column, first_positive, num_rows) | (column >= num_keys)[None, :]
        value = tl.exp2(tl.where(left_out, NEVER, bits - lse_N[:, None])) * grad_N[:, None]
        at = weight + row[:, None].to(tl.int64) * weight_stride + column[None, :]
        # the padding is written too: so a store is 16 bytes wide whatever M is
        inside = (row < num_rows)[:, None] & (column < weight_stride)[None, :]
        tl.store(at, value.to(weight.dtype.element_ty), mask=inside)


def pair_stats(query_ND: Tensor, key_MD: Tensor, row_bias_N: Tensor, first_positive: int) -> tuple[Tensor, Tensor]:
    """See `chunked.pair_stats`."""
    query_ND, key_MD, row_bias_N = _ready(query_ND), _ready(key_MD), row_bias_N.contiguous()
    positive_N, row_lse_N = torch.empty_like(row_bias_N), torch.empty_like(row_bias_N)
    half_tiles = triton.cdiv(len(key_MD), TILES[query_ND.dtype][1]) * 2
    for rows in panels(len(query_ND), _panel_rows(query_ND, 8 * half_tiles)):  # a maximum and a sum in float32
        lse_R = row_lse_N[rows]
        row_max_TR, row_sum_TR = (lse_R.new_empty(half_tiles, len(lse_R)) for _ in range(2))
        tensors = (row_bias_N[rows], positive_N[rows], row_max_TR, row_sum_TR)
        _launch(_sums, query_ND[rows], key_MD, tensors, first_positive + rows.start)
        _merge[(triton.cdiv(len(lse_R), MERGE_BLOCK),)](
            row_max_TR, row_sum_TR, lse_R, half_tiles, len(lse_R), BLOCK=MERGE_BLOCK
        )
    return positive_N.mul_(math.log(2)), row_lse_N


def pair_stats_backward(
    query_ND: Tensor,
    key_MD: Tensor,
    row_bias_N: Tensor,
    first_positive: int,
    row_lse_N: Tensor,
    coefficient_N: Tensor,
    grad_row_N: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `chunked.pair_stats_backward`."""
    query_ND, key_MD = _ready(query_ND), _ready(key_MD)
    row_bias_N, grad_row_N = row_bias_N.contiguous(), grad_row_N.contiguous()
    # bfloat16 has float32's range; float16 would lose the small weights. The interpreter's casts to bfloat16 truncate.
    dtype = torch.bfloat16 if query_ND.dtype == torch.bfloat16 and not interpreting() else torch.float32
    stride = triton.cdiv(len(key_MD), 16) * 16  # so that rows begin where wide stores may

    def weights(rows: slice) -> Tensor:
        query_RD = query_ND[rows]
        weight_RM = torch.empty(len(query_RD), stride, dtype=dtype, device=key_MD.device)
        tensors = (row_bias_N[rows], row_lse_N[rows], grad_row_N[rows], weight_RM)
        _launch(_weights, query_RD, key_MD, tensors, first_positive + rows.start, weight_stride=stride)
        return weight_RM[:, : len(key_MD)]

    panel_rows = _panel_rows(query_ND, stride * dtype.itemsize)
    return of_inputs(query_ND, key_MD, first_positive, weights, coefficient_N, panel_rows)


def _ready(features_ND: Tensor) -> Tensor:
    """The features with rows that lie whole."""
    return features_ND if features_ND.stride(1) == 1 else features_ND.contiguous()


def _panel_rows(query_ND: Tensor, row_bytes: int) -> int:
    block_rows = TILES[query_ND.dtype][0]
    return max(1, PANEL_BYTES // (row_bytes * block_rows)) * block_rows


def _launch(
    kernel: Any, query_ND: Tensor, key_MD: Tensor, tensors: tuple[Tensor, ...], first_positive: int, **values: int
) -> None:
    block_rows, block_keys, step, num_warps, num_stages = TILES[query_ND.dtype]
    (num_rows, width), num_keys = query_ND.shape, len(key_MD)
    kernel[(triton.cdiv(num_rows, block_rows) * triton.cdiv(num_keys, block_keys),)](
        query_ND,
        key_MD,
        *tensors,
        query_stride=query_ND.stride(0),
        key_stride=key_MD.stride(0),
        num_rows=num_rows,
        num_keys=num_keys,
        width=width,
        first_positive=first_positive,
        **values,
        BLOCK_N=block_rows,
        BLOCK_M=block_keys,
        BLOCK_D=step,
        WHOLE_STEPS=width % step == 0,
        DOT_UPCAST=interpreting(),  # whose products of bfloat16 are of the bit patterns
        num_warps=num_warps,
        num_stages=num_stages,
    )


_ALIGNED = frozenset({"query_stride", "key_stride", "weight_stride", "width"})


def _shipped() -> list[ShippedKernel]:
    found = [ShippedKernel("pair_stats._merge", _merge, _signature(_merge, "fp32"), {"BLOCK": MERGE_BLOCK})]
    names = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
    for kernel, (kind, tile), whole in itertools.product((_sums, _weights), TILES.items(), (True, False)):
        dtype, (rows, keys, step, warps, stages) = names[kind], tile
        blocks = {"BLOCK_N": rows, "BLOCK_M": keys, "BLOCK_D": step, "WHOLE_STEPS": whole, "DOT_UPCAST": False}
        found.append(
            ShippedKernel(
                f"pair_stats.{kernel.__name__} {dtype}{'' if whole else ' ragged'}",
                kernel,
                _signature(kernel, dtype),
                blocks,
                num_warps=warps,
                num_stages=stages,
                aligned=_ALIGNED & set(kernel.arg_names),
                tensor_cores=dtype != "fp32",
            )
        )
    return found


def _signature(kernel: Any, dtype: str) -> dict[str, str]:
    """Triton types of a kernel's arguments, told by their names."""
    special = {
        **dict.fromkeys(("query", "key"), f"*{dtype}"),
        **dict.fromkeys((*_ALIGNED, "num_rows", "num_keys", "num_tiles", "first_positive"), "i32"),
        "weight": "*bf16" if dtype == "bf16" else "*fp32",
    }
    return {name: special.get(name, "*fp32") for name in kernel.arg_names if not name.isupper()}


SHIPPED = _shipped()
