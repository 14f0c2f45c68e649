"""States of a frozen backbone that are kept between runs, in files that only this user can have written.

Shapes: M rows, D hidden width.
"""

import functools
import hashlib
import logging
import os
import stat
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from infoprompt.files import whole_file
from infoprompt.tensor_file import read_tensors, save_tensors

log = logging.getLogger(__name__)


def cache_dir() -> Path:
    """Where states are kept: INFOPROMPT_CACHE, else ~/.cache/infoprompt."""
    return Path(os.environ.get("INFOPROMPT_CACHE") or Path.home() / ".cache" / "infoprompt")


def read_states(path: Path, names: Sequence[str], num_rows: int) -> dict[str, Tensor] | None:
    """Kept states of these names, [num_rows, D] each; None where there are none, or not what this user has written."""
    try:
        if not path.exists() or _writable_by_others(path):
            return None
        states = read_tensors(path)  # maps the file: ranks and trials of a node share its pages
        problem = _unfit(path, states, dict.fromkeys(names, (num_rows, 2)))
    except (OSError, ValueError) as error:
        problem = f"cannot be read ({error})"
    if problem is None:
        return states
    log.warning("The kept states %s %s; they are computed again.", path, problem)
    return None


def _writable_by_others(path: Path) -> bool:
    """Whether somebody else may have written a file, or may exchange it."""
    for place in (path, path.parent, path.parent.parent):
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
    log.warning("Kept states are not read, and computed again: %s %s.", place, why)


def _unfit(path: Path, states: dict[str, Tensor], expected: dict[str, tuple[int, int]]) -> str | None:
    with safe_open(path, framework="pt") as file:
        kept = file.metadata() or {}
    if {name: (len(states[name]), states[name].dim()) for name in states} != expected:
        return "do not have the names and rows of these texts"
    if kept.get("key") != path.stem or kept.get("sha256") != _digest(states):
        return "do not have the content they were written with, or are of an earlier version"
    return None


def _digest(states: dict[str, Tensor]) -> str:
    """SHA-256 over the states: about a second for a gigabyte, where computing them took minutes."""
    digest = hashlib.sha256()
    for name in sorted(states):
        states_MD = states[name].contiguous()
        digest.update(f"{name} {states_MD.dtype} {list(states_MD.shape)}".encode())
        digest.update(states_MD.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_states(path: Path, states: dict[str, Tensor]) -> None:
    """Keep states for `read_states`; where that fails, a warning is all."""
    try:
        path.parent.parent.parent.mkdir(parents=True, exist_ok=True)
        for folder in (path.parent.parent, path.parent):
            folder.mkdir(mode=0o755, exist_ok=True)  # whatever the umask says: see `_writable_by_others`
        with whole_file(path) as temporary:
            save_tensors(temporary, states, {"key": path.stem, "sha256": _digest(states)})
            temporary.chmod(0o644)
    except OSError as error:
        log.warning(
            "States of the plain texts could not be kept in %s (%s); the next run computes them again.", path, error
        )
