"""The worker groups of a sweep or a study on Ray: how many, how they start, and whether they are alive.

    a driver (sweep, study) -> a TorchTrainer per group -> its workers, warm from run to run -> infoprompt.train.run
                            -> its coordinator, an actor around a `Desk`, which groups ask for work and report to

There are as many worker groups as fit side by side. Each takes run after run: processes are started, modules imported
and process groups made once a worker group, not once a run. A group whose workers are killed is started again by Ray
Train; a sweep's run then goes on from its own resume state, a study's starts anew. One whose node is gone loses its run
to another group.
"""

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from infoprompt.config import ConfigError, TrackingSettings
from infoprompt.tracking import shown_uri, tracking_uri
from infoprompt.tracking.environment import COMMIT_VARIABLE, git_commit
from launcher.pool.needs import Needs
from launcher.pool.ray_start import start_ray
from launcher.pool.ray_worker import Coordinator, Work, note_sigterm, worker_loop

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


class NoGroupLeft(RuntimeError):
    """Every worker group has left, or could not start, with work left to do."""


class RayGroups:
    """The worker groups: a task of Ray waits for each. (A thread of the driver could not be ended by Ctrl-C.)"""

    def __init__(
        self, work: Work, needs: Needs, folder: Path, *, num_runs: int, timeout_seconds: int, what: str
    ) -> None:
        """No group yet.

        Args:
            work: what each is told.
            needs: of each.
            folder: where Ray keeps what it writes of them.
            num_runs: how many runs there are: no more groups are started than have something to do.
            timeout_seconds: of the ranks' waiting for each other.
            what: `sweep` or `study`, for messages.
        """
        self._work, self._needs, self._folder = work, needs, folder
        self._num_runs, self._timeout_seconds, self._what = num_runs, timeout_seconds, what
        self._tasks: list[Any] = []
        self._looked_at = self._warned_at = 0.0

    def grow(self, number: int) -> None:
        """Have so many groups; those that there are stay."""
        options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": here()}
        for index in range(len(self._tasks), number):
            task = ray.remote(_train_group).options(**options)
            made = task.remote(self._work, self._needs, self._folder, f"group-{index}", self._timeout_seconds)
            self._tasks.append(made)

    def look_after(self, stalled_seconds: float, at: Mapping[str, str], say: Callable[[str], None]) -> None:
        """Once a tick: give the runs of lost groups to others, start groups on new nodes, say what is waited for.

        Args:
            stalled_seconds: since the last progress.
            at: what each group is at.
            say: tells people.
        Raises:
            NoGroupLeft: with the reasons and the way out.
        """
        if len(self._left()) == len(self._tasks):
            reasons = "; ".join(sorted(set(self._errors))) or "they were given up: they never came to report"
            way_out = "--resume" if self._what == "sweep" else "start it again"
            raise NoGroupLeft(
                f"No worker group is left to go on with the {self._what} ({reasons}). Mend it, then {way_out}."
            )
        now = time.monotonic()
        if now - self._looked_at > NODES_EVERY_SECONDS:
            self._looked_at = now
            gone = {node["NodeID"] for node in ray.nodes() if not node["Alive"]}
            ray.get(self._work.coordinator.look.remote(gone, SILENT_SECONDS))
            with contextlib.suppress(ConfigError):  # a node is gone: those that are left go on
                self.grow(num_groups(self._needs, self._num_runs, self._work.pack))
        patience = 60 * self._needs.stall_minutes
        if stalled_seconds > patience and now - self._warned_at > patience:
            self._warned_at = now
            say(f"no progress for {stalled_seconds / 60:.0f} minutes: {why_stalled(self._needs, at)}")

    def wait(self) -> None:
        """For all to leave by themselves, for some time; what a cluster shows of them then says how they ended.

        On a Ray of our own nobody looks, and Ray Train would ask a dashboard that is not there for 12 seconds.
        """
        if not of_our_own():
            self._left(wait_seconds=WAIT_FOR_GROUPS_SECONDS)

    def _left(self, wait_seconds: float = 0.0) -> list[Any]:
        """Tasks of groups that have left, after waiting for all at most so long."""
        tasks = self._tasks
        done: list[Any] = ray.wait(tasks, num_returns=len(tasks), timeout=wait_seconds)[0] if tasks else []
        return done

    @property
    def _errors(self) -> list[str]:
        """Why groups could not go on."""
        texts = []
        for task in self._left():
            try:
                ray.get(task)
            except Exception as error:  # whatever Ray Train may raise
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                texts.append(lines[-1] if lines else type(error).__name__)
        return texts


