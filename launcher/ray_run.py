"""Runs the trials of a sweep on Ray: the one file that imports it.

    run_sweep (driver) -> Tune trial (light) -> TorchTrainer -> one worker per rank -> infoprompt.train.run

Tune schedules and never sees a checkpoint: a worker group that dies is started again by Ray Train, and the run goes on
from its own resume state.
"""

import contextlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray import tune
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from ray.tune.integration.ray_train import TuneReportCallback

from infoprompt.config import RunConfig, build_config, override_config
from infoprompt.progress import Progress
from infoprompt.tracking import shown_uri, tracking_uri
from infoprompt.tracking.environment import COMMIT_VARIABLE, git_commit
from launcher.exits import sigterm_raises
from launcher.report import configure_logging
from launcher.sweep_outcome import SweepOutcome, TrialOutcome
from launcher.sweep_plan import SweepSettings, Trial, concurrent_trials, show_values
from launcher.sweep_record import recorded

Report = Callable[[Progress, dict[str, float]], None]
Say = Callable[[str], None]
TrainFunction = Callable[[RunConfig, str | None, dict[str, str], Report], dict[str, Any]]
"""Config, MLflow parent, MLflow tags and a report function in; a `RunResult` as plain values out."""

WORKER_RESTARTS = 1
START_ATTEMPTS = 3  # Ray's own default is without limit

# The driver of a trial only waits. A share of memory instead of a CPU keeps every core for the workers.
DRIVER_RESOURCES = {"CPU": 0, "memory": 100 * 2**20}

RAY_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # each report waits for the next poll
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C shall end the sweep, not let it finish with what there is
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints in spite of `verbose=0`
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


class TrialStopped(RuntimeError):
    """A trial cannot go on, on any rank, and trying again would not help."""


@dataclass(frozen=True)
class Plan:
    """What every trial is told; travels to other nodes."""

    sweep: SweepSettings
    parent_run_id: str | None
    environment: dict[str, str]
    """Variables of every worker."""

    @property
    def ray_folder(self) -> str:
        """Where Ray keeps what it needs to know of the trials."""
        return str(Path(self.sweep.output_dir) / "ray")


def train_one(config: RunConfig, parent_run_id: str | None, tags: dict[str, str], report: Report) -> dict[str, Any]:
    """Train a trial; every rank calls it."""
    from infoprompt.train import TrainingStopped, run

    try:
        # after a restart of the workers the folder has a resume state; at first it is empty
        result = run(config, resume="auto", parent_run_id=parent_run_id, tags=tags, report=report)
    except TrainingStopped as error:
        raise TrialStopped(str(error)) from None
    return result.as_json()


def run_sweep(
    sweep: SweepSettings, trials: Sequence[Trial], *, say: Say, train: TrainFunction = train_one, debug: bool = False
) -> SweepOutcome:
    """Train every trial on the cluster that RAY_ADDRESS names, or else on this machine.

    Args:
        sweep: the sweep's settings.
        trials: its trials, checked.
        say: shows a line to people.
        train: what a worker calls.
        debug: show the workers' output.
    Raises:
        ConfigError: a trial does not fit on the cluster, or tracking cannot work.
    """
    tracking = trials[0].config.tracking
    uri = tracking_uri(tracking) if tracking.enabled else None
    collective_seconds = trials[0].config.engine.timeout_seconds
    os.environ.setdefault("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", str(collective_seconds))
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    Path(sweep.output_dir).mkdir(parents=True, exist_ok=True)
    trial_ids: dict[int, str] = {}
    # Ray's start puts a handler of its own on SIGTERM, which would skip everything that is to be closed.
    with _connected(sweep, say, debug), sigterm_raises():
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        at_a_time = concurrent_trials(sweep, ray.cluster_resources(), _largest(nodes))
        say(f"{sweep.sweep_name}: {len(trials)} trials of {sweep.workers_per_trial} workers, {at_a_time} at a time")
        with recorded(sweep, tracking, trial_ids) as record:
            plan = Plan(sweep, record.parent_run_id, _worker_environment(uri))
            outcomes = _tune(plan, trials, at_a_time, train, say, trial_ids)
            record.finish(outcomes)
    return SweepOutcome(outcomes, record.parent_run_id)


@contextlib.contextmanager
def _connected(sweep: SweepSettings, say: Say, debug: bool) -> Iterator[None]:
    """The cluster that RAY_ADDRESS names (a submitted job has it set), or a Ray of our own on this machine."""
    quiet = {"log_to_driver": debug, "logging_level": logging.INFO if debug else logging.ERROR}
    if not debug:  # it logs the traceback of a failed trial, whose reason is in our table
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**quiet)
    else:
        cores = os.cpu_count() or 1
        per_trial = sweep.workers_per_trial * sweep.cpus_per_worker
        logical = max(cores, math.ceil(per_trial * (sweep.max_concurrent or 1)))
        # With the dashboard off, trials that end early keep their places: the clean-up asks it what there is.
        local = {"address": "local", "include_dashboard": True, "dashboard_host": "127.0.0.1"}
        context = ray.init(**local, num_cpus=logical, **quiet)
        more = f" (the machine has {cores}: they share them)" if logical > cores else ""
        say(f"started Ray on this machine with {logical} CPUs{more}, dashboard http://{context.dashboard_url}")
    try:
        yield
    finally:
        ray.shutdown()


