"""Many rows: blocks of logits by torch's product, a kernel over their rows, and torch's product again.

Shapes: N rows, V vocabulary, D hidden width.
"""
# mypy: allow-untyped-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from infoprompt.kernels.frozen_linear_cross_entropy.chunked import wide_product
from infoprompt.kernels.frozen_linear_cross_entropy.rows import Others
from infoprompt.kernels.frozen_linear_cross_entropy.triton_cap import LOWEST, capped, natural_exp
from infoprompt.kernels.offline import ShippedKernel

BLOCK_BYTES = 512 << 20
"""Of logits and what is made of them, at a time."""
LEAST_ROWS = 128
WORDS, WARPS = 2048, 8


@triton.jit
def _row_kernel(
    logits_ptr,  # [N, V], float32
    bias_ptr,  # [V]
    target_ptr,  # [N]
    max_ptr,  # [N]
    sum_ptr,  # [N]
    exp_ptr,  # [N, V], exp(l - max) l', in the weight's dtype
    num_words,
    softcap,
    WORDS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_CAP: tl.constexpr,
    WITH_GRAD: tl.constexpr,
):
    row = tl.program_id(0)
    start = row.to(tl.int64) * num_words
    target = tl.load(target_ptr + row)
    largest, total = tl.full([], LOWEST, tl.float32), tl.full([], 0.0, tl.float32)
    for first in range(0, num_words, WORDS):
        words = first + tl.arange(0, WORDS)
        logits, _ = _row_logits(logits_ptr + start, bias_ptr, words, num_words, target, softcap, HAS_BIAS, HAS_CAP)
        raised = tl.maximum(largest, tl.max(logits, 0))
        total = total * natural_exp(largest - raised) + tl.sum(natural_exp(logits - raised), 0)
        largest = raised
    tl.store(max_ptr + row, largest)
    tl.store(sum_ptr + row, total)
    if WITH_GRAD:
        for first in range(0, num_words, WORDS):
            words = first + tl.arange(0, WORDS)
            logits, slope = _row_logits(
                logits_ptr + start, bias_ptr, words, num_words, target, softcap, HAS_BIAS, HAS_CAP
            )
            exp = natural_exp(logits - largest) * slope
            tl.store(exp_ptr + start + words, exp.to(exp_ptr.dtype.element_ty), mask=words < num_words)


@triton.jit
def _row_logits(row_ptr, bias_ptr, words, num_words, target, softcap, HAS_BIAS: tl.constexpr, HAS_CAP: tl.constexpr):
    counted = (words < num_words) & (words != target)
    logits = tl.load(row_ptr + words, mask=counted, other=0.0)
    if HAS_BIAS:
        logits += tl.load(bias_ptr + words, mask=counted, other=0.0).to(tl.float32)
    slope = tl.full(logits.shape, 1.0, tl.float32)
    if HAS_CAP:
        logits, slope = capped(logits, softcap)
    return tl.where(counted, logits, float("-inf")), slope


def others_of_many(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None,
    softcap: float | None,
    with_grad: bool,
) -> Others:
    """The sums over the words that are not the target, of contiguous rows."""
    num_words, new = len(weight_VD), hidden_ND.new_empty
    max_N, sum_N = (new(len(hidden_ND), dtype=torch.float32) for _ in range(2))
    weighted_ND = new(hidden_ND.shape, dtype=torch.float32) if with_grad else None
    step = max(BLOCK_BYTES // (num_words * (4 + weight_VD.element_size())), LEAST_ROWS)
    for top in range(0, len(hidden_ND), step):
        rows = slice(top, top + step)
        logits_NV = wide_product(hidden_ND[rows], weight_VD.T)
        exp_NV = torch.empty_like(logits_NV, dtype=weight_VD.dtype) if with_grad else None
        _row_kernel[(len(logits_NV),)](
            logits_NV,
            bias_V,
            target_N[rows],
            max_N[rows],
            sum_N[rows],
            exp_NV,
            num_words,
            softcap or 0.0,
            WORDS=WORDS,
            HAS_BIAS=bias_V is not None,
            HAS_CAP=softcap is not None,
            WITH_GRAD=with_grad,
            num_warps=WARPS,
        )
        if weighted_ND is not None and exp_NV is not None:
            weighted_ND[rows] = wide_product(exp_NV, weight_VD)
    return Others(max_N, sum_N, weighted_ND)


def _shipped(dtype: str, plain: bool) -> ShippedKernel:
    sums = {"max_ptr": "*fp32", "sum_ptr": "*fp32"}
    tensors = {"logits_ptr": "*fp32", "bias_ptr": f"*{dtype}", "target_ptr": "*i64", **sums, "exp_ptr": f"*{dtype}"}
    return ShippedKernel(
        f"head, many rows, {dtype}{'' if plain else ', bias, cap'}",
        _row_kernel,
        tensors | {"num_words": "i32", "softcap": "fp32"},
        {"WORDS": WORDS, "HAS_BIAS": not plain, "HAS_CAP": not plain, "WITH_GRAD": True},
        WARPS,
    )


SHIPPED = [_shipped("bf16", plain=False), _shipped("fp32", plain=True)]
