"""Which rows `infoprompt evaluate` scores a prompt on, where no file is given."""

from pathlib import Path
from typing import TYPE_CHECKING

from infoprompt.config import ConfigError
from infoprompt.data.places import RowSource, given_sources, present
from infoprompt.data.task_files import find_task_files
from infoprompt.data.tasks import TASKS, known_task

if TYPE_CHECKING:
    from infoprompt.artifact import Artifact


def rows_of_training(artifact: "Artifact", folder: Path, task: str | None) -> RowSource:
    """The test rows of an artifact's own run, or of a known task.

    Args:
        artifact: what is scored.
        folder: where it lies; the run's own folder around it still says where its rows are.
        task: the known task, if not the artifact's own.
    Raises:
        ConfigError: there are none, or they are not at hand.
    """
    from infoprompt.artifact import data_of_training

    own = artifact.config.data
    data = data_of_training(folder, artifact.config) or own
    if data.test is not None and task is None:
        if data is own:
            _check_there(data.test)
        return data.test
    known = known_task(task) if task is not None else TASKS.get(data.task or "")
    parts = find_task_files(known, data.folder) if known is not None else None
    if parts is not None and parts.test is not None:
        return parts.test
    if task is not None:
        raise ConfigError(f"No rows of {task} are at hand. Give a file, or INFOPROMPT_DATA a folder that holds them.")
    raise ConfigError("This prompt was trained without test rows, so there are none to score on. Give a file.")


def _check_there(source: RowSource) -> None:
    for one in given_sources(source):
        if not present(one):
            raise ConfigError(
                f"The test rows of this prompt were in {Path(one).name}, and an artifact does not keep where "
                "that is. Give the file."
            )
