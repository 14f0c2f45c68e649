"""What runs in Ray's processes: the actor that hands out work, and the loop of a group's workers."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import ray
import ray.train

from infoprompt.config import ConfigError, RunConfig, build_config
from infoprompt.progress import Decision, LeftOff, Progress, Report, TrainingStopped
from infoprompt.stopping import Preempted, hear, is_noting
from launcher.exits import explain
from launcher.pool.desk import Desk
from launcher.pool.jobs import Answer, Job, owner_of, resume_of
from launcher.processes import collect_seldom
from launcher.report import configure_logging

HEARTBEAT_SECONDS = 2.0
ASK_SECONDS = 0.1

TrainFunction = Callable[[RunConfig, str | None, dict[str, str], Report], dict[str, Any]]
"""Config, MLflow parent, MLflow tags and a report function in; a `RunResult` as plain values out."""


class GroupToldToEnd(RuntimeError):
    """A worker was told to end, as a node is before it is taken away; the run has saved its state."""


class TrialStopped(RuntimeError):
    """A run cannot go on, on any rank, and trying again would not help."""


STOPPED = (TrialStopped, TrainingStopped, ConfigError)
"""Of these all ranks hear at the same time."""


@dataclass(frozen=True)
class Work:
    """What every group is told; travels to other nodes."""

    coordinator: Any
    environment: dict[str, str]
    """Variables of every worker."""
    train: TrainFunction
    pack: int = 1
    """Runs of a group that share each pass."""


class Coordinator:
    """A desk as an actor; who has one makes it, and says what its driver looks at."""

    def __init__(self, desk: Desk) -> None:
        """The desk that groups are to come to."""
        self._desk = desk

    def tell(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Call a method of the desk."""
        return getattr(self._desk, method)(*arguments, **named)

    def look(self, gone_nodes: set[str], silent_seconds: float) -> None:
        """Give the runs of lost groups to others."""
        for group in self._desk.groups.on(gone_nodes):
            self._desk.lost(group, "its node is gone")
        for group in self._desk.groups.silent(silent_seconds, time.time()):
            self._desk.lost(group, f"nothing was heard of it for {silent_seconds:.0f} s")


def train_one(config: RunConfig, parent_run_id: str | None, tags: dict[str, str], report: Report) -> dict[str, Any]:
    """Train a run; every rank calls it."""
    from infoprompt.train import run

    try:
        # After a restart of the workers the folder of a sweep's run has a resume state; at first it is empty.
        result = run(
            config,
            resume=resume_of(tags),
            parent_run_id=parent_run_id,
            tags=tags,
            report=report,
            owner=owner_of(tags),
        )
    except (TrainingStopped, ConfigError) as error:
        raise TrialStopped(str(error)) from None
    return result.as_json()


def worker_loop(config: dict[str, Any]) -> None:
    """One rank of a group: take run after run until told to leave."""
    work, group = config["work"], config["group"]
    context = ray.train.get_context()
    os.environ.update(work.environment)
    configure_logging(quiet=True, debug=False, rank=context.get_world_rank())
    if work.train is train_one:
        _warm_up()
    words = _Words(context.get_world_rank(), context.get_world_size())
    if work.pack > 1:
        from launcher.pool.side_by_side import SideBySide

        with contextlib.ExitStack() as beating:
            places = [_Member(work, f"{group}.{number}", words) for number in range(work.pack)]
            for place in places:
                beating.enter_context(place.heartbeats())
            SideBySide(places).run()
        return
    member = _Member(work, group, words)
    with member.heartbeats():
        while (answer := member.next()) != "leave":
            if isinstance(answer, Job):
                member.do(answer)
            elif answer == "re-register":
                member.enlist()
            else:
                time.sleep(ASK_SECONDS)


def note_sigterm() -> None:
    """In the main thread of a worker: SIGTERM is noted while a run trains, in a thread of Ray Train's."""
    before = signal.getsignal(signal.SIGTERM)

    def handler(number: int, frame: FrameType | None) -> None:
        if is_noting():
            hear(number, only_note=True)
        elif callable(before):
            before(number, frame)

    signal.signal(signal.SIGTERM, handler)


def _warm_up() -> None:
    """Import what `train_one` needs, while the group would wait anyway."""
    collect_seldom()
    import infoprompt.train  # noqa: F401


class _Words:
    """What the ranks of a group say to each other outside of runs."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self._group: Any = None
        if world_size > 1:
            import torch.distributed as dist

            self._group = dist.new_group(backend="gloo")  # for words: NCCL would need the GPU for them

    def from_first(self, value: Any) -> Any:
        """The first rank's value."""
        if self._group is None:
            return value
        from infoprompt.wire import broadcast

        return broadcast(value, "cpu", self._group)

    def from_all(self, value: Any) -> list[Any]:
        """The value of every rank."""
        if self._group is None:
            return [value]
        from infoprompt.wire import gather

        return gather(value, "cpu", self._group)


