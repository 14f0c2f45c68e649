"""The folder a run writes to: claimed before anything is trained, and nothing in it lost."""

import logging
import os
import shutil
from pathlib import Path
from typing import Protocol, TypeVar

from infoprompt.config import ConfigError

log = logging.getLogger(__name__)
T = TypeVar("T")

LEAST_FREE_BYTES = 64 * 2**20


class _Peers(Protocol):
    @property
    def is_first(self) -> bool: ...

    def broadcast_object(self, value: T) -> T: ...


def claim_output_dir(folder: Path, *, keep: bool, ranks: _Peers) -> None:
    """Make the folder, check that it can be written; an earlier run in it is moved aside unless `keep`.

    Raises:
        ConfigError: on every rank, if the folder cannot be made or written, or the disk is nearly full.
    """
    problem = _claim(folder, keep) if ranks.is_first else None
    problem = ranks.broadcast_object(problem)
    if problem:
        raise ConfigError(f"run.output_dir is {folder}, but {problem}")


def _claim(folder: Path, keep: bool) -> str | None:
    try:
        if not keep and (folder / "config.yaml").exists():
            aside = next(path for i in range(1, 10**6) if not (path := Path(f"{folder}.{i}")).exists())
            folder.rename(aside)
            log.info("The earlier run in %s was moved to %s.", folder, aside)
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        return f"it cannot be written: {error}. Give another folder, or the right to write there."
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE_BYTES:
        return f"its disk has {free // 2**20} MiB free and at least {LEAST_FREE_BYTES // 2**20} are needed. Make room."
    return None
