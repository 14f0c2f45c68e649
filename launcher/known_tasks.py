"""The table of tasks known by name, as `infoprompt show --tasks` prints it."""

from typing import Any

from rich.table import Table

from infoprompt.data.task import Source, Task
from infoprompt.data.task_files import data_folder, find_task_files
from infoprompt.data.tasks import TASKS
from launcher.literal_table import LiteralTable


def tasks_found(folder: str | None) -> list[dict[str, Any]]:
    """A row for each task: name, kind, classes, metrics, where its rows may come from, and where they are found.

    Args:
        folder: `data.folder`; INFOPROMPT_DATA if not given.
    """
    return [_row(task, folder) for task in TASKS.values()]


def _row(task: Task, folder: str | None) -> dict[str, Any]:
    source = task.source or Source()
    parts = find_task_files(task, folder)
    origin = parts.origin if parts is not None else ""
    bundled = ["bundled"] if origin == "bundled" else []
    hub = [f"hub {source.hub}"] if source.hub else []
    return {
        "name": task.name,
        "kind": task.kind,
        "classes": task.num_classes or None,
        "metrics": list(task.metrics),
        "sources": [*bundled, *([] if bundled else [f"folder {source.folder}"]), *hub],
        "found": {"bundled": "with the package", "folder": "in the folder"}.get(origin),
    }


def task_table(folder: str | None) -> Table:
    """The rows of `tasks_found` for people."""
    place = data_folder(folder)
    caption = f"folders are looked for in {place}" if place else "give data.folder or INFOPROMPT_DATA to find folders"
    table = LiteralTable(caption=f"{caption}; whether the hub has a set is known only when it is read")
    for heading in ("data.task", "kind", "classes", "metrics", "rows from", "found"):
        table.add_column(heading, overflow="fold")
    for row in tasks_found(folder):
        classes = "of the rows" if row["classes"] is None and row["kind"] != "regression" else row["classes"] or "-"
        cells = [row["name"], row["kind"], str(classes), ", ".join(row["metrics"]), ", ".join(row["sources"])]
        table.add_row(*cells, row["found"] or "-")
    return table
