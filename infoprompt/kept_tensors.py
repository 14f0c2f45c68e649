"""Tensors that are kept between runs, in files that only this user can have written.

Shapes: M rows, D hidden width.
"""

import errno
import hashlib
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from infoprompt.cache_folder import make_folders, writable_by_others
from infoprompt.files import whole_file
from infoprompt.tensor_file import mapped_tensors, read_tensors

log = logging.getLogger(__name__)


def read_states(path: Path, expected: Mapping[str, tuple[int | None, int]]) -> dict[str, Tensor] | None:
    """Kept tensors; None where there are none, or not what this user has written.

    Args:
        path: of the file.
        expected: name to rows (None for any number) and dimensions.
    """
    try:
        if not path.exists() or writable_by_others(path):
            return None
        states = read_tensors(path)  # maps the file: ranks and trials of a node share its pages
        problem = _unfit(path, states, expected)
    except (OSError, ValueError) as error:
        problem = f"cannot be read ({error})"
    if problem is None:
        return states
    log.warning("The kept states %s %s; they are computed again.", path, problem)
    return None


def _unfit(path: Path, states: dict[str, Tensor], expected: Mapping[str, tuple[int | None, int]]) -> str | None:
    with safe_open(path, framework="pt") as file:
        kept = file.metadata() or {}
    rows = {name: len(states[name]) for name in states}
    shapes = {name: (rows.get(name) if num is None else num, dims) for name, (num, dims) in expected.items()}
    if {name: (rows[name], states[name].dim()) for name in states} != shapes:
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


class NewStates:
    """Tensors to fill, mapped from a file: they take no memory of their own.

    The file has no name until it is whole. So no lock is held meanwhile, for which ranks that wait for each other would
    wait for ever on a folder that nodes share.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> None:
        """Raises OSError: there is no room for them, or `read_states` would not read the file."""
        make_folders(path)
        if writable_by_others(path):
            raise OSError(errno.EACCES, "can be written to by other users", str(path))
        self._path = path
        self._unknown = {"key": path.stem, "sha256": "0" * 64}
        with tempfile.TemporaryFile(dir=path.parent) as file:
            self.tensors, self._written = mapped_tensors(file, shapes, self._unknown)

    def keep(self) -> None:
        """Give the file its name; where that fails, a warning is all."""
        content = self._written(self._unknown | {"sha256": _digest(self.tensors)})
        try:
            with whole_file(self._path) as temporary:
                temporary.write_bytes(content)
                temporary.chmod(0o644)
        except OSError as error:
            log.warning("%s could not be kept (%s); the next run makes it again.", self._path, error)


def write_states(path: Path, states: dict[str, Tensor]) -> None:
    """Keep states for `read_states`; where that fails, a warning is all."""
    try:
        make_folders(path)
        with whole_file(path) as temporary:
            # into the file that is locked: safetensors' own writer puts another in its place, which nobody has locked
            temporary.write_bytes(save(dict(states), {"key": path.stem, "sha256": _digest(states)}))
            temporary.chmod(0o644)
    except OSError as error:
        log.warning(
            "States of the plain texts could not be kept in %s (%s); the next run computes them again.", path, error
        )
