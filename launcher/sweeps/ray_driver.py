"""Runs a sweep on Ray: the one file that imports it, with `ray_worker.py`.

    run_sweep (driver) -> a TorchTrainer per worker group -> its workers, warm from run to run -> infoprompt.train.run
                       -> the coordinator, an actor around `Dispatcher`, which groups ask for work and report to

There are as many worker groups as fit side by side. Each takes run after run: processes are started, modules imported
and process groups made once a worker group, not once a trial. A group whose workers are killed is started again by Ray
Train, and goes on with its run from the run's own resume state. One whose node is gone loses its run to another group.
"""

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from infoprompt.config import ConfigError, RunConfig, build_config
from infoprompt.tracking import shown_uri, tracking_uri
from infoprompt.tracking.environment import COMMIT_VARIABLE, git_commit
from launcher.exits import signals_heard
from launcher.sweeps.journal import TrialState
from launcher.sweeps.mlflow_runs import Record, recorded
from launcher.sweeps.outcome import SweepOutcome, outcome_of
from launcher.sweeps.plan import Sweep, concurrent_trials
from launcher.sweeps.ray_start import start_ray
from launcher.sweeps.ray_worker import Coordinator, TrainFunction, Work, note_sigterm, train_one, worker_loop
from launcher.sweeps.resume import earlier_trials
from launcher.sweeps.settings import SweepSettings, resources
from launcher.sweeps.test_scores import score_best
from launcher.sweeps.view import View

log = logging.getLogger(__name__)

TICK_SECONDS = 0.25
SILENT_SECONDS = 60.0
"""A group with work that is not heard of for so long is taken for lost; its workers say something every two."""
NODES_EVERY_SECONDS = 2.0
WAIT_FOR_GROUPS_SECONDS = 20.0
"""At the end, for the groups to leave by themselves."""

RAY_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon a killed worker is noticed
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    # each is one more process or poll a group, and nobody here listens to it
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_ENABLE_STATE_ACTOR_RECONCILIATION": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


@dataclass
class _WorkerGroups:
    """The worker groups: a task of Ray waits for each. (A thread of the driver could not be ended by Ctrl-C.)"""

    work: Work
    sweep: SweepSettings
    timeout_seconds: int
    tasks: dict[str, Any] = field(default_factory=dict)

    def grow(self, number: int) -> None:
        """Have so many groups; those that there are stay."""
        options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": _here()}
        for index in range(len(self.tasks), number):
            name = f"group-{index}"
            task = ray.remote(_train_group).options(**options)
            self.tasks[name] = task.remote(self.work, self.sweep, name, self.timeout_seconds)

    def left(self, wait_seconds: float = 0.0) -> list[Any]:
        """Tasks of groups that have left, after waiting for all at most so long."""
        tasks = list(self.tasks.values())
        done: list[Any] = ray.wait(tasks, num_returns=len(tasks), timeout=wait_seconds)[0] if tasks else []
        return done

    @property
    def errors(self) -> list[str]:
        """Why groups could not go on."""
        texts = []
        for task in self.left():
            try:
                ray.get(task)
            except Exception as error:  # whatever Ray Train may raise
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                texts.append(lines[-1] if lines else type(error).__name__)
        return texts


