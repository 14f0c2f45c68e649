"""Time and memory of every kernel beside what else does its work, all from one run.

python -m infoprompt.kernels.benchmark [--size cpu] [--json FILE] [--plot FILE]
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infoprompt.kernels.ceilings import Ceilings, measure_ceilings
from infoprompt.kernels.contenders import Case, Contender, Missing, cases, floor_seconds
from infoprompt.kernels.machine import machine, synchronize
from infoprompt.kernels.memory import free_bytes, peak_bytes

MOST_REPEATS = 25


@dataclass(frozen=True)
class Measured:
    """One line of the table."""

    op: str
    sizes: dict[str, int]
    contender: str
    ours: bool
    seconds: float | None = None
    """Median of forward and backward together."""
    peak_bytes: int | None = None
    """Most that its tensors held at a time beyond the inputs."""
    loss: float | None = None
    """Mean loss; None where it depends on draws."""
    problem: str | None = None
    """Why it did not run."""


def measure(case: Case, budget_seconds: float, without: Sequence[str] = ()) -> list[Measured]:
    """Every contender of a case, in turns so that a busy moment of the machine hits all of them.

    Args:
        case: what is measured.
        budget_seconds: time for all repeats of all contenders; each runs three times at least.
        without: names, or parts of names, of contenders to leave out.
    """
    able, rows = [], []
    for contender in case.contenders:
        if any(part in contender.name for part in without):
            continue
        problem = contender.reason if isinstance(contender, Missing) else _tried(case, contender)
        if isinstance(contender, Missing) or problem is not None:
            ours = isinstance(contender, Contender) and contender.ours
            rows.append(Measured(case.op, case.sizes, contender.name, ours, problem=problem))
        else:
            able.append(contender)
    peaks = {contender.name: _peak_bytes(case, contender) for contender in able}
    times: dict[str, list[float]] = {contender.name: [] for contender in able}
    start = time.perf_counter()
    for repeat in range(MOST_REPEATS):
        if repeat >= 3 and time.perf_counter() - start > budget_seconds:
            break
        for contender in able:
            times[contender.name].append(_seconds(case, contender))
    measured = [
        Measured(
            case.op,
            case.sizes,
            contender.name,
            contender.ours,
            statistics.median(times[contender.name]),
            peaks[contender.name],
            None if contender.random else contender.loss().item(),
        )
        for contender in able
    ]
    return measured + rows


def _tried(case: Case, contender: Contender) -> str | None:
    """Why a contender cannot run; None if a first run, which compiles what is compiled, went well."""
    free = free_bytes(case.leaves[0].device)
    if contender.needs_bytes > free:
        return f"needs {contender.needs_bytes / 2**30:.0f} GiB, and {free / 2**30:.0f} are free"
    try:
        _run(case, contender)
    except Exception as error:  # whatever another package raises, the others are still measured
        return f"{type(error).__name__}: {error}".splitlines()[0][:120]
    return None


def _run(case: Case, contender: Contender) -> Tensor:
    for leaf in case.leaves:
        leaf.grad = None
    loss = contender.loss()
    loss.backward()
    return loss


def _seconds(case: Case, contender: Contender) -> float:
    device = case.leaves[0].device
    synchronize(device)
    start = time.perf_counter()
    _run(case, contender)
    synchronize(device)
    return time.perf_counter() - start


def _peak_bytes(case: Case, contender: Contender) -> int:
    """Most bytes that a run's tensors hold at a time, gradients of the leaves included."""
    for leaf in case.leaves:
        leaf.grad = None
    return peak_bytes(case.leaves[0].device, lambda: _run(case, contender))


def lines(case: Case, rows: Sequence[Measured], ceilings: Ceilings | None = None) -> Iterator[str]:
    """The case's part of the table; ratios are to the first of ours. With a card's ceilings, its floor."""
    yield f"\n{case.title}"
    first = next((row for row in rows if row.ours), None)
    for row in rows:
        if row.seconds is None or row.peak_bytes is None:
            yield f"  {row.contender:32} not run: {row.problem}"
            continue
        ratios = ""
        if first and first.seconds and first.peak_bytes and row is not first:
            ratios = f"{row.seconds / first.seconds:9.2f} x time {row.peak_bytes / first.peak_bytes:9.2f} x memory"
        loss = "" if row.loss is None else f"  loss {row.loss:.6f}"
        yield f"  {row.contender:32} {row.seconds * 1e3:11.3f} ms {row.peak_bytes / 2**20:10.2f} MiB {ratios:36}{loss}"
    floor = floor_seconds(case, ceilings) if ceilings else None
    if floor is not None:
        yield f"  {'floor of this card':32} {floor * 1e3:11.3f} ms"


def draw(rows: Sequence[Measured], path: Path) -> None:
    """Bars of time and of memory, a row of two panels for each case."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    done = [row for row in rows if row.seconds is not None]
    titles = list(dict.fromkeys((row.op, *row.sizes.items()) for row in done))
    figure, axes = pyplot.subplots(len(titles), 2, figsize=(11, 1.9 * len(titles)), squeeze=False, layout="constrained")
    for title, (left, right) in zip(titles, axes, strict=True):
        part = [row for row in done if (row.op, *row.sizes.items()) == title][::-1]
        colours = ["tab:orange" if row.ours else "tab:gray" for row in part]
        names = [row.contender for row in part]
        left.barh(names, [(row.seconds or 0) * 1e3 for row in part], color=colours)
        right.barh(names, [(row.peak_bytes or 0) / 2**20 for row in part], color=colours)
        left.set(title=f"{title[0]}, {', '.join(f'{k} {v}' for k, v in title[1:])}", xlabel="ms", xscale="log")
        right.set(xlabel="MiB", xscale="log", yticks=[])
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m infoprompt.kernels.benchmark", description=__doc__)
    parser.add_argument("--size", choices=["tiny", "cpu", "gpu"], help="gpu where there is one, else cpu")
    parser.add_argument("--op", action="append", default=[], help="only ops whose name has this in it; may be repeated")
    parser.add_argument("--without", action="append", default=[], help="leave out contenders with this in their name")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for the repeats of a case")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and measurements")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw times and memory")
    chosen = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    about: dict[str, Any] = machine(device)
    sys.stdout.write(", ".join(f"{name} {value}" for name, value in about.items()) + "\n")
    sys.stdout.write("forward and backward, medians; memory beyond the inputs\n")
    ceilings = measure_ceilings(device) if device.type == "cuda" else None
    if ceilings:
        rates = f"{ceilings.bytes_per_second / 1e12:.2f} TB/s copied, {ceilings.flops / 1e12:.0f} TFLOP/s in bfloat16"
        sys.stdout.write(f"this card, measured: {rates}\n")
    rows: list[Measured] = []
    for case in cases(chosen.size or ("gpu" if device.type == "cuda" else "cpu"), device):
        if chosen.op and not any(part in case.op for part in chosen.op):
            continue
        measured = measure(case, chosen.seconds, chosen.without)
        sys.stdout.writelines(f"{line}\n" for line in lines(case, measured, ceilings))
        sys.stdout.flush()
        rows += measured
    if chosen.json:
        chosen.json.write_text(json.dumps({"machine": about, "rows": [asdict(row) for row in rows]}, indent=1))
    if chosen.plot:
        draw(rows, chosen.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
