"""Worker groups, which take one run after another: what they are told, and what is known of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Job:
    """What a group is to do: start a run, or go on with it."""

    token: str
    """Names this attempt; a report with an older one is not heard."""
    trial: int
    seed: int
    config: dict[str, Any]
    """The `RunConfig` as plain values."""
    parent_run_id: str | None
    tags: dict[str, str]
    copy_from: str | None = None
    """Output folder of the run whose newest state it goes on from; that one waits until this one has reported."""


Answer = Job | Literal["wait", "leave", "re-register"]
"""`re-register`: the group was taken for lost; it shall say register as a new generation."""


@dataclass
class WorkerGroup:
    """A group of workers."""

    generation: int = 0
    job: Job | None = None
    asked: float = 0.0
    """When it asked for its work; the time until the run ends counts for the run."""
    heard: float = 0.0
    idle_starts: int = 0
    """Starts of its workers since it last asked for work."""
    raised: list[tuple[str, bool]] = field(default_factory=list)
    """What ranks raised in the job, and whether only a connection to another rank broke."""
    places: list[str] = field(default_factory=list)
    """Nodes of its ranks."""
    given_up: bool = False

    def take(self, job: Job, now: float) -> None:
        """Begin a job."""
        self.job, self.asked, self.heard, self.raised = job, now, now, []

    def release(self, now: float) -> float:
        """End the job; the seconds it took."""
        self.job, self.heard = None, now
        return now - self.asked


class WorkerGroups:
    """All that ever said register, by name."""

    def __init__(self) -> None:
        self._groups: dict[str, WorkerGroup] = {}

    def __getitem__(self, name: str) -> WorkerGroup:
        """The group; a new one is made."""
        return self._groups.setdefault(name, WorkerGroup())

    def heartbeat(self, name: str, generation: int, now: float) -> None:
        """A group is alive; an generation that was given up is not heard."""
        one = self[name]
        if one.generation == generation:
            one.heard = now

    def with_token(self, token: str) -> WorkerGroup | None:
        """The group whose job this is; None if the job is nobody's any more."""
        return next((one for one in self.busy if one.job and one.job.token == token), None)

    @property
    def busy(self) -> Sequence[WorkerGroup]:
        """Those with a job."""
        return [one for one in self._groups.values() if one.job]

    def silent(self, seconds: float, now: float) -> list[str]:
        """Those with a job that nothing was heard of for so long."""
        return [name for name, one in self._groups.items() if one.job and now - one.heard > seconds]

    def on(self, nodes: set[str]) -> list[str]:
        """Those with a job and a rank on one of these nodes."""
        return [name for name, one in self._groups.items() if one.job and nodes.intersection(one.places)]

    def shown(self) -> dict[str, str]:
        """What each is at."""
        return {
            name: f"trial {one.job.trial} seed {one.job.seed}" if one.job else "idle"
            for name, one in self._groups.items()
            if not one.given_up
        }
