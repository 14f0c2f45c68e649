"""Few rows: the matrix is read once, each tile for both products.

Below some 180 rows the time is that of reading the matrix. Each of S programs walks every S-th tile of words and
leaves (max, sum, weighted); a second kernel merges them. Over two sets of words

    max = max(max_1, max_2),   sum = sum_1 exp(max_1 - max) + sum_2 exp(max_2 - max),   weighted likewise.

Shapes: N rows, V vocabulary, D hidden width, S programs that share the words.
"""
# mypy: allow-untyped-defs

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from infoprompt.kernels.frozen_linear_cross_entropy.rows import Others
from infoprompt.kernels.frozen_linear_cross_entropy.triton_cap import LOWEST, capped, natural_exp
from infoprompt.kernels.implementation import interpreting
from infoprompt.kernels.offline import ShippedKernel

MOST_SHARES = 128
"""Programs: a power of two, and near the 132 multiprocessors of an H100."""
WORDS_OF_WIDTH = {64: 64, 128: 64, 256: 64, 512: 32, 1024: 32, 2048: 16}
"""Words of a tile by the padded width: two tiles and the rows fit the shared memory, and no register spills."""
WARPS, STAGES = 8, 3
MERGED_COLUMNS = 32


@triton.jit
def _share_kernel(
    hidden_ptr,  # [N, D]
    weight_ptr,  # [V, D]
    bias_ptr,  # [V]
    target_ptr,  # [N]
    max_ptr,  # [S, N]
    sum_ptr,  # [S, N]
    weighted_ptr,  # [S, N, D]
    num_rows,
    num_words,
    width,
    weight_stride,
    softcap,
    ROWS: tl.constexpr,
    WORDS: tl.constexpr,
    WIDTH: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    WITH_GRAD: tl.constexpr,
    DOT_UPCAST: tl.constexpr,
):
    # rows stand in columns, for wgmma wants 64 rows in one operand: the matrix has them, and 16 columns are enough
    share, num_shares = tl.program_id(0), tl.num_programs(0)
    rows, columns = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    in_rows, in_width = rows < num_rows, columns < width
    at_hidden = rows[None, :] * width + columns[:, None]
    inside = in_rows[None, :] & in_width[:, None]
    hidden = tl.load(hidden_ptr + at_hidden, mask=inside, other=0.0)
    target = tl.load(target_ptr + rows, mask=in_rows, other=-1)
    largest = tl.full([ROWS], LOWEST, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    weighted = tl.zeros([WIDTH, ROWS], tl.float32)
    if DOT_UPCAST:
        hidden = hidden.to(tl.float32)
    for tile in range(share, tl.cdiv(num_words, WORDS), num_shares):
        words = tile * WORDS + tl.arange(0, WORDS)
        in_words = words < num_words
        at_weight = words.to(tl.int64)[:, None] * weight_stride + columns[None, :]
        weight = tl.load(weight_ptr + at_weight, mask=in_words[:, None] & in_width[None, :], other=0.0)
        if DOT_UPCAST:
            weight = weight.to(tl.float32)
        logits = tl.dot(weight, hidden, input_precision="ieee")
        if HAS_BIAS:
            logits += tl.load(bias_ptr + words, mask=in_words, other=0.0).to(tl.float32)[:, None]
        if HAS_CAP:
            logits, slope = capped(logits, softcap)
        counted = in_words[:, None] & (words[:, None] != target[None, :])
        logits = tl.where(counted, logits, float("-inf"))
        raised = tl.maximum(largest, tl.max(logits, 0))
        shrink = natural_exp(largest - raised)
        exp = natural_exp(logits - raised[None, :])
        total = total * shrink + tl.sum(exp, 0)
        largest = raised
        if WITH_GRAD:
            if HAS_CAP:
                exp = exp * slope
            weighted = weighted * shrink[None, :]
            weighted = tl.dot(tl.trans(weight), exp.to(weight.dtype), weighted, input_precision="ieee")
    at = share * num_rows + rows
    tl.store(max_ptr + at, largest, mask=in_rows)
    tl.store(sum_ptr + at, total, mask=in_rows)
    if WITH_GRAD:
        tl.store(weighted_ptr + share * num_rows * width + at_hidden, weighted, mask=inside)


@triton.jit
def _merge_kernel(
    part_max_ptr,  # [S, N]
    part_sum_ptr,  # [S, N]
    part_weighted_ptr,  # [S, N, D]
    max_ptr,  # [N]
    sum_ptr,  # [N]
    weighted_ptr,  # [N, D]
    num_rows,
    num_shares,
    width,
    SHARES: tl.constexpr,
    COLUMNS: tl.constexpr,
    WITH_GRAD: tl.constexpr,
):
    row, shares = tl.program_id(0), tl.arange(0, SHARES)
    in_shares, at = shares < num_shares, shares * num_rows + row
    part_max = tl.load(part_max_ptr + at, mask=in_shares, other=LOWEST)
    largest = tl.max(part_max, 0)
    shrink = natural_exp(part_max - largest)
    if tl.program_id(1) == 0:
        part_sum = tl.load(part_sum_ptr + at, mask=in_shares, other=0.0)
        tl.store(max_ptr + row, largest)
        tl.store(sum_ptr + row, tl.sum(part_sum * shrink, 0))
    if WITH_GRAD:
        columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
        in_width = columns < width
        inside = in_shares[:, None] & in_width[None, :]
        part = tl.load(part_weighted_ptr + at[:, None] * width + columns[None, :], mask=inside, other=0.0)
        tl.store(weighted_ptr + row * width + columns, tl.sum(part * shrink[:, None], 0), mask=in_width)


def are_few(hidden_ND: Tensor) -> bool:
    """Whether these kernels take the rows: in half precision, and their sums fit the registers."""
    num_rows, width = hidden_ND.shape
    most = 32 if width <= 1024 else 16 if width <= 2048 else 0
    return 0 < num_rows <= most and hidden_ND.element_size() == 2


def others_of_few(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None,
    softcap: float | None,
    with_grad: bool,
) -> Others:
    """The sums over the words that are not the target, of contiguous rows that are few."""
    (num_rows, width), num_words = hidden_ND.shape, len(weight_VD)
    weight_VD = weight_VD if weight_VD.stride(1) == 1 else weight_VD.contiguous()
    constants = _constants(num_rows, width, bias_V is not None, softcap is not None, with_grad)
    num_shares = min(triton.cdiv(num_words, constants["WORDS"]), MOST_SHARES)

    def sums(*lead: int) -> Others:
        new, shapes = hidden_ND.new_empty, ((*lead, num_rows), (*lead, num_rows, width))
        max_N, sum_N = (new(shapes[0], dtype=torch.float32) for _ in range(2))
        return Others(max_N, sum_N, new(shapes[1], dtype=torch.float32) if with_grad else None)

    shares, rows = sums(num_shares), sums()
    _share_kernel[(num_shares,)](
        hidden_ND,
        weight_VD,
        bias_V,
        target_N,
        *shares,
        num_rows,
        num_words,
        width,
        weight_VD.stride(0),
        softcap or 0.0,
        **constants,
        DOT_UPCAST=interpreting(),
        num_warps=WARPS,
        num_stages=STAGES,
    )
    _merge_kernel[(num_rows, triton.cdiv(width, MERGED_COLUMNS) if with_grad else 1)](
        *shares,
        *rows,
        num_rows,
        num_shares,
        width,
        SHARES=MOST_SHARES,
        COLUMNS=MERGED_COLUMNS,
        WITH_GRAD=with_grad,
    )
    return rows


def _constants(num_rows: int, width: int, has_bias: bool, has_cap: bool, with_grad: bool) -> dict[str, Any]:
    padded = max(triton.next_power_of_2(width), min(WORDS_OF_WIDTH))
    return {
        "ROWS": 16 if num_rows <= 16 else 32,
        "WORDS": WORDS_OF_WIDTH[padded],
        "WIDTH": padded,
        "HAS_BIAS": has_bias,
        "HAS_CAP": has_cap,
        "WITH_GRAD": with_grad,
    }


def _shipped(dtype: str, num_rows: int, width: int, plain: bool, with_grad: bool = True) -> ShippedKernel:
    half, sums = f"*{dtype}", {"max_ptr": "*fp32", "sum_ptr": "*fp32", "weighted_ptr": "*fp32"}
    sizes = {"num_rows": "i32", "num_words": "i32", "width": "i32", "weight_stride": "i64", "softcap": "fp32"}
    return ShippedKernel(
        f"head, few rows, {dtype}, {num_rows} x {width}{'' if plain else ', bias, cap'}{'' if with_grad else ', loss'}",
        _share_kernel,
        {"hidden_ptr": half, "weight_ptr": half, "bias_ptr": half, "target_ptr": "*i64", **sums, **sizes},
        _constants(num_rows, width, not plain, not plain, with_grad) | {"DOT_UPCAST": False},
        WARPS,
        STAGES,
        frozenset({"width", "weight_stride"}),
        tensor_cores=with_grad,  # logits of 32 words are below wgmma's 64, the second product has `width`
    )


_POINTERS = ["part_max_ptr", "part_sum_ptr", "part_weighted_ptr", "max_ptr", "sum_ptr", "weighted_ptr"]
SHIPPED = [
    _shipped("bf16", 32, 1024, plain=False),
    _shipped("bf16", 16, 2048, plain=True),
    _shipped("fp16", 32, 512, plain=True),
    _shipped("bf16", 32, 1024, plain=True, with_grad=False),
    ShippedKernel(
        "head, few rows, merged",
        _merge_kernel,
        dict.fromkeys(_POINTERS, "*fp32") | dict.fromkeys(["num_rows", "num_shares", "width"], "i32"),
        {"SHARES": MOST_SHARES, "COLUMNS": MERGED_COLUMNS, "WITH_GRAD": True},
        aligned=frozenset({"width"}),
    ),
]
