"""What a part of the proof finds, written line by line so that a run that is cut short still counts."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FILE = "records.jsonl"

NO_GPU = 77
"""What a part's process ends with where torch sees no GPU."""


@dataclass(frozen=True)
class Finding:
    """One number, or one reason why there is none."""

    part: str
    name: str
    value: float | None = None
    unit: str = ""
    limit: float | None = None
    """Largest value that is right; None where the value is measured and not judged."""
    wrong: bool = False
    note: str = ""
    group: str = ""
    """Findings of one group are one line of the table, but for those that are wrong."""


@dataclass(frozen=True)
class End:
    """How a part ended."""

    part: str
    state: str
    """`done`, `cut`, `skipped` or `failed`."""
    seconds: float = 0.0
    note: str = ""


@dataclass
class Records:
    """Everything that is written so far."""

    about: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)

    @property
    def wrong(self) -> bool:
        """Whether a number is wrong, or a part failed; being slow is neither."""
        return any(finding.wrong for finding in self.findings) or any(end.state == "failed" for end in self.ends)


@dataclass(frozen=True)
class Recorder:
    """Writes the findings of one part."""

    folder: Path
    part: str

    def about(self, **machine: str) -> None:
        """What the proof ran on."""
        write(self.folder, "about", machine)

    def add(self, name: str, value: float | None = None, unit: str = "", **more: Any) -> None:
        """See `Finding`."""
        write(self.folder, "finding", asdict(Finding(self.part, name, value, unit, **more)))

    def judge(self, name: str, value: float, limit: float, **more: Any) -> None:
        """A value that is right up to a limit; what is no number is wrong."""
        self.add(name, value, limit=limit, wrong=not value <= limit, **more)

    @contextmanager
    def trying(self, name: str) -> Iterator[None]:
        """A step whose failure is a finding, and wrong, and does not end the part."""
        try:
            yield
        except Exception as error:  # whatever it is, the steps after it still count
            text = str(error).strip() or "no message"
            self.add(name, wrong=True, note=f"{type(error).__name__}: {text.splitlines()[0][:300]}")


def write(folder: Path, kind: str, values: dict[str, Any]) -> None:
    """Add one line; several processes may do so at once."""
    with (folder / FILE).open("a") as file:
        file.write(json.dumps({kind: values}) + "\n")


def read(folder: Path) -> Records:
    """All lines, but for a last one that was cut short."""
    records = Records()
    path = folder / FILE
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            ((kind, values),) = json.loads(line).items()
        except ValueError:
            continue
        if kind == "about":
            records.about |= values
        elif kind == "finding":
            records.findings.append(Finding(**values))
        else:
            records.ends.append(End(**values))
    return records
