"""The processes of a run, and the few things they say to each other outside the engines."""

import atexit
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _set_pg_timeout

from infoprompt.config import ConfigError, EngineSettings
from infoprompt.progress import RankLost
from infoprompt.stopping import told

T = TypeVar("T")

START_SECONDS = 120
"""For all ranks to come together, or longer where a collective may wait longer: one may load Python's modules from
a cold disk, which is no hang."""


@dataclass
class _Process:
    """What torch's process group, itself the state of a process, needs beside it."""

    owns_group: bool = False
    """Whether the group is ours to destroy; Ray's is not."""
    store: dist.Store | None = None
    """Where the ranks find each other. It lives as long as the process: a second run's ranks would else race for
    the port that the first run's store is about to leave."""
    num_starts: int = 0
    awaits_gloo: bool = False


_process = _Process()


@dataclass
class Wishes:
    """What the ranks have agreed on in the last `each_true`, and what this one asks for in the next."""

    leave: int = 0
    """Agreed: number of a signal that told any rank to end; 0 if none did."""
    save: bool = False
    """Agreed: whether the first rank asked for the state to be saved."""
    ask_to_save: bool = False
    """Of the first rank, in the next `each_true`."""


@dataclass
class Place:
    """Where this rank is, for others who wonder why it does not come."""

    step: int = 0
    """Updates made."""
    waiting_in: str = ""
    """The collective in which it waits for others; empty where it does not."""
    since: float = 0.0
    """By `time.monotonic`."""


@dataclass(frozen=True)
class Ranks:
    """This process among all. Every method but the properties is collective: all ranks call it, in the same order."""

    rank: int
    world_size: int
    local_rank: int
    """Rank among the processes of this machine."""
    device: torch.device
    wishes: Wishes = field(default_factory=Wishes, compare=False)
    place: Place = field(default_factory=Place, compare=False)

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def all_true(self, flag: bool) -> bool:
        """Whether the flag is true on every rank."""
        return self.each_true([flag])[0]

    def each_true(self, flags: Sequence[bool]) -> list[bool]:
        """Whether each flag is true on every rank; `wishes` are agreed on in the same collective."""
        wishes = self.wishes
        save = wishes.ask_to_save and self.is_first
        if self.world_size == 1:
            wishes.leave, wishes.save = told(), save
            return list(flags)
        with self._waiting("each_true"):
            reduced = torch.tensor([-told(), -int(save), *map(int, flags)], device=self.device)
            dist.all_reduce(reduced, op=dist.ReduceOp.MIN)
            leave, agreed_to_save, *true = reduced.tolist()
        wishes.leave, wishes.save = -leave, agreed_to_save < 0
        return [bool(flag) for flag in true]

    def sum_in_place(self, value: Tensor) -> None:
        """Make a tensor the sum of those of all ranks."""
        with self._waiting("sum_in_place"):
            dist.all_reduce(value)

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Mean over the ranks of each value, in one collective; the keys are the same everywhere."""
        if self.world_size == 1:
            return dict(values)
        with self._waiting("mean"):
            reduced = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
            dist.all_reduce(reduced)
            return dict(zip(values, (reduced / self.world_size).tolist(), strict=True))

    def gather_objects(self, value: T) -> list[T]:
        """The value of every rank, in rank order, on every rank. Pickled: for our own small values only."""
        if self.world_size == 1:
            return [value]
        gathered: list[T | None] = [None] * self.world_size
        with self._waiting("gather_objects"):
            dist.all_gather_object(gathered, value)
        return gathered  # type: ignore[return-value]

    def broadcast_object(self, value: T) -> T:
        """Rank 0's value, on every rank. Pickled: for our own small values only."""
        if self.world_size == 1:
            return value
        box = [value]
        with self._waiting("broadcast_object"):
            dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def barrier(self) -> None:
        """Return when every rank has come here."""
        self.each_true([])

    @contextmanager
    def _waiting(self, name: str) -> Iterator[None]:
        """Around a collective and whatever waits for its result."""
        self.place.waiting_in, self.place.since = name, time.monotonic()
        try:
            yield
        finally:
            self.place.waiting_in = ""


