"""This process among those of a run, and the few things that they say to each other outside the engines."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from infoprompt.stopping import told
from infoprompt.wire import broadcast, gather

T = TypeVar("T")


@dataclass
class Wishes:
    """What the ranks have agreed on in the last `each_true`, and what this one asks for in the next."""

    leave: int = 0
    """Agreed: number of a signal that told any rank to end; 0 if none did."""
    save: bool = False
    """Agreed: whether the first rank asked for the state to be saved."""
    ask_to_save: bool = False
    """Of the first rank, in the next `each_true`, which takes it back."""


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
        save, wishes.ask_to_save = wishes.ask_to_save and self.is_first, False
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
        """The value of every rank, in rank order, on every rank: plain values and tensors, see `wire.encoded`."""
        if self.world_size == 1:
            return [value]
        with self._waiting("gather_objects"):
            return gather(value, self.device)

    def broadcast_object(self, value: T) -> T:
        """Rank 0's value, on every rank: plain values and tensors, see `wire.encoded`."""
        if self.world_size == 1:
            return value
        with self._waiting("broadcast_object"):
            sent: T = broadcast(value, self.device)
            return sent

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
