"""What is measured on a GPU alone: use of the card, and how much of a step is not its kernels."""

from collections.abc import Callable
from dataclasses import replace

import torch

from launcher.bench.contender import Contender
from launcher.bench.measure import Measured
from launcher.bench.ours import Wanted
from launcher.bench.shapes import NOTES, backbone_folder
from launcher.bench.tables import measured_table, mfu_of, shown
from launcher.bench.targets import Target, gpu_targets

OURS = "ours: prompt tuning"


def large_shapes(
    wanted: Wanted, lines: list[Measured], rate: float, steps: int, rounds: int, say: Callable[[str], object]
) -> list[Target]:
    """Measure both shapes in bfloat16; the targets, those of the other tables included."""
    used: dict[str, float | None] = {}
    over: dict[str, float | None] = {}
    for shape, note in NOTES.items():
        label = f"{shape} ({note})"
        with backbone_folder(shape) as folder:
            large = replace(wanted, backbone=folder, dtype="bfloat16")
            line, _ = _measured("256", replace(large, batch_size=32), label, rate, steps, rounds, say)
            used[label] = mfu_of(line, rate)
            line, kernels = _measured("64", replace(large, batch_size=8), label, rate, steps, rounds, say)
            over[label] = None if line.median is None or not kernels else line.median / kernels
    line, kernels = _measured("64", replace(wanted, batch_size=8), wanted.backbone, rate, steps, rounds, say)
    over[wanted.backbone] = None if line.median is None or not kernels else line.median / kernels
    return gpu_targets(lines, used, over)


def _measured(
    lengths: str, wanted: Wanted, label: str, rate: float, steps: int, rounds: int, say: Callable[[str], object]
) -> tuple[Measured, float]:
    kernels: list[float] = []

    def profile(contender: Contender) -> None:
        kernels.append(kernel_seconds(contender))

    _, (line,) = measured_table(lengths, wanted, steps=steps, rounds=rounds, only=[OURS], after=profile)
    say(f"\n{label}, {wanted.dtype}, {wanted.batch_size} x {lengths} positions")
    for text in shown([line], rate):
        say(text)
    return line, kernels[0] if kernels else 0.0


def kernel_seconds(contender: Contender) -> float:
    """Time of a step in which the card runs a kernel, the mean over a round."""
    batches = list(contender.batches(0))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiled:
        for batch in batches:
            contender.update(batch)
        torch.cuda.synchronize()
    total = sum(event.self_device_time_total for event in profiled.key_averages())
    return total / 1e6 / len(batches)
