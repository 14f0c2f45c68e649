"""The cap of logits, and exp, inside Triton kernels."""
# mypy: allow-untyped-defs

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-1e38)
"""Where a maximum starts: below any logit, and its difference to itself is 0, where minus infinity's is NaN."""


@triton.jit
def capped(x, softcap):
    # tanh of the absolute value: by its series where 1 - exp would lose digits
    y = tl.abs(x) / softcap
    square = y * y
    series = y * (1 + square * (-1 / 3 + square * (2 / 15 + square * (-17 / 315 + square * (62 / 2835)))))
    decay = tl.exp2(y * (-2 * LOG2_E))
    tanh = tl.where(y < 0.25, series, (1 - decay) / (1 + decay))
    slope = 4 * decay / ((1 + decay) * (1 + decay))
    return tl.where(x < 0, -softcap, softcap) * tanh, slope


@triton.jit
def natural_exp(x):
    return tl.exp2(x * LOG2_E)
