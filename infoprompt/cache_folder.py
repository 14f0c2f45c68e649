"""The folder for what is kept between runs, in files that only this user can have written."""

import functools
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infoprompt.files import open_locked

log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Where rows, tokens and states are kept: INFOPROMPT_CACHE, else ~/.cache/infoprompt."""
    return Path(os.environ.get("INFOPROMPT_CACHE") or Path.home() / ".cache" / "infoprompt")


def writable_by_others(path: Path) -> bool:
    """Whether somebody else may have written a file or folder, or may exchange it."""
    for place in filter(Path.exists, (path, path.parent, path.parent.parent)):
        status = place.stat()
        if status.st_uid not in (os.geteuid(), 0):
            _distrust(place, f"belongs to another user, of id {status.st_uid}")
            return True
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            _distrust(place, "can be written to by other users: chmod go-w mends it")
            return True
    return False


@functools.cache  # told once
def _distrust(place: Path, why: str) -> None:
    log.warning("What is kept is not read, and made again: %s %s.", place, why)


def make_folders(path: Path) -> None:
    """The two folders that a kept file or folder stands in; raises OSError."""
    path.parent.parent.parent.mkdir(parents=True, exist_ok=True)
    for folder in (path.parent.parent, path.parent):
        folder.mkdir(mode=0o755, exist_ok=True)  # whatever the umask says: see `writable_by_others`


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """One process of a node at a time runs the body, which makes what is kept at `path`; false where nothing can be."""
    lock_path = path.with_suffix(".lock")
    try:
        make_folders(path)
        lock = open_locked(lock_path)
    except OSError as error:
        log.warning("Nothing is kept for the next run: %s cannot be written (%s).", path.parent, error)
        yield False
        return
    try:
        yield True
    finally:
        lock_path.unlink(missing_ok=True)
        os.close(lock)
