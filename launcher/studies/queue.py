"""Which run of a study comes next, and what becomes of one that has ended or was lost, wherever it is trained."""

import logging
import shutil
from collections import deque
from collections.abc import Sequence
from typing import Literal

from infoprompt.tracking import end_for
from launcher.pool.jobs import owner_of
from launcher.studies.jobs import Cell, Job

log = logging.getLogger(__name__)


class StudyQueue:
    """What is left of a study: of each cell the search, then the final runs.

    A run that fails is remembered as failed. One whose process dies is tried once more, and alone.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        """What is not done of these cells."""
        self._waiting = deque(job for cell in cells for job in _first_jobs(cell))
        self._died: set[Job] = set()
        self._searched: set[Cell] = set()  # else the last runs of a search that end together would each add the finals

    def __len__(self) -> int:
        """Runs that wait."""
        return len(self._waiting)

    def take(self, beside: Job | None) -> Job | None:
        """The next run; `beside` a run in progress, the next that can share a pass with it; None if there is none."""
        if beside is None:
            return self._waiting.popleft() if self._waiting else None
        key = self._key(beside)
        job = next((job for job in self._waiting if self._key(job) == key), None) if key is not None else None
        if job is not None:
            self._waiting.remove(job)
        return job

    def is_alone(self, job: Job) -> bool:
        """Whether it shares no pass."""
        return self._key(job) is None

    def ended(self, job: Job, failure: str | None) -> None:
        """A run has ended, or failed for a reason; what follows it comes next."""
        if failure is None and job.result() is None:
            failure = f"It ended without an error, but left no result of its settings in {job.folder}."
        if failure is not None:
            log.warning("%s failed: %s", job.name, failure)
            job.fail(failure)
        elif job.phase == "search":
            shutil.rmtree(job.folder / "artifacts", ignore_errors=True)  # figures of a run that nobody will look at
        if job.cell not in self._searched and (following := _next_jobs(job)):
            self._searched.add(job.cell)
            self._waiting.extendleft(reversed(following))

    def lost(self, jobs: Sequence[Job], why: str, *, counts: bool = True) -> list[tuple[Job, str]]:
        """Runs whose process is gone; `counts`: it died, as by their doing. Which are over with that, and why."""
        over = [job for job in jobs if counts and job in self._died]
        again = [job for job in jobs if job not in over]
        if counts:
            self._died.update(again)
        self._waiting.extendleft(reversed(again))
        return [(job, f"Twice, {why}") for job in over]

    def _key(self, job: Job) -> str | None:
        """Runs of equal keys may share a pass; None for one that trains alone, as one does whose process has died."""
        if job.cell.study.pack == 1 or job in self._died:
            return None
        from infoprompt.engine.pack import pack_key

        return pack_key(job.config)


def make_room(job: Job) -> None:
    """Before a run starts: end an earlier start of it in MLflow, and empty its folder; raises ConfigError."""
    end_record(job, "KILLED")
    job.clear(owner_of(tags_of(job)))


def tags_of(job: Job) -> dict[str, str]:
    """Those of its run in MLflow."""
    task, size, method = job.cell.place
    study = job.cell.study.config.study_name
    tags = {"study": study, "study.task": task, "study.size": size, "study.method": method, "study.phase": job.phase}
    return {**tags, "recipe": method}


def end_record(job: Job, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
    """End in MLflow what an earlier start of the run, or its dead process, could not."""
    if (status == "FINISHED") == (job.folder / "result.json").exists():
        end_for(job.folder, job.config.tracking, status)


def forget_failures(cells: Sequence[Cell]) -> None:
    """What failed before is tried again; a failed run of the search may else have decided what was chosen."""
    for cell in cells:
        for job in (*cell.final_jobs, *cell.search_jobs):
            job.forget_failure()


def _first_jobs(cell: Cell) -> list[Job]:
    """What of a cell can start at once."""
    left = [job for job in cell.search_jobs if job.result() is None]
    return left or _left(cell.final_jobs)


def _next_jobs(job: Job) -> list[Job]:
    """The final runs, once the last run of the search has ended."""
    done = job.phase == "search" and all(other.ended for other in job.cell.search_jobs)
    return _left(job.cell.final_jobs) if done else []


def _left(jobs: Sequence[Job]) -> list[Job]:
    for job in jobs:  # of a setting that was not chosen at the start
        job.forget_failure()
    return [job for job in jobs if job.result() is None]
