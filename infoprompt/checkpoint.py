"""The resume state: what a killed run needs to go on, and never the backbone.

A folder per state, `checkpoints/step-00000120`, with safetensors, one JSON and a manifest of checksums. A state is
whole or not there, and is used whole or not at all; it knows nothing of ranks or ZeRO stages.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from infoprompt.files import heal, read_object, sync, whole_folder
from infoprompt.tensor_file import read_tensors, save_tensors

log = logging.getLogger(__name__)

MANIFEST, STATE = "manifest.json", "state.json"


@dataclass(frozen=True)
class ResumeState:
    """Tensors by group (`trained`, `optimizer`, `best`, `running_means`), and everything else as plain values."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    values: Mapping[str, Any]
    """Must be JSON; `step` counts the updates made."""


def save_resume_state(folder: Path, state: ResumeState, keep: int) -> Path:
    """Write one state below `folder` and remove all but the newest `keep`; called by one rank.

    Raises:
        OSError: no permission, or the disk is full; older states stay as they are.
    """
    target = folder / _name(state.values["step"])
    for left in folder.glob(".writing-step-*"):  # by a process that was killed: there is one writer at a time
        shutil.rmtree(left, ignore_errors=True)
    with whole_folder(target) as new:
        for group, tensors in state.tensors.items():
            save_tensors(new / f"{group}.safetensors", tensors)
        (new / STATE).write_text(json.dumps(state.values))
        write_manifest(new)
    for old in [path for path in _states(folder) if path != target][max(keep - 1, 0) :]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest_resume_state(folder: Path, check: Callable[[ResumeState], str | None] | None = None) -> ResumeState | None:
    """The newest usable state below `folder`, or None where there is none; a damaged one is named and skipped.

    Args:
        folder: `checkpoints` of a run.
        check: what is wrong with a state that is whole, if anything.
    """
    for path in _states(folder):
        try:
            state = _read(path)
            problem = check(state) if check else None
        except (OSError, ValueError) as error:
            problem = str(error)
        if problem is None:
            return state
        log.warning("The resume state %s is damaged (%s); the one before it is taken.", path, problem)
    return None


def num_states(folder: Path) -> int:
    """How many states there are below `folder`, damaged ones included."""
    return len(_states(folder))


def set_newer_aside(folder: Path, step: int) -> None:
    """Rename the states past `step`, which are damaged, so that they do not count among those kept."""
    for path in _states(folder):
        if path.name > _name(step):
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def write_manifest(folder: Path) -> None:
    """Record size and SHA-256 of every file in the folder, and sync everything to disk."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    manifest = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in [*files, folder / MANIFEST, folder]:
        sync(path)


def check_manifest(folder: Path, needed: tuple[str, ...] = ()) -> str | None:
    """What is wrong with a folder that `write_manifest` has closed; None if nothing is.

    Args:
        folder: the folder.
        needed: files that the manifest must name.
    """
    try:
        names = read_manifest(folder)
    except (OSError, ValueError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    for name in needed:
        if name not in names:
            return f"{MANIFEST} does not name {name}"
    for name, (size, digest) in names.items():
        path = folder / name
        try:
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size or _sha256(path) != digest:
                return f"{name} does not have the content it was written with"
        except (OSError, ValueError) as error:  # the latter: no name that a file can have
            return f"{name!r} cannot be read: {error}"
    return None


def read_manifest(folder: Path) -> dict[str, tuple[int, str]]:
    """File name to size and SHA-256; raises ValueError where it is of another shape, or names a file elsewhere."""
    found = {}
    for name, entry in read_object(folder / MANIFEST).items():
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise ValueError(f"{name!r} is no name of a file in the folder")
        if not isinstance(entry, dict) or type(entry.get("bytes")) is not int or type(entry.get("sha256")) is not str:
            raise ValueError(f"{name} has no size and checksum")
        found[name] = entry["bytes"], entry["sha256"]
    return found


def _read(path: Path) -> ResumeState:
    """A state; raises ValueError or OSError where it is damaged. What its manifest does not name is not read."""
    problem = check_manifest(path, needed=(STATE,))
    if problem is not None:
        raise ValueError(problem)
    values = read_object(path / STATE)
    if type(values.get("step")) is not int or _name(values["step"]) != path.name:
        raise ValueError(f"{STATE} is of update {values.get('step')!r}")
    names = [Path(name) for name in sorted(read_manifest(path)) if name.endswith(".safetensors")]
    return ResumeState({name.stem: read_tensors(path / name) for name in names}, values)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _states(folder: Path) -> list[Path]:
    for path in folder.glob(".old-step-*"):
        heal(path.with_name(path.name.removeprefix(".old-")))
    return sorted((path for path in folder.glob("step-*") if path.is_dir()), reverse=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
