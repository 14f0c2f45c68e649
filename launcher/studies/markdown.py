"""A study's table for people, with what one must know to read it."""

from collections.abc import Sequence

from launcher.studies.plan import Study
from launcher.studies.results import RunRow, TableRow, by_task_and_size, shown_method
from launcher.values import markdown_line

HEADINGS = (
    "method",
    "setting",
    "test",
    "collapsed",
    "difference",
    "95 % over seeds",
    "95 % over rows",
    "wins-ties-losses",
    "steps to 95 %",
    "area",
    "trained",
    "touched",
    "passes",
    "seconds",
)


def markdown(study: Study, rows: Sequence[TableRow], runs: Sequence[RunRow]) -> str:
    """The whole `table.md`: a table for each task and size, then the notes."""
    done = sum(row.state == "finished" for row in runs)
    failed = [row for row in runs if row.state == "failed"]
    lines = [f"# {_plain(study.config.study_name)}", "", f"{done} runs finished, {len(failed)} failed.", ""]
    for (task, size), group in by_task_and_size(rows).items():
        lines += [f"## {_plain(task)}, {size}", "", _caption(group), ""]
        lines += [markdown_line(HEADINGS), markdown_line(["---", "---", *["---:"] * (len(HEADINGS) - 2)])]
        lines += [markdown_line(row_cells(row, len(study.config.seeds))) for row in group]
        lines.append("")
    lines += [*_notes(study), ""]
    if failed:
        lines += ["## Failed runs", ""]
        lines += [f"- {_plain(_name(row))}: {_plain(row.message or '')}" for row in failed]
        lines.append("")
    return "\n".join(lines)


def row_cells(row: TableRow, num_seeds: int) -> list[str]:
    """The cells of a row under `HEADINGS`."""
    return [
        shown_method(row.method, row.unlabelled),
        row.setting or "none chosen",
        _score(row, num_seeds),
        "-" if row.collapsed is None else f"{row.collapsed} of {row.seeds}",
        "-" if row.difference is None else f"{row.difference:+.4f}",
        shown_interval(row.seeds_low, row.seeds_high),
        shown_interval(row.rows_low, row.rows_high),
        "-" if row.wins is None else f"{row.wins}-{row.ties}-{row.losses}",
        "-" if row.steps_to_95 is None else f"{row.steps_to_95:.0f}",
        "-" if row.area is None else f"{row.area:.4f}",
        "-" if row.trained_parameters is None else f"{row.trained_parameters:,}",
        "-" if row.touched_parameters is None else f"{row.touched_parameters:,}",
        "-" if row.encoder_passes is None else f"{row.encoder_passes:.2f}",
        "-" if row.seconds is None else f"{row.seconds:.1f}",
    ]


def budget_lines(study: Study) -> list[str]:
    """What each method tries."""
    lines = []
    for method in study.methods.values():
        tried = len(method.settings)
        whole = "the whole grid" if tried == method.grid_size else f"a sample of the grid's {method.grid_size}"
        short = f", below the budget of {study.config.search.budget}" if tried < study.config.search.budget else ""
        lines.append(f"{method.name}: {tried} {'setting' if tried == 1 else 'settings'}, {whole}{short}")
    return lines


def _notes(study: Study) -> list[str]:
    config = study.config
    seeds, num_seeds = config.search_seeds, len(config.seeds)
    differing = [line for line in budget_lines(study) if "below" in line]
    notes = [
        f"Each method tried up to {config.search.budget} settings per task and size, trained with "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))} and scored on dev alone; the best one "
        f"was trained with seeds {', '.join(map(str, config.seeds))}, and only these runs were scored on the test "
        "rows. dev is held out of the training rows, for a few-shot size with as many rows as are trained on; it also "
        "chooses the best state of a run.",
        *([f"Methods whose grid is smaller than the budget: {'; '.join(differing)}."] if differing else []),
        "test: mean and sample standard deviation over the seeds. A run has collapsed if its test score is at most "
        f"{config.collapsed_margin:g} above that of always predicting the test rows' most frequent class.",
        f"difference: mean of the test score minus that of {config.baseline} with the same seed, so with the same "
        "training rows. Its percentile bootstrap interval over the seeds comes from "
        f"{num_seeds} pairs: with so few it is too narrow, and excludes zero whenever all seeds agree in sign. The "
        "interval over rows (accuracy only) draws test rows, for the trained runs as they are. No correction was made "
        "for comparing many methods.",
        "steps to 95 %: updates until dev first reached 95 % of its best score. area: mean dev score over the course "
        "of the run. trained, touched: parameters; touched counts of a table only the rows that the training rows look "
        "up. passes: passes over the backbone for each example of each update, kept unprompted passes shared out.",
    ]
    return ["## How to read it", "", *(f"- {note}" for note in notes)]


def _caption(group: Sequence[TableRow]) -> str:
    known = next((row for row in group if row.metric), None)
    if known is None:
        return "No final run has finished."
    floor = "" if known.majority is None else f"; always the most frequent class: {known.majority:.4f}"
    return f"{known.metric} on the test rows{floor}."


def _score(row: TableRow, num_seeds: int) -> str:
    if row.mean is None:
        return "-"
    text = f"{row.mean:.4f}" + ("" if row.deviation is None else f" ± {row.deviation:.4f}")
    if row.seeds == num_seeds:
        return text
    return f"{text} ({row.seeds} of {num_seeds}{f', {row.failed} failed' if row.failed else ''})"


def shown_interval(low: float | None, high: float | None) -> str:
    """`+0.0100 to +0.0300`; a dash for none."""
    return "-" if low is None or high is None else f"{low:+.4f} to {high:+.4f}"


def _name(row: RunRow) -> str:
    return f"{row.task}, {row.size}, {row.method}, {row.phase}, seed {row.seed}, {row.setting}"


def _plain(text: str) -> str:
    return " ".join(text.split())