def _tune(
    plan: Plan, trials: Sequence[Trial], at_a_time: int, train: TrainFunction, say: Say, trial_ids: dict[int, str]
) -> list[TrialOutcome]:
    """Train all trials, note their ids as they start, and gather what they hand over in their last report."""

    def trainable(point: dict[str, Any]) -> None:
        _run_trial(plan, trials[point["number"]], train)

    tuner = tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory([DRIVER_RESOURCES])),
        param_space={"number": tune.grid_search(list(range(len(trials))))},
        tune_config=tune.TuneConfig(
            max_concurrent_trials=at_a_time, trial_name_creator=_trial_name, trial_dirname_creator=_trial_name
        ),
        run_config=tune.RunConfig(
            storage_path=plan.ray_folder, verbose=0, callbacks=[_Announcer(trials, trial_ids, plan.sweep.metric, say)]
        ),
    )
    results = {result.config["number"]: result for result in tuner.fit()}
    return [
        _outcome(trial, trial_ids.get(trial.number, "never started"), results.get(trial.number)) for trial in trials
    ]


def _trial_name(trial: Any) -> str:
    return str(trial.trial_id)


def _outcome(trial: Trial, trial_id: str, result: Any) -> TrialOutcome:
    metrics: Mapping[str, Any] = (result.metrics if result else None) or {}
    if "result" in metrics and not result.error:
        return TrialOutcome(trial.number, trial_id, trial.values, "finished", None, json.loads(metrics["result"]))
    if result is not None and result.error:
        reason = _last_line(str(result.error)).removeprefix("RuntimeError: ")
    else:
        reason = metrics.get("stopped", "it ended without a result")
    return TrialOutcome(trial.number, trial_id, trial.values, "failed", reason, None)


class _Announcer(tune.Callback):
    """Says what each trial does."""

    def __init__(self, trials: Sequence[Trial], trial_ids: dict[int, str], metric: str, say: Say) -> None:
        self._trials, self._trial_ids, self._metric, self._say = trials, trial_ids, metric, say

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune keeps a pickled copy of its settings, which nobody reads; a console cannot be pickled

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        self._trial_ids[number] = trial.trial_id
        self._say(f"{trial.trial_id} starts: {show_values(self._trials[number].values)}")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "step" in result and self._metric in result:
            self._say(f"{trial.trial_id} update {result['step']}: {self._metric} {result[self._metric]:.4f}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._say(f"{trial.trial_id} ended")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._say(f"{trial.trial_id} failed")


def _run_trial(plan: Plan, trial: Trial, train: TrainFunction) -> None:
    """The driver of a trial, in a process of Tune's: start the workers, wait for them."""
    # Ray Train reads these where the trainer is made, and forwards them to its workers.
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    sweep, trial_id = plan.sweep, tune.get_context().get_trial_id()
    config = trial_config(sweep, trial, trial_id)

    def worker(work: dict[str, Any]) -> None:
        _work(plan, build_config(work["config"]), trial_id, train)

    trainer = TorchTrainer(
        worker,
        train_loop_config={"config": config.model_dump(mode="json")},
        torch_config=TorchConfig(
            backend="nccl" if sweep.gpus_per_worker else "gloo", timeout_s=config.engine.timeout_seconds
        ),
        scaling_config=ray.train.ScalingConfig(
            num_workers=sweep.workers_per_trial,
            use_gpu=sweep.gpus_per_worker > 0,
            resources_per_worker={
                "CPU": sweep.cpus_per_worker,
                **({"GPU": sweep.gpus_per_worker} if sweep.gpus_per_worker else {}),
            },
            placement_strategy="PACK",
        ),
        run_config=ray.train.RunConfig(
            # Ray goes on from an earlier state under the same name, so it must never come again by accident.
            name=trial_id,
            storage_path=plan.ray_folder,
            callbacks=[TuneReportCallback()],
            failure_config=ray.train.FailureConfig(
                max_failures=WORKER_RESTARTS, controller_failure_limit=START_ATTEMPTS
            ),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise RuntimeError(_reason(error)) from None


def trial_config(sweep: SweepSettings, trial: Trial, trial_id: str) -> RunConfig:
    """The trial's config with its own folder and name; without GPUs it is bound to the CPU, whatever the node has."""
    place = {
        "run.output_dir": str(Path(sweep.output_dir) / "trials" / trial_id),
        "run.name": trial_id,
        **({} if sweep.gpus_per_worker else {"engine.device": "cpu"}),
    }
    return override_config(trial.config, [f"{key}={json.dumps(value)}" for key, value in place.items()])


def _work(plan: Plan, config: RunConfig, trial_id: str, train: TrainFunction) -> None:
    """One rank of a trial."""
    os.environ.update(plan.environment)
    configure_logging(quiet=True, debug=False, rank=ray.train.get_context().get_world_rank())
    latest: dict[str, Any] = {}

    def report(progress: Progress, scores: dict[str, float]) -> None:
        latest.update({f"dev/{name}": value for name, value in scores.items()})
        ray.train.report({"step": progress.step, **latest})

    try:
        handed_over = {"result": json.dumps(train(config, plan.parent_run_id, {"ray.trial_id": trial_id}, report))}
    except TrialStopped as error:
        handed_over = {"stopped": str(error)}
    # The last report is how the driver gets the result: it may run on another node, where this folder is not.
    ray.train.report({**latest, **handed_over})


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


def _reason(error: TrainingFailedError) -> str:
    """One line: what the first failing rank raised."""
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        rank, failure = min(error.worker_failures.items())
        raised = getattr(failure, "_base_exc", failure)  # Ray wraps it, and its text has no type
        return f"rank {rank}: {type(raised).__name__}: {_last_line(str(raised))}"
    return _last_line(str(error))


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason was given"
