"""What work holds in memory, and what is free."""

import gc
import os
import resource
from collections.abc import Callable
from pathlib import Path

import torch


def peak_bytes(device: torch.device, work: Callable[[], object]) -> int:
    """Most bytes that tensors hold at a time while `work` runs, beyond those held before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return int(torch.cuda.max_memory_allocated(device) - before)
    return _peak_on_cpu(work)


def _peak_on_cpu(work: Callable[[], object]) -> int:
    """From torch's own record of allocations, so that other memory of the process does not count."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler says on standard error that it starts and stops
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    assert profiled.profiler is not None
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be taken on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    available = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    free = int(available.split()[1]) * 1024
    return free if limit == resource.RLIM_INFINITY else min(free, limit)
