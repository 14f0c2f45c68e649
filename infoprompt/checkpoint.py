"""The resume state: what a killed run needs to go on, and never the backbone.

A folder per state, `checkpoints/step-00000120`, with safetensors, one JSON and a manifest of checksums. It is written
under another name, synced, then renamed, so a state is whole or not there; it knows nothing of ranks or ZeRO stages.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"


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
    target = folder / f"step-{state.values['step']:08d}"
    temporary = folder / f".writing-{target.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for group, tensors in state.tensors.items():
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()}, temporary / f"{group}.safetensors"
            )
        (temporary / "state.json").write_text(json.dumps(state.values))
        write_manifest(temporary)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync(folder)
    for old in _states(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest_resume_state(folder: Path) -> ResumeState | None:
    """The newest undamaged state below `folder`, or None where there is none; a damaged one is named and skipped."""
    for path in _states(folder):
        problem = check_manifest(path)
        if problem is None:
            groups = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
            return ResumeState(groups, json.loads((path / "state.json").read_text()))
        log.warning("The resume state %s is damaged (%s); the one before it is taken.", path, problem)
    return None


def write_manifest(folder: Path) -> None:
    """Record size and SHA-256 of every file in the folder, and sync everything to disk."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    manifest = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in [*files, folder / MANIFEST, folder]:
        _sync(path)


def check_manifest(folder: Path) -> str | None:
    """What is wrong with a folder that `write_manifest` has closed; None if nothing is."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    for name, expected in manifest.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"] or _sha256(path) != expected["sha256"]:
            return f"{name} does not have the content it was written with"
    return None


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
