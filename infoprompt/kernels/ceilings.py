"""How fast the card at hand copies and multiplies: what a kernel's time is compared with."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Ceilings:
    """Measured rates of a card."""

    bytes_per_second: float
    """Of a copy on the card, bytes read and bytes written."""
    flops: float
    """Of a large product of random bfloat16 matrices, a multiplication and an addition being two."""


def measure_ceilings(device: torch.device, copied_bytes: int = 2 << 30, side: int = 8192) -> Ceilings:
    """Both rates, medians of ten after three for warm-up.

    Args:
        device: a GPU.
        copied_bytes: size of what is copied; several times the card's cache.
        side: rows and columns of the matrices.
    """
    copy_seconds = _copy_seconds(device, copied_bytes)
    return Ceilings(2 * copied_bytes / copy_seconds, 2 * side**3 / _product_seconds(device, side))


def _copy_seconds(device: torch.device, copied_bytes: int) -> float:
    source, target = (torch.empty(copied_bytes, dtype=torch.uint8, device=device) for _ in range(2))
    source.random_()
    return _median_seconds(lambda: target.copy_(source))


def _product_seconds(device: torch.device, side: int) -> float:
    # of zeros a product is faster, since fewer bits change
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = torch.empty_like(left)
    return _median_seconds(lambda: torch.mm(left, right, out=product))


def _median_seconds(work: Callable[[], object]) -> float:
    for _ in range(3):
        work()
    seconds = []
    for _ in range(10):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return statistics.median(seconds)
