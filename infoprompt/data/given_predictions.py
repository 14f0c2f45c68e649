"""Predictions that were made elsewhere, one label a row, which are scored as a run's own are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from infoprompt.config import ConfigError
from infoprompt.data.labels import KnownLabels
from infoprompt.data.problems import Problems, RowError, shown
from infoprompt.data.rows import Example
from infoprompt.data.sources import read_rows
from infoprompt.data.task import Task

PARTS = ("test", "dev")


def given_predictions(path: str, task: Task, rows: Mapping[str, Sequence[Example]]) -> dict[str, list[int]]:
    """Class index of each row of a part, in the rows' order; a part without any is left out.

    Args:
        path: a file of rows with the columns `label` and, if there are some of dev too, `part`: `test` or `dev`.
        task: what the labels are of.
        rows: of each part that is scored.
    Raises:
        ConfigError: the file cannot be read, or has a row without a label, an unknown label or part, or another number
            of rows than a part.
    """
    if not Path(path).is_file():
        raise ConfigError(
            f"evaluation.predictions is {path}, but there is no such file. Correct the path; {{seed}} in it is the "
            f"run's seed, {{task}} the name {task.name}."
        )
    known, problems = KnownLabels(task.labels), Problems()
    found: dict[str, list[int]] = {part: [] for part in PARTS}
    for where, row in read_rows(path):
        if isinstance(row, RowError):
            problems.rows.append(row)
            continue
        label, part = row.get("label"), row.get("part") or "test"
        spelled = None if label is None else known.spelled(str(label).strip())
        if part not in PARTS:
            message = f"{where} has the part {shown(part)}, but parts are test and dev. Correct it."
            problems.rows.append(RowError(where, f"the part {shown(part)}", message))
        elif spelled is None:
            what = "no label" if label is None else f"the label {shown(label)}"
            near = known.nearest(str(label))
            message = f"{where} has {what}, but {task.name} has the labels {near}. Correct it."
            problems.rows.append(RowError(where, what, message))
        else:
            found[part].append(task.labels.index(spelled))
    if problems:
        raise problems.error(path)
    for part, examples in rows.items():
        if len(found[part]) != len(examples) and (found[part] or part == "test"):
            raise ConfigError(
                f"evaluation.predictions is {path}, which has {len(found[part]):,} predictions of {part} rows, but the "
                f"run has {len(examples):,} of them. Give one for each, in their order."
            )
    return {part: found[part] for part in rows if found[part]}
