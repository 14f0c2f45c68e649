"""Which worker group trains which run of a study. Knows nothing of Ray or processes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from infoprompt.config import ConfigError
from infoprompt.progress import Decision
from launcher.pool.desk import Desk
from launcher.pool.jobs import Job
from launcher.pool.worker_groups import WorkerGroup
from launcher.studies.jobs import Cell
from launcher.studies.jobs import Job as StudyJob
from launcher.studies.plan import Setting
from launcher.studies.queue import StudyQueue, end_record, make_room, tags_of


@dataclass(frozen=True)
class RunKey:
    """A run of a study, as it travels between processes."""

    cell: int
    """Its cell's place in the list."""
    phase: Literal["search", "final"]
    setting: Setting
    seed: int

    @classmethod
    def of(cls, job: StudyJob, cells: Sequence[Cell]) -> "RunKey":
        """The key of a run."""
        return cls(cells.index(job.cell), job.phase, job.setting, job.seed)

    def among(self, cells: Sequence[Cell]) -> StudyJob:
        """The run."""
        return StudyJob(cells[self.cell], self.phase, self.setting, self.seed)


@dataclass(frozen=True)
class StudyEvent:
    """Something that happened: a run has ended, or there is something to tell of a group."""

    ended: RunKey | None
    text: str = ""


class StudyDispatcher(Desk):
    """The queue of a study, for worker groups. A place of a group that packs is named `GROUP.NUMBER`."""

    def __init__(
        self,
        cells: Sequence[Cell],
        *,
        parent_run_id: str | None = None,
        forced: Setting | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """What is left of the cells.

        Args:
            cells: of a study.
            parent_run_id: MLflow's run of the study.
            forced: dotted settings that the cluster decides, such as the device.
            now: the clock.
        """
        super().__init__(now)
        self._cells, self._parent_run_id, self._forced = cells, parent_run_id, forced or {}
        self._queue = StudyQueue(cells)
        self._jobs: dict[str, StudyJob] = {}
        self._num_jobs = 0
        self.events: list[StudyEvent] = []

    def report(self, token: str, step: int, scores: dict[str, float], *, last: bool) -> Decision:
        """A run has evaluated: it goes on, unless another group has it by now."""
        if (group := self.groups.with_token(token)) is None:
            return "stop"
        group.heard = self._progress_at = self._now()
        return "go"

    def finished(self, token: str, result: dict[str, Any]) -> None:
        """A run came to its end."""
        if (job := self._release(token)) is not None:
            self._ended(job, None)

    def left_off(self, token: str, decision: Decision) -> None:
        """Only a run that another group has by now is told to."""

    def raised(self, token: str, rank: int, text: str, *, connection: bool, ends_group: bool) -> None:
        """See `Desk`: a run that failed by itself has failed."""
        if (group := self.groups.with_token(token)) is None:
            return
        group.raised.append((text, connection))
        if not ends_group and (job := self._release(token)) is not None:
            self._ended(job, text)

    @property
    def done(self) -> bool:
        """Whether every run has ended."""
        return not self.groups.busy and not self._queue

    @property
    def running(self) -> list[RunKey]:
        """The runs in progress."""
        return [RunKey.of(self._jobs[group.job.token], self._cells) for group in self.groups.busy if group.job]

    def _take(self, name: str) -> Job | None:
        while (job := self._queue.take(self._beside(name))) is not None:
            try:
                make_room(job)
            except (ConfigError, OSError) as error:
                self._ended(job, str(error))
                continue
            return self._start(job)
        return None

    def _beside(self, name: str) -> StudyJob | None:
        """A run in progress at another place of the same group."""
        together, dot, _ = name.rpartition(".")
        busy = self.groups.busy_within(f"{together}.") if dot else []
        return self._jobs[busy[0].job.token] if busy and busy[0].job else None

    def _start(self, job: StudyJob) -> Job:
        self._num_jobs += 1
        token = f"{self._num_jobs}-{self._now():.0f}"
        self._jobs[token] = job
        values = job.config.model_dump(mode="json")
        for key, value in self._forced.items():
            section, _, name = key.partition(".")
            values[section][name] = value
        self._progress_at = self._now()
        return Job(
            token=token,
            number=self._num_jobs,
            seed=job.seed,
            name=job.name,
            config=values,
            parent_run_id=self._parent_run_id,
            tags=tags_of(job),
            alone=self._queue.is_alone(job),
        )

    def _release(self, token: str) -> StudyJob | None:
        """Take the job from its group, which asks for the next one."""
        if (group := self.groups.with_token(token)) is None:
            return None
        group.release(self._now())
        self._progress_at = self._now()
        return self._jobs.pop(token)

    def _return_job(self, group: WorkerGroup, why: str, *, counts: bool) -> None:
        if group.job is None:
            return
        own = [text for text, connection in group.raised if not connection]
        job = self._release(group.job.token)
        assert job is not None
        if job.result() is not None:  # it had ended, and could not say so any more
            end_record(job, "FINISHED")
            self._ended(job, None)
            return
        end_record(job, "FAILED")
        if own:
            self._ended(job, own[0])
            return
        for lost, failure in self._queue.lost([job], why, counts=counts):
            self._ended(lost, failure)

    def _ended(self, job: StudyJob, failure: str | None) -> None:
        self._queue.ended(job, failure)
        self.events.append(StudyEvent(RunKey.of(job, self._cells)))

    def _tell_people(self, job: Job | None, text: str) -> None:
        self.events.append(StudyEvent(None, text))
        self._progress_at = self._now()
