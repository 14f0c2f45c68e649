"""Where the rows of a known task are found: with the package, in a folder, or on the hub."""

import os
from dataclasses import dataclass
from pathlib import Path

from infoprompt.config import DATA_SUFFIXES, ConfigError, DataSettings
from infoprompt.data.task import Source, Task

FOLDER_VARIABLE = "INFOPROMPT_DATA"
BUNDLED = ("semeval2010_task8", "banking77")
"""Tasks whose rows come with the package."""

_SETS = Path(__file__).with_name("sets")


@dataclass(frozen=True)
class Parts:
    """The files or hub splits of a task."""

    train: str
    test: str | None
    """Rows to report on: the labelled test file; the validation file where there is none."""
    validation: str | None = None
    """Rows to choose the best state on, only where the test file is another; else they are held out of `train`."""
    origin: str = ""
    """`bundled`, `folder` or `hub`."""


def find_parts(task: Task, folder: str | None) -> Parts | None:
    """The parts of a known task, from the first of: the package, `folder`, the hub; None where none is named.

    A benchmark that keeps its test labels private is reported on its validation rows, which then choose nothing: the
    rows for that are held out of the training rows.

    Args:
        task: a row of the table.
        folder: `data.folder`; the environment's INFOPROMPT_DATA if not given.
    """
    if bundled := bundled_file(task.name, "train"):
        return Parts(bundled, bundled_file(task.name, "test"), origin="bundled")
    source = task.source or Source()
    place = data_folder(folder)
    if place is not None and source.folder and (place / source.folder).is_dir():
        found = _folder_parts(place / source.folder)
        if found is not None:
            return found
    if source.hub is None:
        return None
    test = "test" if source.hub_test else "validation"
    validation = f"{source.hub}:validation" if source.hub_test else None
    return Parts(f"{source.hub}:train", f"{source.hub}:{test}", validation, "hub")


def data_folder(folder: str | None) -> Path | None:
    """`data.folder`, else the environment's INFOPROMPT_DATA, else None."""
    given = folder or os.environ.get(FOLDER_VARIABLE)
    return Path(given).expanduser().absolute() if given else None


def bundled_file(name: str, part: str) -> str | None:
    """Path of a part (`train`, `test`) of a task that comes with the package; None where there is none."""
    path = _SETS / name / f"{part}.jsonl.gz"
    return str(path) if path.is_file() else None


def no_rows(task: Task, settings: DataSettings, problem: str = "") -> ConfigError:
    """The error that names all ways to give a known task its rows."""
    source = task.source or Source()
    place = data_folder(settings.folder)
    where = f"{place / source.folder} has none" if place else f"neither data.folder nor {FOLDER_VARIABLE} is given"
    hub = f"; {problem.rstrip('.')}" if problem else ""
    return ConfigError(
        f"data.task is {task.name}, whose rows are not at hand: they do not come with the package, and {where}{hub}. "
        f"Give data.folder a folder that holds {source.folder}/train.jsonl.gz, fetch them once from the hub"
        f"{f' ({source.hub})' if source.hub else ''}, or give data.train a file."
    )


def _folder_parts(folder: Path) -> Parts | None:
    files = {part: _file(folder, part) for part in ("train", "validation", "test", "train32", "dev32")}
    validation, test = files["validation"], files["test"]
    if files["train"] is None:
        # FewGLUE's rows stand in where the full training rows are not there; dev32 are training rows too.
        return Parts(files["train32"], test or validation, files["dev32"], "folder") if files["train32"] else None
    return Parts(files["train"], test or validation, validation if test else None, "folder")


def _file(folder: Path, part: str) -> str | None:
    paths = (folder / f"{part}{suffix}" for suffix in DATA_SUFFIXES)
    return next((str(path) for path in paths if path.is_file()), None)
