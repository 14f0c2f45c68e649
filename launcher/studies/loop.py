"""The loop that trains what is left of a study on workers of this machine, and survives what they do not."""

from collections.abc import Callable, Mapping, Sequence

from launcher.studies.jobs import Cell, Job
from launcher.studies.queue import StudyQueue, end_record, make_room, tags_of
from launcher.studies.worker import Order, Worker, WorkerDied, ready

Change = Callable[[Sequence[Job], Job | None], None]
"""Called with the runs in progress and, if one has just ended, that one."""

_Running = Mapping[tuple[Worker, int], Job]
"""The run at each place of each worker."""


def train_study(cells: Sequence[Cell], *, parent_run_id: str | None, changed: Change) -> None:
    """Train every run that is not done, in processes of this machine: see `StudyQueue`."""
    queue = StudyQueue(cells)
    study = cells[0].study
    workers: list[Worker] = []
    running: dict[tuple[Worker, int], Job] = {}
    try:
        while queue or running:
            while (found := _next_place(queue, workers, running, study.config.workers or 1, study.pack)) is not None:
                worker, job = found
                make_room(job)
                order = Order(job.config, parent_run_id, tags_of(job))
                running[worker, worker.start(order, alone=queue.is_alone(job))] = job
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
                        end_record(job, "FAILED")
                    ended += queue.lost(lost, str(error))
                for job, failure in ended:
                    queue.ended(job, failure)
                    changed(list(running.values()), job)
    finally:
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join()
        for job in running.values():  # one that was stopped early on could not say so itself
            end_record(job, "KILLED")


def _next_place(
    queue: StudyQueue, workers: list[Worker], running: _Running, most_workers: int, pack: int
) -> tuple[Worker, Job] | None:
    """A worker, made if need be, and the next run that it can take, off the queue; None if none can."""
    if not queue:
        return None
    busy = {worker: job for (worker, _), job in running.items()}
    idle = next((worker for worker in workers if worker not in busy), None)
    if idle is None and len(workers) < most_workers:
        idle = Worker(pack)
        workers.append(idle)
    if idle is not None and (job := queue.take(None)) is not None:
        return idle, job
    for worker, beside in sorted(busy.items(), key=lambda item: -len(item[0].free)):
        if worker.free and (job := queue.take(beside)) is not None:
            return worker, job
    return None
