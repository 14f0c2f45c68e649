"""What came out of a study: a row for each method on each task and size, as Markdown and CSV, and every run as CSV."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from launcher.paired import paired_differences
from launcher.studies.jobs import Cell, Job
from launcher.studies.plan import show_setting
from launcher.studies.statistics import area_under, bootstrap_mean, count_wins, has_collapsed, row_differences, spread


@dataclass(frozen=True)
class RunRow:
    """One run; a score that it does not have is None."""

    task: str
    size: str
    method: str
    phase: str
    seed: int
    setting: str
    state: str
    """`finished`, `failed` or `missing`."""
    message: str | None
    metric: str | None = None
    dev: float | None = None
    test: float | None = None
    majority: float | None = None
    """Score of always predicting the test rows' most frequent class."""
    collapsed: bool | None = None
    largest_share: float | None = None
    """Share of the test rows that were given the class predicted most often."""
    steps: int | None = None
    best_step: int | None = None
    steps_to_95: int | None = None
    area: float | None = None
    trained_parameters: int | None = None
    touched_parameters: int | None = None
    encoder_passes: float | None = None
    total_encoder_passes: int | None = None
    seconds: float | None = None
    train_rows: int | None = None
    dev_rows: int | None = None
    test_rows: int | None = None
    unlabelled_rows: int | None = None
    unlabelled: str | None = None
    """Where texts without labels came from, see `RunResult`."""
    version: str | None = None
    """Of this package."""
    commit: str | None = None
    """Of the folder that the run was started in; `-dirty` behind it if tracked files differed."""
    folder: str | None = None
    run_id: str | None = None


@dataclass(frozen=True)
class TableRow:
    """A method on a task at a size; means over its finished final runs. What cannot be told is None."""

    task: str
    size: str
    method: str
    setting: str | None
    tried: int
    """Settings that the search tried."""
    metric: str | None
    seeds: int
    """Final runs that finished."""
    failed: int
    """Final runs that failed."""
    mean: float | None
    deviation: float | None
    """Sample standard deviation over the seeds."""
    lowest: float | None
    highest: float | None
    dev_mean: float | None
    majority: float | None
    collapsed: int | None
    difference: float | None
    """Mean over the seeds of the test score minus the baseline's on the same seed."""
    seeds_low: float | None
    """The 95 % interval of the difference over the seeds, from here"""
    seeds_high: float | None
    """to here."""
    rows_low: float | None
    """The same over the test rows, where the metric is accuracy."""
    rows_high: float | None
    wins: int | None
    ties: int | None
    losses: int | None
    steps_to_95: float | None
    area: float | None
    trained_parameters: int | None
    touched_parameters: int | None
    encoder_passes: float | None
    total_encoder_passes: int | None
    seconds: float | None
    unlabelled: str | None = None
    """As in `RunRow`."""


def run_rows(cells: Iterable[Cell]) -> list[RunRow]:
    """Every run that has begun or is known to be due."""
    return [run_row(job) for cell in cells for job in (*cell.search_jobs, *cell.final_jobs)]


def table_rows(cells: Sequence[Cell]) -> list[TableRow]:
    """A row per cell, in their order."""
    by_place = {cell.place: cell for cell in cells}
    rows = []
    for cell in cells:
        baseline = by_place[(*cell.place[:2], cell.study.config.baseline)]
        rows.append(_table_row(cell, baseline))
    return rows


def write_csv(path: Path, rows: Sequence[RunRow] | Sequence[TableRow], kind: type[RunRow] | type[TableRow]) -> None:
    """A line per row under the names of its fields; None is an empty cell."""
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(kind)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def curve_of(job: Job) -> list[tuple[float, float]]:
    """(step, dev score) of every evaluation of a finished run."""
    result = job.result()
    key = f"dev/{result['metric']}" if result else ""
    return [(row["step"], row[key]) for row in job.history() if key in row]


def test_score(job: Job) -> float | None:
    """The main test score of a finished run that has test rows."""
    result = job.result()
    return result["test"].get(result["metric"]) if result else None


