"""Runs a sweep on Ray: the driver, which follows what the dispatcher's actor and the worker groups do."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from infoprompt.config import RunConfig, build_config
from launcher.exits import signals_heard
from launcher.pool.needs import Needs
from launcher.pool.ray_groups import (
    TICK_SECONDS,
    RayGroups,
    connected,
    num_groups,
    of_our_own,
    start_coordinator,
    tracking_addresses,
    worker_environment,
)
from launcher.pool.ray_worker import Coordinator, TrainFunction, Work, train_one
from launcher.sweeps.dispatcher import Dispatcher
from launcher.sweeps.events import News
from launcher.sweeps.journal import TrialState
from launcher.sweeps.mlflow_runs import Record, recorded
from launcher.sweeps.outcome import SweepOutcome, outcome_of
from launcher.sweeps.plan import Sweep
from launcher.sweeps.resume import earlier_trials
from launcher.sweeps.test_scores import score_best
from launcher.sweeps.view import View


class SweepCoordinator(Coordinator):
    """A sweep's dispatcher as an actor."""

    def __init__(self, sweep: Sweep, past: Sequence[TrialState], parent_run_id: str | None, group_runs: bool) -> None:
        """Begin, or go on with `past`."""
        from launcher.sweeps.search import Search

        search = Search(sweep)
        search.restore(past)
        self._dispatcher = Dispatcher(sweep, search, past, parent_run_id=parent_run_id, group_runs=group_runs)
        super().__init__(self._dispatcher)

    def news(self, seen: int) -> News:
        """Everything since event number `seen`."""
        state = self._dispatcher
        events = state.events[seen:]
        numbers = {event.trial for event in events if event.trial is not None}
        changed: dict[int | None, TrialState] = {number: state.trials[number] for number in numbers}
        return News(events, changed, state.groups.shown(), state.done, state.stalled_seconds, state.budget.exhausted)

    def trials(self) -> list[TrialState]:
        """All trials, by number."""
        return [trial for _, trial in sorted(self._dispatcher.trials.items())]


def run_sweep(
    sweep: Sweep,
    *,
    view: View,
    resume: bool = False,
    train: TrainFunction = train_one,
    debug: bool = False,
) -> SweepOutcome:
    """Train every trial on the cluster that RAY_ADDRESS names, or else on this machine.

    Args:
        sweep: the checked plan.
        view: shows what happens to people.
        resume: go on with what an earlier start left in the output folder, if anything.
        train: what a worker calls.
        debug: show the workers' output.
    Raises:
        ConfigError: a trial does not fit on the cluster, tracking cannot work, or the folder has an earlier sweep and
            `resume` is not given, or another one.
    """
    settings = sweep.settings
    folder = Path(settings.output_dir)
    past = earlier_trials(sweep, resume)
    if resume and not past:  # no error: what starts again by itself may have ended before the first trial began
        view.say(f"there is nothing to resume in {folder}: the sweep starts anew")
    tracking = sweep.first.tracking
    uri, hidden_uri = tracking_addresses(tracking)
    if hidden_uri is not None:
        sweep = replace(sweep, tracking_uri=hidden_uri)
    folder.mkdir(parents=True, exist_ok=True)
    num_runs = sweep.num_trials * len(sweep.seeds)
    # Ray's start puts a handler of its own on SIGTERM, which would skip everything that is to be closed.
    with connected(settings.needs, view.say, debug), signals_heard():
        number = num_groups(settings.needs, num_runs, sweep.pack)
        with recorded(sweep, tracking, past) as record:
            coordinator = start_coordinator(SweepCoordinator, sweep, past, record.parent_run_id, record.groups)
            work = Work(coordinator, worker_environment(uri), train, sweep.pack)
            timeout_seconds = int(sweep.first.engine.timeout_seconds)
            groups = RayGroups(
                work, settings.needs, folder / "ray", num_runs=num_runs, timeout_seconds=timeout_seconds, what="sweep"
            )
            with view:
                view.begin(sweep, number, past)
                groups.grow(number)
                try:
                    trials = _watch(coordinator, groups, view, record)
                    score = _Scorer(work, settings.needs, len(sweep.seeds), view.say)
                    record.tested(score_best(sweep, trials, score, view.say))
                finally:  # the record ends runs that cannot do so themselves, so nobody may be at them any more
                    ray.shutdown()
            record.finish(trials)
            outcome = outcome_of(sweep, trials, record.parent_run_id, view.exhausted)
            record.conclude(sweep, outcome)
    return outcome


def _watch(coordinator: Any, groups: RayGroups, view: View, record: Record) -> list[TrialState]:
    """Follow the sweep to its end; the trials as they ended."""
    seen = 0
    while True:
        news = ray.get(coordinator.news.remote(seen))
        if not news.done:  # at once: groups leave when all is done, and records take their time
            groups.look_after(news.stalled_seconds, news.groups, view.say)
        seen += len(news.events)
        for event in news.events:
            if event.kind == "opened":
                run_id = record.open_trial(news.changed[event.trial])
                coordinator.tell.remote("opened", event.trial, run_id)
            record.note(event, news.changed.get(event.trial))
        view.update(news)
        if news.done:
            groups.wait()
            return list(ray.get(coordinator.trials.remote()))
        time.sleep(TICK_SECONDS)


@dataclass(frozen=True)
class _Scorer:
    """Scores an artifact in a process of its own, on whichever node has room for a worker."""

    work: Work
    needs: Needs
    at_once: int
    """How many are scored side by side."""
    say: Callable[[str], None]

    def __call__(self, config: RunConfig) -> dict[str, Any]:
        """`infoprompt.test_predictions.score_later` there; raises what it raises."""
        cpus = self.needs.cpus
        if not self.needs.gpus and of_our_own():  # nothing else is at work by now
            cpus = max(cpus, ray.cluster_resources()["CPU"] // self.at_once)
        options = {"num_cpus": cpus, "num_gpus": self.needs.gpus}
        task = ray.remote(_score_later).options(**options, max_retries=1)
        device = "auto" if self.needs.gpus else "cpu"
        promise = task.remote(config.model_dump(mode="json"), device, self.work.environment, max(1, int(cpus)))
        while not ray.wait([promise], timeout=60 * self.needs.stall_minutes)[0]:
            self.say("the test rows are still being scored, or no node has room for a worker")
        found: dict[str, Any] = ray.get(promise)
        return found


def _score_later(values: dict[str, Any], device: str, environment: dict[str, str], threads: int) -> dict[str, Any]:
    os.environ.update(environment)
    import torch

    torch.set_num_threads(threads)
    from infoprompt.test_predictions import score_later

    return score_later(build_config(values), device)
