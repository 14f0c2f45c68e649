"""What a worker group is told to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Job:
    """What a group is to do: start a run, or go on with it."""

    token: str
    """Names this attempt; a report with an older one is not heard."""
    number: int
    """Of the trial of a sweep, or of the run of a study."""
    seed: int
    name: str
    """For people."""
    config: dict[str, Any]
    """The `RunConfig` as plain values."""
    parent_run_id: str | None
    tags: dict[str, str]
    copy_from: str | None = None
    """Output folder of the run whose newest state it goes on from; that one waits until this one has reported."""
    alone: bool = False
    """Whether it shares no pass, whatever its settings."""


Answer = Job | Literal["wait", "leave", "re-register"]
"""`re-register`: the group was taken for lost; it shall say register as a new generation."""


def resume_of(tags: Mapping[str, str]) -> Literal["auto", "never"]:
    """A run of a sweep goes on from its own state; one of a study starts anew, whatever its folder has."""
    return "auto" if "sweep" in tags else "never"


def owner_of(tags: Mapping[str, str]) -> str:
    """Who holds a run's folder. A sweep or a study holds its own, and gives a run to one group at a time.

    So the next group need not wait for a sign of life of the last.
    """
    kind = "sweep" if "sweep" in tags else "study"
    return f"{kind} {tags.get(kind)}"