class _GroupBackend(TorchConfig().backend_cls):  # type: ignore[misc]  # which class that is, is Ray's to say
    """Torch's process group, and workers that note SIGTERM: a handler can be set in their main threads alone."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_start(worker_group, backend_config)
        worker_group.execute(note_sigterm)


class _GroupConfig(TorchConfig):
    @property
    def backend_cls(self) -> Any:
        return _GroupBackend


def _train_group(work: Work, sweep: SweepSettings, name: str, timeout_seconds: int) -> None:
    """Start the workers of a group, and again when they are killed, until they leave."""
    # Ray Train reads these where the trainer is made, and forwards them to its workers.
    for variable, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    trainer = TorchTrainer(
        worker_loop,
        train_loop_config={"work": work, "group": name},
        torch_config=_GroupConfig(backend="nccl" if sweep.gpus_per_worker else "gloo", timeout_s=timeout_seconds),
        scaling_config=ray.train.ScalingConfig(
            num_workers=sweep.workers_per_trial,
            use_gpu=sweep.gpus_per_worker > 0,
            resources_per_worker=resources(sweep),
            placement_strategy=sweep.placement,
        ),
        run_config=ray.train.RunConfig(
            # Ray goes on from an earlier state under the same name, so it must never come again by accident.
            name=f"{name}-{time.time_ns()}",
            storage_path=str(Path(sweep.output_dir) / "ray"),
            # without limit: the dispatcher counts what a run costs, and gives up a group that never reports
            failure_config=ray.train.FailureConfig(max_failures=-1, controller_failure_limit=-1),
        ),
    )
    trainer.fit()


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
    uri = tracking_uri(tracking) if tracking.enabled else None
    if uri and shown_uri(uri) != uri:  # to the workers by Ray's memory: their environment is shown
        sweep = replace(sweep, tracking_uri=uri)
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    folder.mkdir(parents=True, exist_ok=True)
    # Ray's start puts a handler of its own on SIGTERM, which would skip everything that is to be closed.
    with _connected(sweep, view.say, debug), signals_heard():
        num_groups = _num_groups(sweep)
        with recorded(sweep, tracking, past) as record:
            coordinator = _start_coordinator(sweep, past, record)
            work = Work(coordinator, _worker_environment(uri), train, sweep.pack)
            groups = _WorkerGroups(work, settings, int(sweep.first.engine.timeout_seconds))
            with view:
                view.begin(sweep, num_groups, past)
                groups.grow(num_groups)
                try:
                    trials = _watch(sweep, coordinator, groups, view, record)
                    record.tested(score_best(sweep, trials, _Scorer(work, settings, view.say), view.say))
                finally:  # the record ends runs that cannot do so themselves, so nobody may be at them any more
                    ray.shutdown()
            record.finish(trials)
            outcome = outcome_of(sweep, trials, record.parent_run_id, view.exhausted)
            record.conclude(sweep, outcome)
    return outcome


def _watch(sweep: Sweep, coordinator: Any, groups: _WorkerGroups, view: View, record: Record) -> list[TrialState]:
    """Follow the sweep to its end; the trials as they ended."""
    settings = sweep.settings
    seen, looked_at, warned_at = 0, 0.0, 0.0
    while True:
        news = ray.get(coordinator.news.remote(seen))
        seen += len(news.events)
        for event in news.events:
            if event.kind == "opened":
                run_id = record.open_trial(news.changed[event.trial])
                coordinator.tell.remote("opened", event.trial, run_id)
            record.note(event, news.changed.get(event.trial))
        view.update(news)
        if news.done:
            groups.left(wait_seconds=WAIT_FOR_GROUPS_SECONDS)
            return list(ray.get(coordinator.trials.remote()))
        if len(groups.left()) == len(groups.tasks):
            reasons = "; ".join(sorted(set(groups.errors))) or "they were given up: they never came to report"
            raise RuntimeError(f"No worker group is left to go on with the sweep ({reasons}). Mend it, then --resume.")
        now = time.monotonic()
        if now - looked_at > NODES_EVERY_SECONDS:
            looked_at = now
            gone = {node["NodeID"] for node in ray.nodes() if not node["Alive"]}
            ray.get(coordinator.look.remote(gone, SILENT_SECONDS))
            with contextlib.suppress(ConfigError):  # a node is gone: those that are left go on
                groups.grow(_num_groups(sweep))
        if news.stalled_seconds > 60 * settings.stall_minutes and now - warned_at > 60 * settings.stall_minutes:
            warned_at = now
            view.say(f"no progress for {news.stalled_seconds / 60:.0f} minutes: {_why_stalled(settings, news.groups)}")
        time.sleep(TICK_SECONDS)


@dataclass(frozen=True)
class _Scorer:
    """Scores an artifact in a process of its own, on whichever node has room for a worker."""

    work: Work
    sweep: SweepSettings
    say: Callable[[str], None]

    def __call__(self, config: RunConfig) -> dict[str, Any]:
        """`infoprompt.test_predictions.score_later` there; raises what it raises."""
        needs = {"num_cpus": self.sweep.cpus_per_worker, "num_gpus": self.sweep.gpus_per_worker}
        task = ray.remote(_score_later).options(**needs, max_retries=1)
        device = "auto" if self.sweep.gpus_per_worker else "cpu"
        promise = task.remote(config.model_dump(mode="json"), device, self.work.environment)
        while not ray.wait([promise], timeout=60 * self.sweep.stall_minutes)[0]:
            self.say("the test rows are still being scored, or no node has room for a worker")
        found: dict[str, Any] = ray.get(promise)
        return found


def _score_later(values: dict[str, Any], device: str, environment: dict[str, str]) -> dict[str, Any]:
    os.environ.update(environment)
    from infoprompt.test_predictions import score_later

    return score_later(build_config(values), device)


def _why_stalled(settings: SweepSettings, groups: Mapping[str, str]) -> str:
    """What a sweep waits for, with the numbers."""
    busy = [f"{name} is at {what}" for name, what in groups.items() if what != "idle"]
    if busy:
        return "; ".join(busy) + ". Its next evaluation takes longer than that, or its ranks wait for each other."
    total, free = ray.cluster_resources(), ray.available_resources()
    wants = {name: each * settings.workers_per_trial for name, each in resources(settings).items()}
    return "no worker group could start. " + ", ".join(
        f"a trial needs {want:g} {name}s, the cluster has {total.get(name, 0):g} and {free.get(name, 0):g} are free"
        for name, want in wants.items()
    )


def _num_groups(sweep: Sweep) -> int:
    """As many as fit, and have something to do."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    fits, num_runs = concurrent_trials(sweep.settings, total, _largest(nodes)), sweep.num_trials * len(sweep.seeds)
    return min(fits, math.ceil(num_runs / sweep.pack))


