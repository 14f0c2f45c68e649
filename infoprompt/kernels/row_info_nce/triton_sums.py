"""Parts of the Triton kernels that sum powers of 2, each relative to the largest so far.

The largest exponent, `top`, is -inf until something counts. Letters: B rows, K negatives.
"""
# mypy: allow-untyped-defs

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def rescaled(top, exponent, largest):
    """The new top, the factor that brings older sums to it, and 2**exponent relative to it.

    `largest` is what a new exponent can be: the exponent itself if each lane sums alone, their maximum if all together.
    """
    new = tl.maximum(top, largest)
    origin = tl.where(new == float("-inf"), 0.0, new)
    return new, tl.exp2(top - origin), tl.exp2(exponent - origin)


@triton.jit
def joined(top):
    """The largest top of all lanes, and what brings each lane's sums to it."""
    most = tl.max(top, 0)
    return most, tl.exp2(top - tl.where(most == float("-inf"), 0.0, most))


@triton.jit
def log_sum(top, total):
    """Natural logarithm of total * 2**top; -inf where the total is 0."""
    return tl.where(total == 0.0, float("-inf"), top * LN_2 + tl.log(tl.where(total == 0.0, 1.0, total)))


@triton.jit
def counts(keep_ptr, inside, HAS_KEEP: tl.constexpr):
    """How often each counts, float32; not at all outside."""
    count = tl.load(keep_ptr, mask=inside, other=0) if HAS_KEEP else inside
    return count.to(tl.float32)
