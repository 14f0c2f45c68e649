"""Methods compared over seeds, from final runs alone: within each task and size, and over all of them."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from launcher.paired import ROUNDING, interval, paired_differences
from launcher.studies.recorded import FinalRun
from launcher.studies.statistics import Wins, count_wins, spread

Verdict = Literal["above", "holds", "below", "unknown"]


@dataclass(frozen=True)
class Difference:
    """A method minus a baseline on one task and size, over the seeds that both have."""

    seeds: int
    mean: float
    interval: tuple[float, float] | None
    """Student's t, 95 %; None for one seed, or where all seeds differ by the same, without a spread to judge by."""
    wins: Wins
    spread_ratio: float | None
    """The method's sample standard deviation over the baseline's; None for one seed, or if either is zero."""

    @property
    def verdict(self) -> Verdict:
        """Where zero lies of the interval."""
        if self.interval is None:
            return "unknown"
        low, high = self.interval
        return "above" if low > ROUNDING else "below" if high < -ROUNDING else "holds"


@dataclass(frozen=True)
class MethodRow:
    """A method on a task at a size; means are over the finished runs, and None where no file says."""

    task: str
    size: str
    method: str
    metric: str | None
    seeds: int
    failed: int
    mean: float | None
    deviation: float | None
    """Sample standard deviation over the seeds; None for one seed."""
    differences: Mapping[str, Difference]
    """Baseline to the difference to it; without those that share no seed."""
    steps_to_95: float | None
    best_step: float | None
    seconds: float | None
    train_rows: float | None
    test_rows: float | None


@dataclass(frozen=True)
class Summary:
    """A method against a baseline over all cells, which are a task and a size each."""

    method: str
    baseline: str
    above: int
    """Cells whose interval lies above zero."""
    holds: int
    below: int
    unknown: int
    """Cells without an interval."""
    mean: float
    """Mean over the cells of the differences."""
    spread_ratio: float | None
    """Geometric mean over the cells of `Difference.spread_ratio`."""
    spread_cells: int
    """Cells that have one."""


def method_rows(runs: Sequence[FinalRun], baselines: Sequence[str]) -> list[MethodRow]:
    """A row for each method on each task and size, in the order in which tasks, sizes and methods are first met."""
    tasks, sizes, methods = (list(dict.fromkeys(run.key[part] for run in runs)) for part in range(3))
    cells: dict[tuple[str, str, str], list[FinalRun]] = {}
    for run in runs:
        cells.setdefault((run.task, run.size, run.method), []).append(run)
    order = sorted(cells, key=lambda key: (tasks.index(key[0]), sizes.index(key[1]), methods.index(key[2])))
    scores = {key: {run.seed: run.test for run in cells[key] if run.test is not None} for key in order}
    rows = []
    for key in order:
        others = {name: scores.get((*key[:2], name), {}) for name in baselines if name != key[2]}
        differences = {name: found for name, other in others.items() if (found := _difference(scores[key], other))}
        rows.append(_row(cells[key], differences))
    return rows


def summaries(rows: Iterable[MethodRow]) -> list[Summary]:
    """Each method against each baseline, over the tasks and sizes that have both."""
    found: dict[tuple[str, str], list[Difference]] = {}
    for row in rows:
        for baseline, difference in row.differences.items():
            found.setdefault((row.method, baseline), []).append(difference)
    return [_summary(*names, differences) for names, differences in found.items()]


def _difference(scores: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    values = paired_differences(scores, baseline)
    if not values:
        return None
    shared = sorted(scores.keys() & baseline.keys())
    ours, theirs = ([own[seed] for seed in shared] for own in (scores, baseline))
    bounds, mean, ratio = interval(values), statistics.fmean(values), None
    if max(values) - min(values) < ROUNDING <= abs(mean):
        bounds = None
    if min(max(own) - min(own) for own in (ours, theirs)) >= ROUNDING:
        ratio = statistics.stdev(ours) / statistics.stdev(theirs)
    return Difference(len(values), mean, bounds, count_wins(values), ratio)


def _row(runs: Sequence[FinalRun], differences: Mapping[str, Difference]) -> MethodRow:
    finished = [run for run in runs if run.test is not None]
    found = spread([run.test for run in finished if run.test is not None])

    def mean(name: str) -> float | None:
        values = [run.numbers[name] for run in finished if name in run.numbers]
        return statistics.fmean(values) if values else None

    return MethodRow(
        task=runs[0].task,
        size=runs[0].size,
        method=runs[0].method,
        metric=finished[0].metric if finished else None,
        seeds=len(finished),
        failed=len(runs) - len(finished),
        mean=found.mean if found else None,
        deviation=found.deviation if found else None,
        differences=differences,
        steps_to_95=mean("steps_to_95"),
        best_step=mean("best_step"),
        seconds=mean("seconds"),
        train_rows=mean("train_rows"),
        test_rows=mean("test_rows"),
    )


def _summary(method: str, baseline: str, differences: Sequence[Difference]) -> Summary:
    verdicts = [difference.verdict for difference in differences]
    ratios = [difference.spread_ratio for difference in differences if difference.spread_ratio is not None]
    return Summary(
        method=method,
        baseline=baseline,
        above=verdicts.count("above"),
        holds=verdicts.count("holds"),
        below=verdicts.count("below"),
        unknown=verdicts.count("unknown"),
        mean=statistics.fmean(difference.mean for difference in differences),
        spread_ratio=math.exp(statistics.fmean(map(math.log, ratios))) if ratios else None,
        spread_cells=len(ratios),
    )
