"""Final runs of studies, read from their `runs.csv` alone."""

import csv
import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from infoprompt.config import ConfigError
from launcher.studies.results import shown_method

KEYS = ("task", "size", "method", "seed")
NEEDED = (*KEYS, "phase", "setting", "state", "metric", "test")
"""Columns that every version of `infoprompt study` has written; all others may be absent."""
COUNTED = ("train_rows", "test_rows", "steps_to_95", "best_step", "seconds")

T = TypeVar("T")


@dataclass(frozen=True)
class FinalRun:
    """One final run that finished or failed."""

    place: str
    """File and line, for messages."""
    task: str
    size: str
    method: str
    seed: int
    setting: str
    metric: str
    test: float | None
    """Score on the test rows; None if the run failed."""
    numbers: Mapping[str, float]
    """Those of `COUNTED` that the file has."""
    code: str
    """Version and commit that trained it; empty where the file does not say."""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What it is among all runs."""
        return self.task, self.size, self.method, self.seed


def read_final_runs(paths: Iterable[Path]) -> list[FinalRun]:
    """The final runs of some files, each run once, in the order in which they are met.

    A run that failed in one file and finished in another has finished.

    Raises:
        ConfigError: a file is no `runs.csv`, a value does not fit, a run stands twice with unlike scores, or the runs
            of a task and size are scored by different metrics.
    """
    runs: dict[tuple[str, str, str, int], FinalRun] = {}
    scored: dict[tuple[str, str], FinalRun] = {}
    for run in (run for path in paths for run in _runs_of(path)):
        known = runs.setdefault(run.key, run)
        if known.test is None:
            runs[run.key] = known = run
        if run.test is None:
            continue
        if run.test != known.test:
            raise ConfigError(
                f"{run.place}: test is {run.test:g} for {run.method} on {run.task}, {run.size}, seed {run.seed}, but "
                f"{known.place} has {known.test:g}. Each run must have one score: leave one of the two out."
            )
        first = scored.setdefault(run.key[:2], run)
        if run.metric != first.metric:
            raise ConfigError(
                f"{run.place}: metric is {run.metric} on {run.task}, {run.size}, but {first.place} has {first.metric}. "
                "A task needs one metric: leave one of the two out."
            )
    return list(runs.values())


def chosen_runs(
    runs: Sequence[FinalRun], tasks: Sequence[str], sizes: Sequence[str], methods: Sequence[str]
) -> list[FinalRun]:
    """The runs of some tasks, sizes and methods, of all where none is named; raises ConfigError for an unknown one."""
    given = runs
    for option, names in (("task", tasks), ("size", sizes), ("method", methods)):
        known = list(dict.fromkeys(getattr(run, option) for run in given))
        for name in names:
            check_known(f"--{option}", name, known)
        if names:
            runs = [run for run in runs if getattr(run, option) in names]
    return list(runs)


def check_known(option: str, name: str, known: Sequence[str], owner: str = "no final run") -> None:
    """Raises ConfigError if an option names what its owner does not have."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}."
        raise ConfigError(f"{option} is {name}, but {owner} has {'it' if owner.startswith('no') else 'none'}. {hint}")


def _runs_of(path: Path) -> Iterator[FinalRun]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        try:
            missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
            if missing:
                raise ConfigError(
                    f"{path} has no column {missing[0]}, but a table needs {', '.join(NEEDED)}. Give the runs.csv that "
                    "`infoprompt study` wrote."
                )
            for row in reader:
                if row["phase"] == "final" and row["state"] in ("finished", "failed"):
                    yield _run(row, f"{path}, line {reader.line_num}")
        except (csv.Error, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}, line {reader.line_num + 1} cannot be read: {error}. Write it anew.") from None


def _run(row: Mapping[str, str | None], place: str) -> FinalRun:
    finished = row["state"] == "finished"
    for name in (*KEYS, *(("metric", "test") if finished else ())):
        if not row[name]:
            raise ConfigError(f"{place}: {name} is empty, but a final run that finished has one. Give it.")
    return FinalRun(
        place=place,
        task=row["task"] or "",
        size=row["size"] or "",
        method=shown_method(row["method"] or "", row.get("unlabelled")),
        seed=_value(row, "seed", int, place),
        setting=row["setting"] or "",
        metric=row["metric"] or "",
        test=_value(row, "test", float, place) if finished else None,
        numbers={name: _value(row, name, float, place) for name in COUNTED if finished and row.get(name)},
        code=" at ".join(filter(None, (row.get("version"), row.get("commit")))),
    )


def _value(row: Mapping[str, str | None], name: str, kind: Callable[[str], T], place: str) -> T:
    try:
        value = kind(row[name] or "")
        if math.isfinite(value):  # type: ignore[arg-type]
            return value
    except ValueError:
        pass
    what = "a whole number" if kind is int else "a finite number"
    raise ConfigError(f"{place}: {name} is {row[name]!r}, but must be {what}. Mend the file.")
