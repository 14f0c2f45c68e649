"""From the rows that others publish to ours: columns and labels by other names, or one row made into several."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from infoprompt.data.rows import COLUMNS
from infoprompt.data.task import Task

Row = Mapping[str, Any]
Adapter = Callable[[Row], Iterable[Row]]

FORMS: dict[str, Adapter] = {}
"""Ways to make our rows of a published row, by name."""


def adapter(task: Task | None) -> Adapter | None:
    """What makes our rows of a published row of the task; None where nothing is to be done.

    Rows already in our form pass unchanged: a column is renamed only if the row has it, and has none of our name.
    """
    source = task.source if task is not None else None
    if source is None:
        return None

    def adapt(row: Row) -> Iterable[Row]:
        for part in FORMS[source.form](row) if source.form else (row,):
            yield _renamed(part, source.columns, source.labels)

    return adapt


def _renamed(row: Row, columns: Mapping[str, str], labels: Mapping[str, str]) -> Row:
    renamed = dict(row)
    for ours, theirs in columns.items():
        if theirs in row and not any(alias in row for alias in COLUMNS[ours]):
            renamed[ours] = renamed.pop(theirs)
    label = renamed.get("label")
    if labels and isinstance(label, (str, bool, int)) and str(label) in labels:
        renamed["label"] = labels[str(label)]
    return renamed
