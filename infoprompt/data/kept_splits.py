"""Splits, kept between runs: those of large files by each node, read, checked and split once, then mapped by all; those
of a few rows by this process."""

import hashlib
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from infoprompt.cache_folder import alone, cache_dir, writable_by_others
from infoprompt.config import ConfigError, DataSettings
from infoprompt.data.mapped_rows import MOST_IN_MEMORY, MappedRows, write_rows
from infoprompt.data.places import RowSource, files_of, given_sources
from infoprompt.data.rows import RECORD_COLUMNS, Example, as_record, of_record
from infoprompt.data.split_rows import SkippedRow
from infoprompt.data.task import Task
from infoprompt.data.tasks import TASKS
from infoprompt.data.unlabelled import UnlabelledTexts
from infoprompt.files import read_object, replace_file

log = logging.getLogger(__name__)

FORMAT = 1
"""Raised when files are read or split in another way, so that what was kept before is not used."""
LEAST_BYTES = 2**20
"""Files of fewer bytes are not kept on the disk."""
MOST_REMEMBERED = 8
"""Splits of few rows: those of several tasks or seeds, which the runs of a study or a pack take turn by turn."""
_remembered: OrderedDict[str, Any] = OrderedDict()
_NOT_READ = ("batch_size", "micro_batch_size", "class_weights", "unlabelled_batch", "unlabelled_filter", "seed")


@dataclass(frozen=True)
class Splits:
    """What is trained on, what chooses the best state, and what is only reported."""

    task: Task
    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    """May be empty."""
    description: str
    """One line for people: what was inferred, how many rows, where the validation rows came from."""
    notes: tuple[str, ...] = ()
    """Further lines for people: what was found in the files that may not be meant so."""
    skipped: tuple[SkippedRow, ...] = ()
    """Rows that were left out, with `data.bad_rows: skip`."""
    unlabelled: UnlabelledTexts = UnlabelledTexts()  # noqa: RUF009 - frozen
    """Texts without labels; see `data.unlabelled`."""

    def parts(self) -> dict[str, Sequence[Example]]:
        """The rows of each part."""
        unlabelled = self.unlabelled.texts
        return {"train": self.train, "validation": self.validation, "test": self.test, "unlabelled": unlabelled}


def kept_splits(settings: DataSettings, seed: int, sources: Sequence[RowSource], make: Callable[[], Splits]) -> Splits:
    """The splits, read from the cache where it has them; else made, by one process of a node while others wait.

    Args:
        settings: `data.*`.
        seed: of the few-shot sample and the held-out rows.
        sources: what is read. Splits of the hub are not kept here, and neither are small files.
        make: makes the splits.
    """
    files = _files(sources)
    if files is None:
        return make()
    key = _key(settings, seed, files)
    if key is None:
        return make()
    if key in _remembered:
        _remembered.move_to_end(key)
        return _remembered[key]
    small = sum(file.stat().st_size for file in files) < LEAST_BYTES
    splits = make() if small else _from_disk(cache_dir() / "rows" / f"{key}.json", settings, make)
    if _most_rows(splits) <= MOST_IN_MEMORY:
        _remembered[key] = splits
        while len(_remembered) > MOST_REMEMBERED:
            _remembered.popitem(last=False)
    return splits


def _from_disk(path: Path, settings: DataSettings, make: Callable[[], Splits]) -> Splits:
    with alone(path) as writable:
        found = _read(path, settings)
        if found is not None:
            return found
        splits = make()
        if not writable or _most_rows(splits) <= MOST_IN_MEMORY:
            return splits
        _write(path, splits)
        return _read(path, settings) or splits


def _most_rows(splits: Splits) -> int:
    return max(map(len, splits.parts().values()))


def _files(sources: Sequence[RowSource]) -> list[Path] | None:
    """What is read; None where that is not files alone, or cannot be told, which who reads them says better."""
    files: list[Path] = []
    try:
        for source in sources:
            for one in given_sources(source):
                found = files_of(one)
                if found is None:
                    return None
                files += found
    except (ConfigError, OSError):
        return None
    return files if all(file.is_file() for file in files) else None  # a pipe is read but once


def _key(settings: DataSettings, seed: int, files: Sequence[Path]) -> str | None:
    """Splits of equal keys are equal."""
    try:
        content = [[str(file), _digest(file)] for file in files]
    except OSError:
        return None
    read = settings.model_dump(mode="json", exclude=set(_NOT_READ))
    key = json.dumps([FORMAT, metadata.version("infoprompt"), read, seed, content], sort_keys=True)
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, splits: Splits) -> None:
    facts: dict[str, Any] = {
        "task": splits.task.to_dict(),
        "description": splits.description,
        "notes": splits.notes,
        "skipped": [asdict(row) for row in splits.skipped],
        "used": splits.unlabelled.used,
    }
    try:
        facts["sha256"] = {name: _write_part(path, rows) for name, rows in splits.parts().items()}
        replace_file(path, json.dumps(facts))
        path.chmod(0o644)
    except OSError as error:
        log.warning("The rows could not be kept in %s (%s); the next run reads them again.", path, error)


def _write_part(path: Path, rows: Sequence[Example]) -> str:
    """Write rows to a file that has their digest for a name, so that splits of other seeds share it."""
    writing = path.with_name(f".writing-{path.name}")
    try:
        write_rows(writing, map(as_record, rows), RECORD_COLUMNS)
        writing.chmod(0o644)
        digest = _digest(writing)
        os.replace(writing, path.with_name(f"{digest}.arrow"))
    finally:
        writing.unlink(missing_ok=True)
    return digest


def _read(path: Path, settings: DataSettings) -> Splits | None:
    if not path.exists() or writable_by_others(path):
        return None
    try:
        facts = read_object(path)
        parts = {name: _rows(path.with_name(f"{digest}.arrow"), digest) for name, digest in facts["sha256"].items()}
        task = Task.from_dict(facts["task"])
        if settings.task in TASKS:
            task = replace(task, source=TASKS[settings.task].source)
        return Splits(
            task,
            parts["train"],
            parts["validation"],
            parts["test"],
            facts["description"],
            tuple(facts["notes"]),
            tuple(SkippedRow(**row) for row in facts["skipped"]),
            UnlabelledTexts(parts["unlabelled"], tuple(facts["used"])),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("The kept rows %s cannot be used (%s); they are read again.", path, error)
        return None


def _rows(path: Path, digest: str) -> Sequence[Example]:
    if writable_by_others(path) or _digest(path) != digest:
        raise ValueError(f"{path.name} is not as it was written")
    rows = MappedRows(path, of_record, digest)
    return rows if len(rows) > MOST_IN_MEMORY else list(rows)
