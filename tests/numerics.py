"""How close numbers have to be to the truth, for tests of fast paths."""

import torch
from torch import Tensor

# Largest relative error of a loss or a gradient against float64. A tensor that is itself stored in bfloat16 has
# 1.1e-3 (its own rounding, root mean square of half a unit in the last place), in float32 4e-8.
CAPS = {torch.float32: 2e-6, torch.bfloat16: 2e-3, torch.float16: 5e-4}
# What an error may be where plain torch happens to have none: a few units in the last place of float32.
FLOOR = 4e-7


def relative_error(value: Tensor, truth: Tensor) -> tuple[float, float]:
    """Relative error in the Frobenius norm, and the largest error over the largest magnitude."""
    difference, truth = value.double() - truth.double(), truth.double()
    tiny = torch.finfo(torch.float64).tiny
    return (
        (difference.norm() / truth.norm().clamp(min=tiny)).item(),
        (difference.abs().max() / truth.abs().max().clamp(min=tiny)).item(),
    )


def assert_no_worse(ours: Tensor, plain: Tensor, truth: Tensor, dtype: torch.dtype) -> None:
    """Ours errs at most 1.5 times as much as plain torch in the same dtype, and less than the dtype's cap.

    Args:
        ours, plain, truth: the fast path, plain torch in the same dtype, and plain torch in float64.
        dtype: of the inputs.
    """
    assert ours.shape == truth.shape, f"shape {list(ours.shape)}, not {list(truth.shape)}"
    assert ours.isfinite().all(), "not finite"
    for kind, mine, theirs in zip(
        ("norm", "largest"), relative_error(ours, truth), relative_error(plain, truth), strict=True
    ):
        assert mine <= 1.5 * theirs + FLOOR, f"relative error ({kind}) {mine:.2e}, and plain torch's is {theirs:.2e}"
    assert relative_error(ours, truth)[0] < CAPS[dtype], f"relative error {relative_error(ours, truth)[0]:.2e}"
