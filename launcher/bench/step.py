"""`infoprompt bench step`: whole training steps, ours beside others', table by table."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from infoprompt.kernels.ceilings import measure_ceilings
from infoprompt.kernels.machine import machine
from launcher.bench.measure import Measured
from launcher.bench.on_gpu import large_shapes
from launcher.bench.ours import Wanted
from launcher.bench.shapes import NOTES, backbone_folder
from launcher.bench.tables import draw, measured_table, shown
from launcher.bench.targets import Target, cpu_targets


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    lengths: Sequence[str]
    batch_sizes: Sequence[int]
    rounds: int
    steps: int
    backbone: str
    dtype: str
    device: str
    prompt_length: int
    only: Sequence[str]
    targets: bool


def measure_steps(
    options: Options, json_file: Path | None, plot: Path | None, say: Callable[[str], object]
) -> dict[str, Any]:
    """Measure every table and say it; files are written anew after each, so a run that is ended leaves what it has."""
    on_gpu = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if on_gpu else "cpu")
    found: dict[str, Any] = {"machine": machine(device), "options": asdict(options), "rows": [], "targets": []}
    say(", ".join(f"{name} {value}" for name, value in found["machine"].items()))
    note = f" ({NOTES[options.backbone]})" if options.backbone in NOTES else ""
    say(
        f"{options.backbone}{note}, {options.dtype}, {options.prompt_length} vectors; whole steps with batch making, "
        f"medians of {options.rounds} rounds of {options.steps} steps; no dropout; memory beyond the weights"
    )
    rate = measure_ceilings(device).flops if on_gpu else None
    lines: list[Measured] = []

    def keep() -> None:
        found["rows"] = [asdict(line) for line in lines]
        if json_file:
            json_file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        if plot and any(line.seconds for line in lines):
            draw(lines, plot)

    with backbone_folder(options.backbone) as name:
        wanted = Wanted(name, options.dtype, device.type, options.batch_sizes[0], options.prompt_length)
        for lengths in options.lengths:
            for batch_size in options.batch_sizes:
                table = Wanted(name, options.dtype, device.type, batch_size, options.prompt_length)
                what, measured = measured_table(
                    lengths, table, steps=options.steps, rounds=options.rounds, only=options.only
                )
                say(f"\n{what}, batches of {batch_size}")
                for text in shown(measured, rate if options.dtype == "bfloat16" else None):
                    say(text)
                lines += measured
                keep()
        targets: list[Target] = []
        if options.targets and rate:
            targets = large_shapes(wanted, lines, rate, options.steps, options.rounds, say)
        elif options.targets:
            targets = cpu_targets(lines)
    if targets:
        say("\ntargets, with what was found")
        for target in targets:
            say(target.shown())
    found["targets"] = [{**asdict(target), "met": target.met} for target in targets]
    keep()
    return found