def num_groups(needs: Needs, num_runs: int, pack: int) -> int:
    """As many as fit on the cluster as it is, and have something to do; raises ConfigError if none fits."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    total = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    return min(needs.groups_that_fit(total, _largest(nodes)), math.ceil(num_runs / pack))


class _GroupBackend(TorchConfig().backend_cls):  # type: ignore[misc]  # which class that is, is Ray's to say
    """Torch's process group, and workers that note SIGTERM: a handler can be set in their main threads alone."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        super().on_start(worker_group, backend_config)
        worker_group.execute(note_sigterm)


class _GroupConfig(TorchConfig):
    @property
    def backend_cls(self) -> Any:
        return _GroupBackend


def _train_group(work: Work, needs: Needs, folder: Path, name: str, timeout_seconds: int) -> None:
    """Start the workers of a group, and again when they are killed, until they leave."""
    # Ray Train reads these where the trainer is made, and forwards them to its workers.
    for variable, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    trainer = TorchTrainer(
        worker_loop,
        train_loop_config={"work": work, "group": name},
        torch_config=_GroupConfig(backend="nccl" if needs.gpus else "gloo", timeout_s=timeout_seconds),
        scaling_config=ray.train.ScalingConfig(
            num_workers=needs.workers,
            use_gpu=needs.gpus > 0,
            resources_per_worker=needs.resources,
            placement_strategy=needs.placement,
        ),
        run_config=ray.train.RunConfig(
            # Ray goes on from an earlier state under the same name, so it must never come again by accident.
            name=f"{name}-{time.time_ns()}",
            storage_path=str(folder),
            # without limit: the desk counts what a run costs, and gives up a group that never reports
            failure_config=ray.train.FailureConfig(max_failures=-1, controller_failure_limit=-1),
        ),
    )
    trainer.fit()


def start_coordinator(kind: type[Coordinator], *arguments: Any) -> Any:
    """The coordinator, on this node: it writes in the output folder, and ends with the driver."""
    options = {"num_cpus": 0, "scheduling_strategy": here(), "max_concurrency": 1}
    return ray.remote(kind).options(**options).remote(*arguments)


def why_stalled(needs: Needs, groups: Mapping[str, str]) -> str:
    """What a sweep or a study waits for, with the numbers."""
    busy = [f"{name} is at {what}" for name, what in groups.items() if what != "idle"]
    if busy:
        return "; ".join(busy) + ". Its next evaluation takes longer than that, or its ranks wait for each other."
    total, free = ray.cluster_resources(), ray.available_resources()
    wants = {name: each * needs.workers for name, each in needs.resources.items()}
    return "no worker group could start. " + ", ".join(
        f"a {needs.unit} needs {want:g} {name}s, the cluster has {total.get(name, 0):g} and {free.get(name, 0):g} are "
        "free"
        for name, want in wants.items()
    )


def of_our_own() -> bool:
    """Whether Ray was started for this command alone, on this machine."""
    return not os.environ.get("RAY_ADDRESS")


def here() -> NodeAffinitySchedulingStrategy:
    """Has a task or an actor run on the driver's node."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


@contextlib.contextmanager
def connected(needs: Needs, say: Callable[[str], None], debug: bool) -> Iterator[None]:
    """The cluster that RAY_ADDRESS names (a submitted job has it set), or a Ray of our own on this machine."""
    for name, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    quiet = {"log_to_driver": debug, "logging_level": logging.INFO if debug else logging.ERROR}
    if not debug:  # it logs every restart of a worker group, which our own lines say
        logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    if of_our_own():
        cores = os.cpu_count() or 1
        logical = max(cores, math.ceil(needs.workers * needs.cpus * (needs.most_groups or 1)))
        start_ray(None, say, address="local", include_dashboard=False, num_cpus=logical, **quiet)
        more = f" (the machine has {cores}: they share them)" if logical > cores else ""
        say(f"started Ray on this machine with {logical} CPUs{more}")
    else:
        start_ray(shown_uri(os.environ["RAY_ADDRESS"]), say, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def tracking_addresses(tracking: TrackingSettings) -> tuple[str | None, str | None]:
    """MLflow's address, and the same again if it holds a login.

    Runs are told that one in Ray's memory, since Ray shows the environment that it passes on.
    """
    uri = tracking_uri(tracking) if tracking.enabled else None
    return uri, uri if uri and shown_uri(uri) != uri else None


def worker_environment(uri: str | None) -> dict[str, str]:
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
