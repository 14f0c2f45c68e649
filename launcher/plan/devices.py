"""Devices by name, and what they can do at most."""

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from infoprompt.config import ConfigError


@dataclass(frozen=True)
class Device:
    """The most that a device can do, and the share of it that is assumed."""

    name: str
    flops: dict[str, float]
    """Floating-point operations a second in products of matrices, by `backbone.dtype`; dense."""
    bytes_per_second: float
    memory_bytes: int
    source: str
    compute_share: float
    """Of `flops`."""
    bandwidth_share: float
    """Of `bytes_per_second`."""
    start_seconds: float
    """Least time of an operation: what PyTorch takes to start it."""
    context_bytes: int = 0
    """What a process takes of its memory before the first tensor."""

    def seconds(self, flops: int, moved_bytes: int, dtype: str) -> float:
        """Time of one operation: that of its arithmetic, of its memory or of its start, whichever is longest."""
        compute = flops / (self.flops[dtype] * self.compute_share)
        return max(self.start_seconds, compute, moved_bytes / (self.bytes_per_second * self.bandwidth_share))


# Half the rate in products and four fifths of the bandwidth are what large training steps reach in PyTorch. A context
# with cuBLAS and its workspace takes about half a gigabyte. Python starts about 200,000 operations a second.
def _gpu(name: str, float32: float, bfloat16: float, gigabytes_per_second: float, gigabytes: int, sheet: str) -> Device:
    rates = {"float32": float32 * 1e12, "bfloat16": bfloat16 * 1e12}
    return Device(
        name,
        rates,
        gigabytes_per_second * 1e9,
        gigabytes * 10**9,
        f"NVIDIA {sheet} data sheet",
        0.5,
        0.8,
        5e-6,
        5 * 10**8,
    )


GPUS = {
    device.name: device
    for device in (
        _gpu("h200", 67, 989, 4800, 141, "H200 (SXM)"),
        _gpu("h100", 67, 989, 3350, 80, "H100 (SXM)"),
        _gpu("a100", 19.5, 312, 2039, 80, "A100 80GB (SXM)"),
        _gpu("l4", 30.3, 121, 300, 24, "L4"),
    )
}
"""float32 without TF32, as torch computes it; bfloat16 without sparsity."""


def find_device(name: str) -> Device:
    """The device of that name; `cpu` is measured, in under two seconds. Raises ConfigError for an unknown one."""
    if name == "cpu":
        return measured_cpu()
    if name.lower() not in GPUS:
        raise ConfigError(f"--device is {name!r}, but known devices are cpu, {', '.join(GPUS)}. Name one of them.")
    return GPUS[name.lower()]


def measured_cpu(side: int = 768, copied_bytes: int = 64 << 20) -> Device:
    """This machine's processor, as torch uses it now.

    Args:
        side: rows and columns of the matrices; the width of a layer.
        copied_bytes: of the copy, more than a core's caches hold.
    """
    rates = {}
    for dtype in ("float32", "bfloat16"):
        left, right = (torch.randn(side, side).to(getattr(torch, dtype)) for _ in range(2))
        rates[dtype] = 2 * side**3 / _median_seconds(lambda left=left, right=right: left @ right)  # type: ignore[misc]
    source = torch.ones(copied_bytes, dtype=torch.uint8)
    target = torch.empty_like(source)
    bandwidth = 2 * copied_bytes / _median_seconds(lambda: target.copy_(source))
    one = torch.ones(1)
    start = _median_seconds(lambda: [one + one for _ in range(1000)]) / 1000
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    threads = torch.get_num_threads()
    return Device("cpu", rates, bandwidth, memory, f"measured now, {threads} threads", 1.0, 1.0, start)


def _median_seconds(work: Callable[[], object]) -> float:
    work()
    seconds: list[float] = []
    while len(seconds) < 7 and sum(seconds) < 0.4:
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
