"""Worker groups, which take one run after another: what is known of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from launcher.pool.jobs import Job

MOST_IDLE_STARTS = 6
"""After so many starts of a group without coming to ask for work, it is given up."""

LOST = -1
"""The generation of a group that was taken for lost."""


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

    def start(self, generation: int, places: Sequence[str], now: float) -> bool:
        """Its workers have started; whether that gives it up."""
        self.generation, self.places, self.heard = generation, list(places), now
        self.idle_starts += 1
        was_given_up, self.given_up = self.given_up, self.given_up or self.idle_starts > MOST_IDLE_STARTS
        return self.given_up and not was_given_up

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
        """A group is alive; a generation that was given up is not heard."""
        group = self[name]
        if group.generation == generation:
            group.heard = now

    def with_token(self, token: str) -> WorkerGroup | None:
        """The group whose job this is; None if the job is nobody's any more."""
        return next((group for group in self.busy if group.job and group.job.token == token), None)

    @property
    def busy(self) -> Sequence[WorkerGroup]:
        """Those with a job."""
        return [group for group in self._groups.values() if group.job]

    def busy_within(self, prefix: str) -> list[WorkerGroup]:
        """Those with a job whose names begin so."""
        return [group for name, group in self._groups.items() if group.job and name.startswith(prefix)]

    def silent(self, seconds: float, now: float) -> list[str]:
        """Those with a job that nothing was heard of for so long."""
        return [name for name, group in self._groups.items() if group.job and now - group.heard > seconds]

    def on(self, nodes: set[str]) -> list[str]:
        """Those with a job and a rank on one of these nodes."""
        return [name for name, group in self._groups.items() if group.job and nodes.intersection(group.places)]

    def shown(self) -> dict[str, str]:
        """What each is at."""
        return {
            name: group.job.name if group.job else "idle" for name, group in self._groups.items() if not group.given_up
        }
