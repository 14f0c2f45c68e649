"""The desk where worker groups ask for work: what is the same for a sweep and a study. Knows nothing of Ray.

A group registers when its workers start, asks for work, reports, and says how its run has ended. One whose workers were
killed registers anew; one whose node is gone, or that nothing is heard of, is taken for lost. Which run comes next, and
what becomes of one, is decided by who inherits from `Desk`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from infoprompt.progress import Decision
from launcher.pool.jobs import Answer, Job
from launcher.pool.worker_groups import LOST, MOST_IDLE_STARTS, WorkerGroup, WorkerGroups


class Desk(ABC):
    """Every method is quick; `now` is a clock in seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.groups = WorkerGroups()
        self._progress_at = now()

    # ---- what groups say

    def register(self, name: str, generation: int, places: Sequence[str]) -> None:
        """A group's workers have started, for the first time or again after they were killed."""
        group = self.groups[name]
        self._return_job(group, "its workers were killed", counts=True)
        if group.start(generation, places, self._now()):
            text = f"worker group {name} started {MOST_IDLE_STARTS} times and never asked for work; given up"
            self._tell_people(None, text)

    def heartbeat(self, name: str, generation: int) -> None:
        """A group is alive."""
        self.groups.heartbeat(name, generation, self._now())

    def next(self, name: str, generation: int) -> Answer:
        """What a group shall do now."""
        group = self.groups[name]
        if group.generation == LOST and not self.done:
            return "re-register"
        if group.generation != generation or group.given_up or self.done:
            return "leave"
        group.heard, group.idle_starts = self._now(), 0
        job = self._take(name)
        if job is None:
            return "wait"
        group.take(job, self._now())
        return job

    @abstractmethod
    def report(self, token: str, step: int, scores: dict[str, float], *, last: bool) -> Decision:
        """A run has evaluated; `last`: it is about to end by itself."""

    @abstractmethod
    def finished(self, token: str, result: dict[str, Any]) -> None:
        """A run came to its end."""

    @abstractmethod
    def left_off(self, token: str, decision: Decision) -> None:
        """A run did as its report was told: it keeps its state, or has its end."""

    @abstractmethod
    def raised(self, token: str, rank: int, text: str, *, connection: bool, ends_group: bool) -> None:
        """A rank raised something in the run.

        Args:
            token: of the job.
            rank: which one.
            text: what people are told.
            connection: only the connection to another rank broke; that one has the reason, or was killed.
            ends_group: the group's workers end with it, and the next `register` settles what becomes of the run.
        """

    # ---- what the driver says

    def lost(self, name: str, why: str) -> None:
        """A group's node is gone, or nothing was heard of it: others go on with its run."""
        group = self.groups[name]
        if group.job:
            text = f"worker group {name} was lost ({why}); its run goes on elsewhere"
            self._tell_people(group.job, text)
            self._return_job(group, why, counts=False)
            group.generation = LOST  # should it be alive after all, nothing it says of its run is heard

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether nothing is left that may be done."""

    @property
    def stalled_seconds(self) -> float:
        """Time since anything was reported."""
        return self._now() - self._progress_at

    # ---- what is decided elsewhere

    @abstractmethod
    def _take(self, name: str) -> Job | None:
        """The next run for a group, which begins it; None if none can begin now."""

    @abstractmethod
    def _return_job(self, group: WorkerGroup, why: str, *, counts: bool) -> None:
        """Settle the job, if any, of workers that are gone; `counts`: whether that was their run's doing."""

    @abstractmethod
    def _tell_people(self, job: Job | None, text: str) -> None:
        """Something happened to a group, at a job or at none."""
