"""Triton kernels for the scores of a row's negatives: given, or those of vectors. One program a row.

What they compute is derived in `triton_kernels`. Letters: B rows, K negatives, L tokens, V vocabulary, E embedding
width.
"""
# mypy: allow-untyped-defs

import triton
import triton.language as tl

from infoprompt.kernels.row_info_nce.triton_sums import LOG2_E, counts, joined, log_sum, rescaled


@triton.jit
def row_log_odds_kernel(
    positive_ptr,  # [B]
    negative_ptr,  # [B, K]
    keep_ptr,  # [B, K], with HAS_KEEP
    log_odds_ptr,  # [B]
    num_negatives,
    negative_row_stride,
    negative_stride,
    keep_row_stride,
    keep_stride,
    HAS_KEEP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    positive = tl.load(positive_ptr + row)
    top, total = tl.full([BLOCK], float("-inf"), tl.float32), tl.zeros([BLOCK], tl.float32)
    for start in range(0, num_negatives, BLOCK):
        column = (start + tl.arange(0, BLOCK)).to(tl.int64)
        count = counts(keep_ptr + row * keep_row_stride + column * keep_stride, column < num_negatives, HAS_KEEP)
        score = tl.load(negative_ptr + row * negative_row_stride + column * negative_stride, mask=count > 0, other=0)
        exponent = tl.where(count > 0, (score.to(tl.float32) - positive) * LOG2_E, float("-inf"))
        top, kept, share = rescaled(top, exponent, exponent)
        total = total * kept + share * count
    most, share = joined(top)
    tl.store(log_odds_ptr + row, log_sum(most, tl.sum(total * share, 0)))


@triton.jit
def row_log_odds_backward_kernel(
    grad_ptr,  # [B]
    positive_ptr,  # [B]
    negative_ptr,  # [B, K]
    keep_ptr,  # [B, K], with HAS_KEEP
    log_odds_ptr,  # [B]
    out_ptr,  # [B, K], contiguous
    num_negatives,
    negative_row_stride,
    negative_stride,
    keep_row_stride,
    keep_stride,
    HAS_KEEP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    column = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    inside = column < num_negatives
    count = counts(keep_ptr + row * keep_row_stride + column * keep_stride, inside, HAS_KEEP)
    score = tl.load(negative_ptr + row * negative_row_stride + column * negative_stride, mask=count > 0, other=0)
    positive, log_odds = tl.load(positive_ptr + row), tl.load(log_odds_ptr + row)
    # the log odds of a row in which nothing counts are -inf
    origin = tl.where(log_odds == float("-inf"), 0.0, log_odds)
    exponent = tl.where(count > 0, (score.to(tl.float32) - positive - origin) * LOG2_E, float("-inf"))
    share = tl.exp2(exponent) * count
    tl.store(out_ptr + row * num_negatives + column, share * tl.load(grad_ptr + row), mask=inside)


@triton.jit
def vector_log_odds_kernel(
    positive_ptr,  # [B]
    vector_ptr,  # [B, L, E]; with LOOK_UP the table, [V, E]
    token_ptr,  # [B, L], with LOOK_UP
    keep_ptr,  # [B, L], with HAS_KEEP
    direction_ptr,  # [E]
    log_odds_ptr,  # [B]
    mean_ptr,  # [B, E], contiguous, with WITH_MEAN
    length,
    width,
    vector_row_stride,
    vector_stride,
    entry_stride,
    token_row_stride,
    token_stride,
    keep_row_stride,
    keep_stride,
    HAS_KEEP: tl.constexpr,
    LOOK_UP: tl.constexpr,
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
        count = counts(keep_ptr + row * keep_row_stride + place * keep_stride, place < length, HAS_KEEP)
        if LOOK_UP:
            token = tl.load(token_ptr + row * token_row_stride + place * token_stride, mask=count > 0, other=0)
            start_of = token.to(tl.int64) * vector_stride
        else:
            start_of = row * vector_row_stride + place * vector_stride
        read = (count > 0)[:, None] & (entry < width)[None, :]
        at = vector_ptr + start_of[:, None] + entry[None, :].to(tl.int64) * entry_stride
        vector = tl.load(at, mask=read, other=0).to(tl.float32)
        score = tl.sum(vector * direction[None, :], 1)
        exponent = tl.where(count > 0, (score - positive) * LOG2_E, float("-inf"))
        top, kept, share = rescaled(top, exponent, tl.max(exponent, 0))
        share *= count
        total = total * kept + tl.sum(share, 0)
        if WITH_MEAN:
            tilted = tilted * kept + tl.sum(share[:, None] * vector, 0)
    tl.store(log_odds_ptr + row, log_sum(top, total))
    if WITH_MEAN:
        tl.store(mean_ptr + row * width + entry, tilted / tl.where(total == 0.0, 1.0, total), mask=entry < width)
