"""Trains what is left of a study on the worker groups of a Ray cluster, those that sweeps have."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from infoprompt.config import RunConfig
from launcher.exits import signals_heard
from launcher.pool.ray_groups import (
    TICK_SECONDS,
    RayGroups,
    connected,
    num_groups,
    start_coordinator,
    tracking_addresses,
    worker_environment,
)
from launcher.pool.ray_worker import Coordinator, Work, train_one
from launcher.studies.dispatcher import RunKey, StudyDispatcher, StudyEvent
from launcher.studies.jobs import Cell, Job, num_planned
from launcher.studies.loop import Change
from launcher.studies.plan import Setting
from launcher.studies.queue import end_record


@dataclass(frozen=True)
class _News:
    """What the driver has not seen yet."""

    events: list[StudyEvent]
    running: list[RunKey]
    groups: dict[str, str]
    done: bool
    stalled_seconds: float


class StudyCoordinator(Coordinator):
    """A study's dispatcher as an actor."""

    def __init__(self, cells: Sequence[Cell], parent_run_id: str | None, forced: Setting, uri: str | None) -> None:
        """What is left of the cells; `uri` is MLflow's address."""
        if uri is not None:  # an actor has not the driver's environment, and ends runs whose workers died
            os.environ["MLFLOW_TRACKING_URI"] = uri
        self._dispatcher = StudyDispatcher(cells, parent_run_id=parent_run_id, forced=forced)
        super().__init__(self._dispatcher)

    def news(self, seen: int) -> _News:
        """Everything since event number `seen`."""
        state = self._dispatcher
        return _News(state.events[seen:], state.running, state.groups.shown(), state.done, state.stalled_seconds)


def train_study_on_ray(
    cells: Sequence[Cell],
    *,
    any_run: RunConfig,
    parent_run_id: str | None,
    changed: Change,
    say: Callable[[str], None],
    debug: bool = False,
) -> None:
    """Train every run that is not done on the cluster that RAY_ADDRESS names: see `StudyQueue`.

    Args:
        cells: of the study.
        any_run: the config of one of its runs.
        parent_run_id: MLflow's run of it.
        changed: is told what runs, and what has ended.
        say: tells people what happens to groups.
        debug: show the workers' output.
    Raises:
        ConfigError: a run does not fit on the cluster.
        NoGroupLeft: every worker group has left.
    """
    study = cells[0].study
    needs = study.config.needs
    uri, hidden_uri = tracking_addresses(any_run.tracking)
    forced: Setting = {} if needs.gpus else {"engine.device": "cpu"}  # whatever the node has
    if hidden_uri is not None:
        forced["tracking.uri"] = hidden_uri
    done = sum(job.result() is not None for cell in cells for job in (*cell.search_jobs, *cell.final_jobs))
    num_runs = num_planned(cells) - done
    if not num_runs:
        return
    with connected(needs, say, debug), signals_heard():
        number = num_groups(needs, num_runs, study.pack)
        coordinator = start_coordinator(StudyCoordinator, cells, parent_run_id, forced, uri)
        work = Work(coordinator, worker_environment(uri), train_one, study.pack)
        timeout_seconds = int(any_run.engine.timeout_seconds)
        groups = RayGroups(
            work, needs, study.folder / "ray", num_runs=num_runs, timeout_seconds=timeout_seconds, what="study"
        )
        groups.grow(number)
        running: list[Job] = []
        try:
            _watch(cells, coordinator, groups, running, changed, say)
        finally:  # runs that cannot say themselves how they end, so nobody may be at them any more
            ray.shutdown()
            for job in running:
                end_record(job, "KILLED")


def _watch(
    cells: Sequence[Cell],
    coordinator: Any,
    groups: RayGroups,
    running: list[Job],
    changed: Change,
    say: Callable[[str], None],
) -> None:
    """Follow the study to its end; `running` is kept up to date."""
    seen = 0
    while True:
        news: _News = ray.get(coordinator.news.remote(seen))
        if not news.done:  # at once: groups leave when all is done, and tables take seconds to write
            groups.look_after(news.stalled_seconds, news.groups, say)
        seen += len(news.events)
        running[:] = [key.among(cells) for key in news.running]
        for event in news.events:
            if event.ended is not None:
                changed(running, event.ended.among(cells))
            if event.text:
                say(event.text)
        changed(running, None)
        if news.done:
            groups.wait()
            return
        time.sleep(TICK_SECONDS)