class _Member:
    """A rank of a group, or of one of its places, and how it talks with the coordinator and the others."""

    def __init__(self, work: Work, group: str, words: _Words) -> None:
        self._work, self._name = work, group
        self._rank, self._world_size = words.rank, words.world_size
        self._from_first = words.from_first
        self._places = words.from_all(ray.get_runtime_context().get_node_id())
        self._generation = 0
        self.enlist()

    def enlist(self) -> None:
        """Tell the coordinator of this group, as a new generation of it."""
        self._generation = self._from_first(time.time_ns())
        if self._rank == 0:
            self._tell("register", self._name, self._generation, self._places)

    def next(self) -> Answer:
        """What the coordinator wants the group to do."""
        answer = self._tell("next", self._name, self._generation) if self._rank == 0 else None
        sent = self._from_first(asdict(answer) if isinstance(answer, Job) else answer)
        result: Answer = Job(**sent) if isinstance(sent, dict) else sent
        return result

    def do(self, job: Job) -> None:
        """Do a run. Raises where only new workers can go on."""
        config, result = build_config(job.config), None
        try:
            problem = self.prepare(job, config)
            if problem:
                raise TrialStopped(problem)
            result = self._work.train(config, job.parent_run_id, job.tags, self.report(job))
        except (Exception, Preempted) as error:
            self.settle(job, error)
        else:
            self.settle(job, None, result)

    def report(self, job: Job) -> Report:
        """What a run's evaluations are told to; every rank has one."""

        def report(progress: Progress, scores: dict[str, float]) -> Decision:
            decision = None
            if self._rank == 0:
                decision = self._tell("report", job.token, progress.step, scores, last=progress.done)
            agreed: Decision = self._from_first(decision)
            return agreed

        return report

    def settle(self, job: Job, error: BaseException | None, result: dict[str, Any] | None = None) -> None:
        """Say how a run has ended. Raises where only new workers can go on."""
        if error is None:
            try:
                self._say("finished", job.token, result)
            except Exception as failed:  # else these workers would end, come again, and be at the same point
                text = f"its result could not be told ({type(failed).__name__}: {failed})"
                self._say("raised", job.token, 0, text, connection=False, ends_group=False)
        elif isinstance(error, LeftOff):
            self._say("left_off", job.token, error.decision)
        elif isinstance(error, Preempted):  # on every rank
            why = f"a worker was told to end by {error.cause}"
            self._say("lost", self._name, why)
            raise GroupToldToEnd(f"{why} after update {error.step}") from None
        elif isinstance(error, STOPPED):  # on every rank
            self._say("raised", job.token, 0, str(error), connection=False, ends_group=False)
        else:
            # the others are in the middle of something, and only hear of it when this process ends
            alone = self._world_size == 1
            text = f"{type(error).__name__}: {explain(error)}".partition("\n")[0]
            text = text if alone else f"rank {self._rank}: {text}"
            from infoprompt.engine.watch import is_connection

            connection = is_connection(error)
            self._tell("raised", job.token, self._rank, text, connection=connection, ends_group=not alone)
            if not alone:
                raise error

    @contextlib.contextmanager
    def heartbeats(self) -> Iterator[None]:
        """Within, the coordinator hears every two seconds that the group is alive."""
        ended = threading.Event()

        def heartbeat() -> None:
            while not ended.wait(HEARTBEAT_SECONDS):
                self._work.coordinator.tell.remote("heartbeat", self._name, self._generation)

        thread = threading.Thread(target=heartbeat, daemon=True, name="heartbeat")
        if self._rank == 0:
            thread.start()
        try:
            yield
        finally:
            ended.set()

    def prepare(self, job: Job, config: RunConfig) -> str | None:
        """Bring the state that a run goes on from, if it is another run's; why it cannot be, the same on every rank."""
        if job.copy_from is None:
            return None
        from infoprompt.training_state import copy_state

        problem = None
        if self._rank == 0:
            try:
                copy_state(config, Path(job.copy_from))
            except (ConfigError, OSError) as error:
                problem = str(error)
        found: str | None = self._from_first(problem)
        return found

    def _say(self, method: str, *arguments: Any, **named: Any) -> None:
        """Once for the group."""
        if self._rank == 0:
            self._tell(method, *arguments, **named)

    def _tell(self, method: str, *arguments: Any, **named: Any) -> Any:
        try:
            return ray.get(self._work.coordinator.tell.remote(method, *arguments, **named))
        except ray.exceptions.ActorDiedError:
            # The sweep has ended and this process is about to: to the run that is what Ctrl-C is, not a failure.
            raise KeyboardInterrupt from None