def start_ranks(settings: EngineSettings) -> Ranks:
    """Join the other processes of this run.

    Reads RANK, WORLD_SIZE and LOCAL_RANK as torchrun, `deepspeed` and Ray set them; without them this process is alone.
    A process group that exists is adopted. One is made otherwise, where there are several ranks or DeepSpeed needs it.

    Raises:
        ConfigError: `engine.device` is cuda and there is none, or too few.
        RankLost: not all ranks have come.
    """
    rank, world_size, local_rank = (int(os.environ.get(name, default)) for name, default in _ALONE.items())
    device = _device(settings, local_rank)
    timeout = timedelta(seconds=settings.timeout_seconds)
    if dist.is_initialized():
        rank, world_size = dist.get_rank(), dist.get_world_size()
        _set_pg_timeout(timeout)
    elif world_size > 1 or settings.kind == "deepspeed":
        seconds = max(settings.timeout_seconds, START_SECONDS)
        _start_group(rank, world_size, "nccl" if device.type == "cuda" else "gloo", seconds)
        _set_pg_timeout(timeout)
        _process.owns_group = True
        if not _process.awaits_gloo:
            atexit.register(_await_gloo)
            _process.awaits_gloo = True
    if settings.kind == "deepspeed":
        from infoprompt.engine.deepspeed_ops import start_communication

        start_communication(device, local_rank, timeout)
    ranks = Ranks(rank, world_size, local_rank, device)
    ranks.barrier()  # gloo connects one after the other: a rank that is done at once would close on those behind it
    return ranks


def _start_group(rank: int, world_size: int, backend: str, seconds: int) -> None:
    wait = timedelta(seconds=seconds)
    try:
        store = _new_store(rank, world_size, wait)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=wait)
    except (dist.DistError, RuntimeError) as error:
        if world_size == 1:
            raise
        reason = str(error).partition("\n")[0]
        raise RankLost(
            f"Not all of the {world_size} ranks came together within {seconds} seconds ({reason}). Look at what "
            "the others say, and whether all find MASTER_ADDR and MASTER_PORT.",
            said=False,
        ) from None


def stop_ranks() -> None:
    """Destroy the process group if `start_ranks` made it."""
    if _process.owns_group and dist.is_initialized():
        from infoprompt.engine.deepspeed_ops import stop_communication

        stop_communication()
    _process.owns_group = False


def _await_gloo() -> None:
    """Let gloo's threads drop the tensors of the last collectives while the interpreter still lets them.

    A thread that does so while the interpreter is taken down aborts the process (pytorch pull request 179291). The
    threads only end with their process group, which DeepSpeed and torch's own default arguments keep alive.
    """
    time.sleep(0.2)


_ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}


def _new_store(rank: int, world_size: int, timeout: timedelta) -> dist.Store:
    if world_size == 1:
        return dist.HashStore()  # in memory: no port, and no race for one
    if _process.store is None:
        _process.store, _, _ = next(dist.rendezvous("env://", rank, world_size, timeout=timeout))
    _process.num_starts += 1
    return dist.PrefixStore(f"start{_process.num_starts}", _process.store)


def _device(settings: EngineSettings, local_rank: int) -> torch.device:
    num_gpus = torch.cuda.device_count()
    if settings.device == "cpu" or (settings.device == "auto" and num_gpus == 0):
        return torch.device("cpu")
    if local_rank >= num_gpus:
        raise ConfigError(
            f"engine.device is {settings.device}, but rank {local_rank} of this machine needs a GPU of its own, and "
            f"torch sees {num_gpus}. Start fewer processes, or set engine.device to cpu."
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
