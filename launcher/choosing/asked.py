"""What a comparison was asked for, and what an earlier start of it has found."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infoprompt.config import ConfigError, RunConfig
from infoprompt.data.places import files_of
from infoprompt.data.splits import Splits
from infoprompt.folder_lock import LOCK_NAME
from launcher.choosing.candidates import Plan
from launcher.choosing.probe import Estimate
from launcher.choosing.rows import Facts

PROBE_NAME = ".probe"
"""Folder of the runs by which times are measured."""
_ROWS = ("data.validation", "data.test", "data.unlabelled")


@dataclass(frozen=True)
class Asked:
    """What a comparison was asked for; a second start of the same goes on with it."""

    train: str
    test: str | None
    unlabelled: str | None
    backbone: str
    overrides: tuple[str, ...]
    minutes: float
    workers: int

    def data(self) -> dict[str, Any]:
        """`data.*` of every run."""
        return {"train": self.train, **({"test": self.test} if self.test else {})}

    def key(self) -> dict[str, Any]:
        """What must be the same to go on: settings, and the files' contents."""
        files = {name: _digest(getattr(self, name)) for name in ("train", "test", "unlabelled")}
        named = [override.partition("=") for override in self.overrides]
        given = {key.strip(): _digest(value) for key, _, value in named if key.strip() in _ROWS}
        return {"backbone": self.backbone, "overrides": list(self.overrides), **files, **given}


@dataclass(frozen=True)
class Rows:
    """The rows of a comparison, and what is told of them."""

    facts: Facts
    base: dict[str, Any]
    splits: Splits
    config: RunConfig


def kept_of(asked: Asked, folder: Path) -> Mapping[str, Any]:
    """What an earlier start has measured and planned; empty where there was none.

    Raises:
        ConfigError: the folder holds a comparison of other rows, or with other settings.
    """
    path = folder / "compare.json"
    if not path.exists():
        if strange := [one.name for one in sorted(folder.iterdir()) if one.name not in (LOCK_NAME, PROBE_NAME)]:
            raise ConfigError(f"--output is {folder}, which holds {strange[0]} and no comparison. Name another folder.")
        return {}
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for name, value in asked.key().items():
        if kept["key"].get(name) != value:
            raise ConfigError(
                f"--output is {folder}, which holds a comparison with other {name}. Name another folder, or remove it."
            )
    return kept


def keep(
    folder: Path, asked: Asked, estimates: Mapping[str, Estimate], left_out: Mapping[str, str], plan: Plan
) -> None:
    """Write it for a later start."""
    values = {
        "key": asked.key(),
        "minutes": asked.minutes,
        "estimates": {name: one.as_json() for name, one in estimates.items()},
        "left_out": dict(left_out),
        "plan": plan.as_json(),
    }
    (folder / "compare.json").write_text(json.dumps(values, indent=1), encoding="utf-8")


def _digest(path: str | None) -> str | None:
    """Of the files' contents; of what is no file, such as a hub split, its name."""
    files = files_of(path) if path else None
    if not path or not files:
        return path
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()
