"""Where the rows of a known task are found: with the package, in a folder, or on the hub."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from infoprompt.config import DATA_SUFFIXES, ConfigError, DataSettings
from infoprompt.data.columns import PREDICTED
from infoprompt.data.places import RowSource
from infoprompt.data.problems import RowError
from infoprompt.data.published_formats import adapter
from infoprompt.data.rows import adapted
from infoprompt.data.sources import read_rows
from infoprompt.data.task import Source, Task

FOLDER_VARIABLE = "INFOPROMPT_DATA"
BUNDLED = ("semeval2010_task8", "banking77")
"""Tasks whose rows come with the package."""

_VALIDATION = ("validation", "val", "dev", "dev_matched")
_SETS = Path(__file__).with_name("sets")


@dataclass(frozen=True)
class TaskFiles:
    """The files or hub splits of a task."""

    train: RowSource | None
    """None of a diagnostic task."""
    test: RowSource | None
    """Rows to report on: the labelled test file; the validation file where there is none."""
    validation: RowSource | None = None
    """Rows to choose the best state on, only where the test file is another; else they are held out of `train`."""
    origin: str = ""
    """`bundled`, `folder` or `hub`."""


def find_task_files(task: Task, folder: str | None) -> TaskFiles | None:
    """The parts of a known task, from the first of: the package, `folder`, the hub; None where none is named.

    A benchmark that keeps its test labels private is reported on its validation rows, which then choose nothing: the
    rows for that are held out of the training rows.

    Args:
        task: a row of the table.
        folder: `data.folder`; the environment's INFOPROMPT_DATA if not given.
    """
    if bundled := bundled_file(task.name, "train"):
        return TaskFiles(bundled, bundled_file(task.name, "test"), origin="bundled")
    source = task.source or Source()
    place = data_folder(folder)
    if place is not None and (own := _own_folder(place, source.folder)) and (found := _folder_files(own, task)):
        return found
    return _hub_files(source)


def _hub_files(source: Source) -> TaskFiles | None:
    if source.hub is None:
        return None
    if source.tests:
        return TaskFiles(None, f"{source.hub}:{source.hub_test}", None, "hub")
    validation = f"{source.hub}:{source.hub_validation}" if source.hub_validation else None
    if source.hub_test is None:
        return TaskFiles(f"{source.hub}:train", validation, None, "hub")
    return TaskFiles(f"{source.hub}:train", f"{source.hub}:{source.hub_test}", validation, "hub")


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
    fetch = f"fetch {source.hub} once from the hub, " if source.hub else ""
    return ConfigError(
        f"data.task is {task.name}, whose rows are not at hand: they do not come with the package, and {where}{hub}. "
        f"Give data.folder (or {FOLDER_VARIABLE}) a folder that holds {source.folder}/train.jsonl.gz, {fetch}"
        "or give data.train a file."
    )


def _own_folder(place: Path, name: str) -> Path | None:
    """The task's folder, also in the spelling of the published archives: `BoolQ`, `SST-2`."""
    if not name or not place.is_dir():
        return None
    if (place / name).is_dir():
        return place / name
    folders = (folder for folder in sorted(place.iterdir()) if folder.is_dir())
    return next((folder for folder in folders if _plain(folder.name) == _plain(name)), None)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _folder_files(folder: Path, task: Task) -> TaskFiles | None:
    train, validation = _file(folder, "train"), _file(folder, *_VALIDATION)
    diagnostic = (folder.name, "diagnostic-full") if (task.source or Source()).tests else ()
    test = _file(folder, "test", *diagnostic)
    if test is not None and not _is_labelled(test, task):
        test = None
    if diagnostic:
        return TaskFiles(None, test, None, "folder") if test else None
    if train is None:
        # FewGLUE's rows stand in where the full training rows are not there; dev32 are training rows too.
        few = _file(folder, "train32")
        return TaskFiles(few, test or validation, _file(folder, "dev32"), "folder") if few else None
    return TaskFiles(train, test or validation, validation if test else None, "folder")


def _is_labelled(path: str, task: Task) -> bool:
    """Whether the first row has what is to be predicted: the archives of GLUE and SuperGLUE have test files without."""
    adapt = adapter(task)
    for where, row in read_rows(path, tell=_unsaid):
        if not isinstance(row, RowError):
            return any(name in ours for ours in adapted(row, adapt, where)[:1] for name in PREDICTED)
    return False


def _unsaid(line: str) -> None:
    """What was found in a file is said when all of it is read."""


def _file(folder: Path, *names: str) -> str | None:
    paths = (folder / f"{name}{suffix}" for name in names for suffix in DATA_SUFFIXES)
    return next((str(path) for path in paths if path.is_file()), None)
