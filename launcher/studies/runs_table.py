"""`infoprompt table RUNS.csv ...`: a study's tables made again from its rows, without the folders of its runs."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infoprompt.config import ConfigError
from launcher.studies.compared import Difference, MethodRow, Summary, method_rows, summaries
from launcher.studies.markdown import shown_interval
from launcher.studies.recorded import FinalRun, check_known, chosen_runs, read_final_runs
from launcher.values import markdown_line

NOTES = (
    "test: mean and sample standard deviation over the seeds. steps to 95 %: updates until dev first reached 95 % of "
    "its best score.",
    "minus a baseline: mean over the seeds that both have, with Student's t interval (95 %), then wins-ties-losses. "
    "The interval knows nothing of other test rows, and was not corrected for comparing many methods.",
    "spread: the method's standard deviation over the baseline's, geometric mean over the cells where both have one.",
)


@dataclass(frozen=True)
class Compared:
    """The tables, as values."""

    rows: list[MethodRow]
    summaries: list[Summary]
    baselines: Sequence[str]
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """The same as plain values; each difference has its verdict."""
        rows = [
            {**asdict(row), "differences": {name: _plain(difference) for name, difference in row.differences.items()}}
            for row in self.rows
        ]
        return {"rows": rows, "summary": [asdict(summary) for summary in self.summaries], "notes": self.notes}


def compare_files(
    paths: Sequence[Path],
    *,
    baselines: Sequence[str] = (),
    methods: Sequence[str] = (),
    tasks: Sequence[str] = (),
    sizes: Sequence[str] = (),
) -> Compared:
    """Compare the final runs of some `runs.csv`.

    Args:
        paths: the files; runs of several studies are joined.
        baselines: methods that the others are compared with.
        methods: methods to show beside the baselines, all if empty; so for `tasks` and `sizes`.
    Raises:
        ConfigError: see `read_final_runs`; no run is left, or an option names what no run has.
    """
    runs = read_final_runs(paths)
    if not runs:
        raise ConfigError(
            f"There is no final run in {', '.join(map(str, paths))}. Give the runs.csv of a study with some."
        )
    for baseline in baselines:
        check_known("--baseline", baseline, list(dict.fromkeys(run.method for run in runs)))
    runs = chosen_runs(runs, tasks, sizes, [*methods, *baselines] if methods else [])
    if not runs:
        raise ConfigError("No final run is of all that --task, --size and --method name. Leave one of them out.")
    rows = method_rows(runs, baselines)
    return Compared(rows, summaries(rows), baselines, _notes(runs, rows))


def as_markdown(compared: Compared) -> str:
    """A table for each task and size, one over all of them, and notes."""
    lines: list[str] = []
    for place in dict.fromkeys((row.task, row.size) for row in compared.rows):
        group = [row for row in compared.rows if (row.task, row.size) == place]
        headings = ["method", "seeds", "test"]
        headings += [text for name in compared.baselines for text in (f"minus {name}", "95 %", "wins-ties-losses")]
        lines += [f"## {place[0]}, {place[1]}", "", _caption(group), ""]
        lines += _table([*headings, "steps to 95 %", "seconds"], (_cells(row, compared.baselines) for row in group), 1)
    if compared.summaries:
        lines += ["## Over all tasks and sizes", ""]
        headings = ["method", "baseline", "above zero", "holds zero", "below zero", "no interval", "minus", "spread"]
        lines += _table(headings, map(_summary_cells, compared.summaries), 2)
    return "\n".join([*lines, "## How to read it", "", *(f"- {note}" for note in compared.notes)]) + "\n"


def _notes(runs: Sequence[FinalRun], rows: Sequence[MethodRow]) -> list[str]:
    notes = list(NOTES)
    codes = sorted({run.code for run in runs if run.code})
    if codes:
        notes.append(f"Trained by infoprompt {', '.join(codes)}.")
    for row in rows:
        key = (row.task, row.size, row.method)
        settings = {run.setting for run in runs if run.key[:3] == key and run.test is not None}
        if len(settings) > 1:
            notes.append(f"{row.method} on {row.task}, {row.size} has seeds of {len(settings)} different settings.")
    return notes


def _caption(group: Sequence[MethodRow]) -> str:
    row = next((row for row in group if row.metric), None)
    if row is None:
        return "No final run has finished."
    tested = f" on {row.test_rows:.0f} test rows" if row.test_rows else " on the test rows"
    return f"{row.metric}{tested}{f', {row.train_rows:.0f} training rows' if row.train_rows else ''}."


def _cells(row: MethodRow, baselines: Sequence[str]) -> list[str]:
    score = "-" if row.mean is None else f"{row.mean:.4f}"
    return [
        row.method,
        f"{row.seeds}{f' ({row.failed} failed)' if row.failed else ''}",
        score if row.deviation is None else f"{score} ± {row.deviation:.4f}",
        *(text for name in baselines for text in _difference_cells(row.differences.get(name))),
        "-" if row.steps_to_95 is None else f"{row.steps_to_95:.0f}",
        "-" if row.seconds is None else f"{row.seconds:.1f}",
    ]


def _difference_cells(difference: Difference | None) -> list[str]:
    if difference is None:
        return ["-", "-", "-"]
    wins = difference.wins
    shown = shown_interval(*difference.interval or (None, None))
    return [f"{difference.mean:+.4f}", shown, f"{wins.wins}-{wins.ties}-{wins.losses}"]


def _summary_cells(summary: Summary) -> list[str]:
    counts = (summary.above, summary.holds, summary.below, summary.unknown)
    of_cells = f"({summary.spread_cells} {'cell' if summary.spread_cells == 1 else 'cells'})"
    spread = "-" if summary.spread_ratio is None else f"{summary.spread_ratio:.2f} {of_cells}"
    return [summary.method, summary.baseline, *map(str, counts), f"{summary.mean:+.4f}", spread]


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], names: int) -> list[str]:
    """`names`: columns that hold names, and no numbers."""
    sides = ["---"] * names + ["---:"] * (len(headings) - names)
    return [markdown_line(headings), markdown_line(sides), *map(markdown_line, rows), ""]


def _plain(difference: Difference) -> dict[str, Any]:
    return {**asdict(difference), "verdict": difference.verdict}
