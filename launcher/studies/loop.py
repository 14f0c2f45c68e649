"""The loop that trains what is left of a study, on several workers, and survives what they do not."""

import logging
import shutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Literal

from infoprompt.tracking import end_for
from launcher.studies.jobs import Cell, Job
from launcher.studies.settings import StudyConfig
from launcher.studies.worker import Order, Worker, WorkerDied, ready

log = logging.getLogger(__name__)

Change = Callable[[Sequence[Job], Job | None], None]
"""Called with the runs in progress and, if one has just ended, that one."""


def train_study(cells: Sequence[Cell], *, parent_run_id: str | None, changed: Change) -> None:
    """Train every run that is not done: of each cell the search, then the final runs.

    A run that fails is remembered as failed. One whose process dies is tried once more.
    """
    queue = deque(job for cell in cells for job in _first_jobs(cell))
    config = cells[0].study.config
    workers: list[Worker] = []
    running: dict[tuple[Worker, int], Job] = {}
    died: set[Job] = set()
    searched: set[Cell] = set()  # else the last runs of a search that end together would each start the final ones
    try:
        while queue or running:
            while (found := _next_place(queue, workers, running, died, config)) is not None:
                worker, job = found
                queue.remove(job)
                running[worker, _start(worker, job, parent_run_id, alone=_key(job, died) is None)] = job
                changed(list(running.values()), None)
            for worker in ready({worker for worker, _ in running}):
                ended: list[tuple[Job, str | None]] = []
                try:
                    place, failure = worker.finish()
                    ended.append((running.pop((worker, place)), failure))
                except WorkerDied as error:
                    worker.join()
                    workers.remove(worker)
                    lost = [running.pop(at) for at in list(running) if at[0] is worker]
                    for job in lost:
                        _end_record(job, "FAILED")
                    ended += [(job, f"Twice, {error}") for job in lost if job in died]
                    again = [job for job in lost if job not in died]
                    died.update(again)
                    queue.extendleft(reversed(again))
                for job, failure in ended:
                    _ended(job, failure)
                    if job.cell not in searched and (following := _next_jobs(job)):
                        searched.add(job.cell)
                        queue.extendleft(reversed(following))
                    changed(list(running.values()), job)
    finally:
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join()
        for job in running.values():  # one that was stopped early on could not say so itself
            _end_record(job, "KILLED")


_Running = Mapping[tuple[Worker, int], Job]
"""The run at each place of each worker."""


def _key(job: Job, died: Set[Job]) -> str | None:
    """Runs of equal keys may share a pass; None for one that trains alone, as one does whose process has died."""
    if job.cell.study.pack == 1 or job in died:
        return None
    from infoprompt.engine.pack import pack_key

    return pack_key(job.config)


def _next_place(
    queue: Sequence[Job], workers: list[Worker], running: _Running, died: Set[Job], config: StudyConfig
) -> tuple[Worker, Job] | None:
    """A worker, made if need be, and the next run that it can take; None if none can."""
    if not queue:
        return None
    busy = {worker: job for (worker, _), job in running.items()}
    idle = next((worker for worker in workers if worker not in busy), None)
    if idle is None and len(workers) < config.workers:
        idle = Worker(queue[0].cell.study.pack)
        workers.append(idle)
    if idle is not None:
        return idle, queue[0]
    for worker, beside in sorted(busy.items(), key=lambda item: -len(item[0].free)):
        key = _key(beside, died)
        if key is not None and worker.free:
            job = next((job for job in queue if _key(job, died) == key), None)
            if job is not None:
                return worker, job
    return None


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


def _start(worker: Worker, job: Job, parent_run_id: str | None, *, alone: bool) -> int:
    """Have the worker train it; the place that it takes there."""
    _end_record(job, "KILLED")
    job.clear()
    task, size, method = job.cell.place
    study = job.cell.study.config.study_name
    tags = {"study": study, "study.task": task, "study.size": size, "study.method": method, "study.phase": job.phase}
    tags["recipe"] = method
    return worker.start(Order(job.config, parent_run_id, tags), alone=alone)


def _ended(job: Job, failure: str | None) -> None:
    if failure is None and job.result() is None:
        failure = f"It ended without an error, but left no result of its settings in {job.folder}."
    if failure is not None:
        log.warning("%s failed: %s", job.name, failure)
        job.fail(failure)
    elif job.phase == "search":
        shutil.rmtree(job.folder / "artifacts", ignore_errors=True)  # figures of a run that nobody will look at


def _end_record(job: Job, status: Literal["FAILED", "KILLED"]) -> None:
    """End in MLflow what an earlier start of the run, or its dead process, could not."""
    if not (job.folder / "result.json").exists():
        end_for(job.folder, job.config.tracking, status)
