"""What a run's folder remembers of its records: every metric (`metrics.jsonl`), and what MLflow has of it
(`tracking.json`). The spool is the truth; MLflow is a copy that may lag behind. Never heard of MLflow's client."""

import json
import logging
import math
import threading
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from infoprompt.files import read_object, replace_file

logger = logging.getLogger(__name__)

SPOOL_NAME = "metrics.jsonl"
LEDGER_NAME = "tracking.json"
ARTIFACTS_NAME = "artifacts"

MOST_WAITING = 10_000


@dataclass(frozen=True)
class Record:
    """The metrics of one step."""

    step: int
    time: float
    """Seconds since 1970. A record keeps its time for ever: MLflow tells a repeated delivery by it."""
    metrics: dict[str, float]


class Spool:
    """Records in the order in which they were made, one JSON line each; only ever appended to while a run goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content = path.read_bytes() if path.exists() else b""
        self.size = content.rfind(b"\n") + 1
        """Bytes of complete lines. One thread appends, another reads up to here."""
        self.waiting: deque[bytes] = deque(maxlen=MOST_WAITING)
        """Lines that the disk did not take."""

    def append(self, record: Record) -> None:
        """Write one line, or keep it for later where the disk is full.

        A value that is not finite becomes the text `nan`, `inf` or `-inf`, as JSON has none.
        """
        values = {key: value if math.isfinite(value) else str(value) for key, value in record.metrics.items()}
        line = json.dumps({"step": record.step, "time": record.time, "metrics": values}) + "\n"
        self.waiting.append(line.encode())
        content = b"".join(self.waiting)
        try:
            with self.path.open("ab") as file:
                if file.tell() > self.size:  # what a full disk took of a line
                    file.truncate(self.size)
                file.write(content)
        except OSError as error:
            if len(self.waiting) == 1:
                logger.warning(
                    "%s cannot be written (%s). Training goes on; its records are kept in memory until there is room.",
                    self.path,
                    error,
                )
            return
        self.waiting.clear()
        self.size += len(content)

    def read(self, start: int = 0, max_metrics: float = math.inf) -> tuple[list[Record], int]:
        """Complete records from byte `start`, until they hold `max_metrics` values, and the byte where the next starts.

        A line that is no record is skipped, with a warning.
        """
        records: list[Record] = []
        count = 0
        for line in self._lines(start):
            start += len(line)
            if record := _parse(line, self.path):
                records.append(record)
                count += len(record.metrics)
            if count >= max_metrics:
                break
        return records, start

    def rewind(self, start: int, step: int) -> None:
        """From byte `start` on, drop the records past `step`, and a last line that a kill cut off."""
        if not self.path.exists():
            return
        kept = [line for line in self._lines(start) if (record := _parse(line, self.path)) and record.step <= step]
        with self.path.open("rb") as file:
            head = file.read(start)
        replace_file(self.path, head + b"".join(kept))
        self.size = self.path.stat().st_size

    def _lines(self, start: int) -> Iterator[bytes]:
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(start)
            for line in file:
                if line.endswith(b"\n"):  # else still being written, or cut off
                    yield line


@dataclass
class Ledger:
    """What MLflow has of a run, and what it takes to give it the rest. Two threads write it; each change is saved."""

    path: Path
    uri: str
    """Tracking server or database, without credentials."""
    experiment: str
    run_name: str
    run_id: str | None = None
    run_key: str = field(default_factory=lambda: uuid.uuid4().hex)
    """Tag by which a run is found whose creation was never answered."""
    experiment_id: str | None = None
    """MLflow's id of the experiment; None until the run was made there."""
    model_id: str | None = None
    """MLflow's id of the model that the run's artifact is; None until it was made there."""
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    described: bool = False
    """Whether `params` and `tags` were delivered."""
    delivered: int = 0
    """Bytes of the spool that MLflow has."""
    artifacts: list[tuple[str, str]] = field(default_factory=list)
    """Files and folders to deliver, each with the artifact folder it goes to."""
    artifacts_sent: list[tuple[str, str]] = field(default_factory=list)
    """Those that MLflow has."""
    status: str | None = None
    """Final status; None while the run goes on."""
    ended: bool = False
    """Whether `status` was delivered."""
    _lock: Any = field(default_factory=threading.RLock, repr=False, compare=False)
    _told: bool = field(default=False, repr=False, compare=False)
    """Whether a failure to save was told."""

    @classmethod
    def load(cls, path: Path) -> "Ledger":
        """Read it back; raises ValueError if the file is no ledger."""
        hints = get_type_hints(cls)
        try:
            values = {key: TypeAdapter(hints[key]).validate_python(value) for key, value in read_object(path).items()}
            for name in ("artifacts", "artifacts_sent"):
                values[name] = [_inside(source, to) for source, to in values[name]]
            return cls(path=path, **values)
        except (ValueError, TypeError, KeyError) as error:
            why = " ".join(str(error).split())
            raise ValueError(
                f"{path} is damaged ({why}). Remove it: the run's metrics are in {SPOOL_NAME} beside it."
            ) from None

    def update(self, **changes: Any) -> None:
        """Change fields, and save."""
        with self._lock:
            for name, value in changes.items():
                setattr(self, name, value)
            names = [item.name for item in fields(self) if item.name != "path" and not item.name.startswith("_")]
            text = json.dumps({name: getattr(self, name) for name in names}, indent=1)
            try:
                replace_file(self.path, text)
            except OSError as error:
                if not self._told:
                    logger.warning("%s cannot be written (%s); MLflow may be sent records twice.", self.path, error)
                self._told = True

    def add_artifact(self, source: Path, to: str) -> None:
        """Remember a file or folder to deliver; a path inside the run's folder stays valid when that is moved."""
        source = source.absolute()
        root = self.path.parent.absolute()
        entry = (str(source.relative_to(root) if source.is_relative_to(root) else source), to)
        with self._lock:
            self.update(artifacts=[*(old for old in self.artifacts if old != entry), entry])

    def artifact_done(self, entry: tuple[str, str]) -> None:
        """Remember that MLflow has it."""
        with self._lock:
            sent = [*(old for old in self.artifacts_sent if old != entry), entry]
            self.update(artifacts=[old for old in self.artifacts if old != entry], artifacts_sent=sent)

    def forget_delivery(self) -> None:
        """MLflow has nothing of this run: all of it is to be delivered."""
        with self._lock:
            new = [entry for entry in self.artifacts_sent if entry not in self.artifacts]
            self.update(run_id=None, model_id=None, artifacts=new + self.artifacts)
            self.update(described=False, delivered=0, ended=False)


