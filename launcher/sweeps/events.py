"""What a sweep tells people, and MLflow."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Event:
    """Something that happened."""

    kind: Literal["opened", "started", "resumed", "scored", "compared", "ended", "group"]
    trial: int | None
    text: str
    step: int | None = None
    score: float | None = None
