"""The folder a run writes to: its own while it runs, checked before anything is trained, and nothing in it lost."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from infoprompt.config import ConfigError
from infoprompt.folder_lock import held, inside, require_free_below
from infoprompt.progress import TrainingStopped

if TYPE_CHECKING:
    from infoprompt.ranks import Ranks

log = logging.getLogger(__name__)
T = TypeVar("T")

LEAST_FREE_BYTES = 64 * 2**20


@contextmanager
def claimed_output_dir(folder: Path, *, keep: bool, ranks: "Ranks", owner: str | None = None) -> Iterator[None]:
    """Make the folder, check that it can be written, and hold it against other runs while the body runs.

    Args:
        folder: `run.output_dir`.
        keep: whether to go on with an earlier run in it, which is moved aside otherwise.
        ranks: every rank calls this; the first one holds the folder.
        owner: names the run, for a start of the same run elsewhere to take over from one that is dead.
    Raises:
        ConfigError: on every rank, if another run is writing there or below, the folder cannot be made or written, or
            the disk is nearly full.
    """
    with ExitStack() as holding:
        on_first(ranks, lambda: _claim(folder, keep, owner, holding))
        yield


def on_first(ranks: "Ranks", call: Callable[[], T]) -> T | None:
    """What the call returns on the first rank, None elsewhere; what it raises there for the user, every rank raises.

    Raises:
        ConfigError, TrainingStopped: as raised by the call.
    """
    result: T | None = None
    problem: ConfigError | TrainingStopped | None = None
    if ranks.is_first:
        try:
            result = call()
        except (ConfigError, TrainingStopped) as error:
            problem = error
    said = ranks.broadcast_object(None if problem is None else [isinstance(problem, TrainingStopped), str(problem)])
    if problem is not None:
        raise problem
    if said is not None:
        stopped, message = said
        raise TrainingStopped(message) if stopped else ConfigError(message)
    return result


def write_first_file(path: Path, text: str) -> None:
    """Write a file at the start of a run; raises ConfigError if it cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"run.output_dir is {path.parent}, but {_unwritable(error)}") from None


def _claim(folder: Path, keep: bool, owner: str | None, holding: ExitStack) -> None:
    setting = f"run.output_dir is {folder}"
    try:
        if keep:
            require_free_below(folder / "compare", setting)
        elif (folder / "config.yaml").exists():
            with held(inside(folder), setting, owner=owner):
                require_free_below(folder, setting)
                _move_aside(folder)
        holding.enter_context(held(inside(folder), setting, owner=owner))
        probe = folder / f".probe-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"{setting}, but {_unwritable(error)}") from None
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE_BYTES:
        raise ConfigError(
            f"{setting}, but its disk has {free // 2**20} MiB free and at least {LEAST_FREE_BYTES // 2**20} are "
            "needed. Make room."
        )


def _move_aside(folder: Path) -> None:
    aside = next(path for i in range(1, 10**6) if not os.path.lexists(path := Path(f"{folder}.{i}")))
    folder.rename(aside)
    inside(aside).unlink(missing_ok=True)
    log.info("The earlier run in %s was moved to %s.", folder, aside)


def _unwritable(error: OSError) -> str:
    return f"it cannot be written: {error}. Give another folder, make room, or get the right to write there."
