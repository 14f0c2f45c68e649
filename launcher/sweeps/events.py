"""What a sweep tells people, and MLflow."""

from dataclasses import dataclass
from typing import Literal

from launcher.sweeps.journal import TrialState


@dataclass(frozen=True)
class Event:
    """Something that happened."""

    kind: Literal["opened", "started", "resumed", "scored", "compared", "ended", "group"]
    trial: int | None
    text: str
    step: int | None = None
    score: float | None = None


@dataclass(frozen=True)
class News:
    """What the driver has not seen yet."""

    events: list[Event]
    changed: dict[int | None, TrialState]
    """The trials of these events, as they are now."""
    groups: dict[str, str]
    done: bool
    stalled_seconds: float
    exhausted: str | None