def run_row(job: Job) -> RunRow:
    """A run, whether it finished, failed or is due."""
    task, size, method = job.cell.place
    result, failure = job.result(), job.failure()
    state = "finished" if result else "failed" if failure else "missing"
    row = RunRow(task, size, method, job.phase, job.seed, json.dumps(job.setting), state, None if result else failure)
    if result is None:
        return row
    predictions = job.predictions()
    test, majority = test_score(job), predictions.get("majority", {}).get(result["metric"])
    # of tags and of values there is no class that a whole row is given
    predicted = [] if majority is None else predictions["predictions"]
    margin = job.cell.study.config.collapsed_margin
    measured = {
        "metric": result["metric"],
        "dev": result["dev"].get(result["metric"]),
        "test": test,
        "majority": majority,
        "collapsed": None if test is None or majority is None else has_collapsed(test, majority, margin),
        "largest_share": max(map(predicted.count, set(predicted))) / len(predicted) if predicted else None,
        "area": area_under(curve_of(job)),
        **{f"{part}_rows": count for part, count in result.get("rows", {}).items()},
        "folder": str(job.folder.relative_to(job.cell.study.folder)),
    }
    copied = {field.name for field in fields(RunRow)} & result.keys() - measured.keys()
    return RunRow(**{**asdict(row), **{key: result[key] for key in copied}, **measured})


def _table_row(cell: Cell, baseline: Cell) -> TableRow:
    task, size, method = cell.place
    rows = [run_row(job) for job in cell.final_jobs]
    done = [row for row in rows if row.state == "finished"]
    scores = _scores(cell)
    of_test = spread(list(scores.values()))
    differences = [] if cell is baseline else paired_differences(scores, _scores(baseline))
    by_seed = bootstrap_mean(differences)
    by_row = None if cell is baseline else bootstrap_mean(_differences_by_row(cell, baseline))
    wins = count_wins(differences) if differences else None
    gap = spread(differences)
    return TableRow(
        task=task,
        size=size,
        method=method,
        setting=None if cell.chosen is None else show_setting(cell.chosen),
        tried=len(cell.settings),
        metric=done[0].metric if done else None,
        seeds=len(done),
        failed=sum(row.state == "failed" for row in rows),
        mean=of_test.mean if of_test else None,
        deviation=of_test.deviation if of_test else None,
        lowest=min(scores.values(), default=None),
        highest=max(scores.values(), default=None),
        dev_mean=_mean(done, "dev"),
        majority=_mean(done, "majority"),
        collapsed=None
        if any(row.collapsed is None for row in done) or not done
        else sum(bool(r.collapsed) for r in done),
        difference=gap.mean if gap else None,
        seeds_low=by_seed[0] if by_seed else None,
        seeds_high=by_seed[1] if by_seed else None,
        rows_low=by_row[0] if by_row else None,
        rows_high=by_row[1] if by_row else None,
        wins=wins.wins if wins else None,
        ties=wins.ties if wins else None,
        losses=wins.losses if wins else None,
        steps_to_95=_mean(done, "steps_to_95"),
        area=_mean(done, "area"),
        trained_parameters=done[0].trained_parameters if done else None,
        touched_parameters=done[0].touched_parameters if done else None,
        encoder_passes=_mean(done, "encoder_passes"),
        total_encoder_passes=done[0].total_encoder_passes if done else None,
        seconds=_mean(done, "seconds"),
        unlabelled=done[0].unlabelled if done else None,
    )


def shown_method(method: str, unlabelled: str | None) -> str:
    """A method's name, which says so where the run has read the texts of the test rows."""
    return f"{method} (transductive)" if unlabelled == "transductive" else method


def _scores(cell: Cell) -> dict[int, float]:
    scores = {job.seed: test_score(job) for job in cell.final_jobs}
    return {seed: score for seed, score in scores.items() if score is not None}


def _differences_by_row(cell: Cell, baseline: Cell) -> list[float]:
    """See `row_differences`; empty where the metric is not accuracy, or the two do not share seeds and test rows."""
    ours, theirs = _right_by_seed(cell), _right_by_seed(baseline)
    seeds = sorted(ours.keys() & theirs.keys())
    lengths = {len(right[seed]) for right in (ours, theirs) for seed in seeds}
    if len(lengths) != 1:
        return []
    return row_differences([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds])


def _right_by_seed(cell: Cell) -> dict[int, list[bool]]:
    right = {}
    for job in cell.final_jobs:
        result = job.result()
        if result and result["metric"] == "accuracy" and (kept := job.predictions()):
            right[job.seed] = [a == b for a, b in zip(kept["labels"], kept["predictions"], strict=True)]
    return right


def _mean(rows: Sequence[RunRow], name: str) -> float | None:
    values: list[Any] = [value for row in rows if (value := getattr(row, name)) is not None]
    found = spread(values)
    return found.mean if found else None


def by_task_and_size(rows: Iterable[TableRow]) -> Mapping[tuple[str, str], list[TableRow]]:
    """The rows of each task and size."""
    groups: dict[tuple[str, str], list[TableRow]] = {}
    for row in rows:
        groups.setdefault((row.task, row.size), []).append(row)
    return groups