def set_aside(folder: Path) -> None:
    """Move what an earlier run left in the same folder to `earlier-N/`, where it can still be delivered."""
    old = [folder / name for name in (SPOOL_NAME, LEDGER_NAME, ARTIFACTS_NAME) if (folder / name).exists()]
    if not old:
        return
    number = next(n for n in range(1, 10**6) if not (folder / f"earlier-{n}").exists())
    earlier = folder / f"earlier-{number}"
    earlier.mkdir()
    for path in old:
        path.rename(earlier / path.name)
    logger.warning("The records of an earlier run in %s were moved to %s.", folder, earlier)


def read_history(folder: Path) -> list[dict[str, float]]:
    """The run's records as rows `{"step": 10, "train/loss": 0.7}`, one per record, for figures and reports."""
    records, _ = Spool(folder / SPOOL_NAME).read()
    return [{"step": record.step, **record.metrics} for record in records]


def _inside(source: str, to: str) -> tuple[str, str]:
    """An artifact of a ledger; raises ValueError if it is not in the run's folder, whose files alone are sent."""
    for path in (source, to):
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise ValueError(f"the artifact {path} is not in the run's folder")
    return source, to


def _parse(line: bytes, path: Path) -> Record | None:
    try:
        values: Mapping[str, Any] = json.loads(line)
        metrics = {key: float(value) for key, value in values["metrics"].items()}
        return Record(int(values["step"]), float(values["time"]), metrics)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        logger.warning("%s has a line that is no record; it is skipped: %.80r", path, line)
        return None


def runs_page(folder: Path) -> str | None:
    """Where MLflow's pages list the runs of the experiment that a run's folder was recorded in; None if in none."""
    ledger = _known(folder)
    return f"#/experiments/{ledger.experiment_id}/runs" if ledger and ledger.experiment_id else None


def recorded_as(folder: Path) -> str | None:
    """MLflow's id of the run of a folder; None if MLflow does not have it, or not yet."""
    ledger = _known(folder)
    return ledger.run_id if ledger else None


def _known(folder: Path) -> Ledger | None:
    try:
        return Ledger.load(folder / LEDGER_NAME)
    except (OSError, ValueError):
        return None