def _start_coordinator(sweep: Sweep, past: list[TrialState], record: Record) -> Any:
    """The coordinator, on this node: it writes the journal, and ends with the driver."""
    options = {"num_cpus": 0, "scheduling_strategy": _here(), "max_concurrency": 1}
    return ray.remote(Coordinator).options(**options).remote(sweep, past, record.parent_run_id, record.groups)


def _here() -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


@contextlib.contextmanager
def _connected(sweep: Sweep, say: Callable[[str], None], debug: bool) -> Iterator[None]:
    """The cluster that RAY_ADDRESS names (a submitted job has it set), or a Ray of our own on this machine."""
    quiet = {"log_to_driver": debug, "logging_level": logging.INFO if debug else logging.ERROR}
    if not debug:  # it logs every restart of a worker group, which our own lines say
        logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    if os.environ.get("RAY_ADDRESS"):
        start_ray(shown_uri(os.environ["RAY_ADDRESS"]), say, **quiet)
    else:
        settings = sweep.settings
        cores = os.cpu_count() or 1
        per_trial = settings.workers_per_trial * settings.cpus_per_worker
        logical = max(cores, math.ceil(per_trial * (settings.max_concurrent or 1)))
        start_ray(None, say, address="local", include_dashboard=False, num_cpus=logical, **quiet)
        more = f" (the machine has {cores}: they share them)" if logical > cores else ""
        say(f"started Ray on this machine with {logical} CPUs{more}")
    try:
        yield
    finally:
        ray.shutdown()


def _worker_environment(uri: str | None) -> dict[str, str]:
    """Variables for the workers; no secrets, since Ray shows what it passes on."""
    commit = git_commit()
    environment = {"TOKENIZERS_PARALLELISM": "false"}
    if commit:
        environment[COMMIT_VARIABLE] = commit
    if uri and shown_uri(uri) == uri:
        environment["MLFLOW_TRACKING_URI"] = uri
    return environment


def _largest(nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {resource: max((node.get(resource, 0.0) for node in nodes), default=0.0) for resource in ("CPU", "GPU")}
