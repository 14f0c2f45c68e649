"""Runs that share each pass of one frozen backbone, and a run alone.

    run, a generator -> asks for a forward pass, then for an update -> pack: one pass, one backward, an update for each
                     -> asks for a pass without gradient            -> pack: as few passes as their rows need

A run takes a place of the pack, and gives it back when it ends, whatever its end; the next run may take it between two
updates. What a run trains, its optimiser, order, noise, records and files are its own.
"""

import contextlib
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from infoprompt.config import RunConfig
from infoprompt.data.batch import Batch
from infoprompt.engine.deepspeed_config import accumulation_steps
from infoprompt.engine.engine import build_engine
from infoprompt.engine.interface import Engine, Update
from infoprompt.engine.row_check import pack_note
from infoprompt.model.heads.kind import head_kind
from infoprompt.model.member import Member
from infoprompt.model.shared import SharedModel
from infoprompt.objective.encoding import Encoding
from infoprompt.ranks import Ranks
from infoprompt.stopping import Preempted

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """What a run needs next: the encoding of a batch, or the update that follows from its loss."""

    engine: Engine
    given: Batch | Tensor
    trains: bool = True
    """Whether the encoding is one to train by."""


Asking = Generator[Ask, Any, T]
"""A run, or a part of one: it is sent the `Encoding` or the `Update` that it has asked for."""


def forward(engine: Engine, batch: Batch) -> Asking[Encoding]:
    """The encoding of a batch."""
    encoding: Encoding = yield Ask(engine, batch)
    return encoding


def infer(engine: Engine, batch: Batch) -> Asking[Encoding]:
    """The encoding of a batch in evaluation mode, without gradients."""
    encoding: Encoding = yield Ask(engine, batch, trains=False)
    return encoding


def step(engine: Engine, loss: Tensor) -> Asking[Update]:
    """What became of a micro-batch, see `Engine.step`."""
    update: Update = yield Ask(engine, loss)
    return update


def alone(run: Asking[T]) -> T:
    """Do a run by itself; its result."""
    answer: Any = None
    while True:
        try:
            ask = run.send(answer)
        except StopIteration as ended:
            result: T = ended.value
            return result
        try:
            if isinstance(ask.given, Batch):
                answer = (ask.engine.forward if ask.trains else ask.engine.infer)({0: ask.given})[0]
            else:
                answer = ask.engine.step({0: ask.given})[0]
            del ask  # what it holds would part the memory that the next pass could take
        except BaseException as error:
            run.throw(error)  # it closes its records and raises it again
            raise


def pack_key(config: RunConfig, ranks: int = 1) -> str | None:
    """Runs of equal keys can share a pack of so many ranks; None if the run can share none."""
    if why_alone(config) is not None:
        return None
    parts = (
        config.backbone.model_dump_json(),
        head_kind(config.head.kind).lm_head,
        config.engine.model_dump_json(),
        accumulation_steps(config.data, ranks),
    )
    return repr(parts)


def why_alone(config: RunConfig) -> str | None:
    """Why a run can share no pass with others; None if it can."""
    if config.backbone.trained_by is not None:
        return f"{config.backbone.trained_by}, and a backbone that is trained is no other run's"
    return None


@dataclass(frozen=True)
class Ended:
    """A run that is no longer in the pack."""

    place: int
    result: Any = None
    error: Exception | Preempted | None = None


@dataclass(frozen=True)
class _Failed:
    """The answer where a pass has failed; what a run is sent may itself be an error, see `Update`."""

    error: Exception


class Pack:
    """Places for runs of one `pack_key`. Every method is collective: all ranks call it, in the same order."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._runs: dict[int, Asking[Any]] = {}
        self._asks: dict[int, Ask] = {}
        """What each run waits for."""
        self._seats: dict[int, list[_Seat]] = {}
        """What each place trains: a run may end one training and begin another."""
        self._engine: Engine | None = None
        self._order: list[Engine] = []
        """Whose the engine's members are."""
        self._micro_steps = 0
        self._accumulation = 1
        self._told = False

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def between_updates(self) -> bool:
        """Whether a run may start now."""
        return not self._runs or self._micro_steps % self._accumulation == 0

    def joined(self, place: int) -> Callable[[Member, RunConfig, Ranks], Engine]:
        """What gives the run of a place its engine, in place of `build_engine`."""

        def join(member: Member, config: RunConfig, ranks: Ranks) -> Engine:
            if self._engine is None:
                self._micro_steps, self._accumulation = 0, accumulation_steps(config.data, ranks.world_size)
                note = pack_note(ranks.device.type, member.backbone.dtype)
                if note is not None and ranks.is_first and not self._told:
                    log.warning(note)
                self._told = True
            seat = _Seat(ranks, self, member, config)
            self._rebuild(seat)
            self._seats.setdefault(place, []).append(seat)
            return seat

        return join

    def start(self, place: int, run: Asking[Any]) -> Ended | None:
        """Have a run begin at a free place; what it came to, if it needs no update or cannot begin."""
        assert place not in self._runs, f"place {place} is taken"
        assert self.between_updates, "a run starts between two updates"
        ended = self._send(place, run, None)
        if ended is None:  # all others wait for their next update, so only this one may evaluate
            ended = next(iter(self._evaluated()), None)
        return ended

    def update(self) -> list[Ended]:
        """A pass for all runs' next micro-batches, and what follows from it, evaluations too; the runs that have ended.

        Raises:
            BaseException: what is no `Exception`, such as Ctrl-C, ends every run, and is raised.
        """
        try:
            ended = self._answer(self._encodings)
            ended += self._answer(self._updates)
        except BaseException as error:
            self.end(error)
            raise
        self._micro_steps += 1
        return ended + self._evaluated()

    def end(self, error: BaseException) -> None:
        """End every run by an error, which each of them sees."""
        for place, run in list(self._runs.items()):
            with contextlib.suppress(BaseException):  # each has its own way of ending by it
                run.throw(error)
            self._leave(place)

    def engine_of(self, seat: "_Seat") -> tuple[Engine, int]:
        """The engine, and a seat's number in it."""
        assert self._engine is not None
        return self._engine, self._order.index(seat)

    def close(self, seat: "_Seat") -> None:
        """Let go of what a seat trains; the engine stays until another joins, or nobody is left."""
        for seats in self._seats.values():
            if seat in seats:
                seats.remove(seat)
        if not any(self._seats.values()) and self._engine is not None:
            self._engine.close()
            self._engine, self._order = None, []

    def _send(self, place: int, run: Asking[Any], answer: Any) -> Ended | None:
        try:
            ask = run.throw(answer.error) if isinstance(answer, _Failed) else run.send(answer)
        except StopIteration as ended:
            self._leave(place)
            return Ended(place, ended.value)
        except (Exception, Preempted) as error:  # the others hear of the signal in the same update
            self._leave(place)
            return Ended(place, error=error)
        self._runs[place], self._asks[place] = run, ask
        return None

    def _leave(self, place: int) -> None:
        self._runs.pop(place, None)
        self._asks.pop(place, None)
        for seat in list(self._seats.pop(place, [])):
            self.close(seat)

    def _evaluated(self) -> list[Ended]:
        """Passes for the runs that evaluate, until each waits for an update again; those that have ended."""
        ended: list[Ended] = []
        try:
            while any(not ask.trains for ask in self._asks.values()):
                ended += self._answer(self._inferred, trains=False)
        except BaseException as error:
            self.end(error)
            raise
        return ended

    def _answer(self, answers: Callable[[Mapping[int, Ask]], Mapping[int, Any]], *, trains: bool = True) -> list[Ended]:
        asks = {place: ask for place, ask in self._asks.items() if ask.trains is trains}
        if not asks:
            return []
        found = answers(asks)
        for place in asks:
            del self._asks[place]
        asks.clear()  # what they hold would part the memory that the next pass could take
        sent = [self._send(place, self._runs[place], answer) for place, answer in found.items()]
        return [ended for ended in sent if ended is not None]

    def _inferred(self, asks: Mapping[int, Ask]) -> dict[int, Any]:
        """Runs share passes of at most as many rows as the largest of their `evaluation.batch_size` allows."""
        found: dict[int, Any] = {}
        part: dict[int, Ask] = {}
        for place, ask in asks.items():
            if part and not _fit_together([*part.values(), ask], self.ranks):
                found |= self._encodings(part)
                part = {}
            part[place] = ask
        return found | self._encodings(part)

    def _encodings(self, asks: Mapping[int, Ask]) -> dict[int, Any]:
        try:
            return self._forward(asks)
        except Exception as error:
            if len(asks) == 1 or self.ranks.world_size > 1:
                return dict.fromkeys(asks, _Failed(error))
        found: dict[int, Any] = {}
        for place, ask in asks.items():  # one of them is to blame, or all were too much together
            try:
                found |= self._forward({place: ask})
            except Exception as error:
                found[place] = _Failed(error)
        return found

    def _forward(self, asks: Mapping[int, Ask]) -> dict[int, Any]:
        batches = {self._order.index(ask.engine): ask.given for ask in asks.values() if isinstance(ask.given, Batch)}
        assert self._engine is not None
        passes = self._engine.forward if all(ask.trains for ask in asks.values()) else self._engine.infer
        return dict(zip(asks, passes(batches).values(), strict=True))

    def _updates(self, asks: Mapping[int, Ask]) -> dict[int, Any]:
        losses = {self._order.index(ask.engine): ask.given for ask in asks.values() if isinstance(ask.given, Tensor)}
        assert self._engine is not None
        try:
            updates = self._engine.step(losses)
        except Exception as error:
            return dict.fromkeys(asks, _Failed(error))
        return {place: updates[index] for place, index in zip(asks, losses, strict=True)}

    def _rebuild(self, joins: "_Seat") -> None:
        """An engine with one member more, in which the others go on where they were."""
        seats = [seat for own in self._seats.values() for seat in own]
        before = [(seat.trained_state(), seat.optimizer_state()) for seat in seats]
        if self._engine is not None:
            self._engine.close()
        members = [*seats, joins]
        model, configs = SharedModel([seat.model for seat in members]), [seat.config for seat in members]
        self._order = [*members]
        self._engine = build_engine(model, configs, self.ranks)
        for seat, (trained, optimizer) in zip(seats, before, strict=True):
            seat.load_trained_state(trained)
            seat.load_optimizer_state(optimizer)
            if seat.lr is not None:
                seat.set_lr(seat.lr)


@dataclass(eq=False)
class _Seat:
    """The `Engine` of one run among others."""

    ranks: Ranks
    pack: Pack
    model: Member
    config: RunConfig
    lr: float | None = None
    """As it was last set."""

    def forward(self, batches: Mapping[int, Batch]) -> dict[int, Encoding]:
        engine, own = self.pack.engine_of(self)
        return {0: engine.forward({own: batches[0]})[own]}

    def step(self, losses: Mapping[int, Tensor]) -> dict[int, Update]:
        engine, own = self.pack.engine_of(self)
        return {0: engine.step({own: losses[0]})[own]}

    def set_lr(self, lr: float, member: int = 0) -> None:
        self.lr = lr
        engine, own = self.pack.engine_of(self)
        engine.set_lr(lr, own)

    def infer(self, batches: Mapping[int, Batch]) -> dict[int, Encoding]:
        engine, own = self.pack.engine_of(self)
        return {0: engine.infer({own: batches[0]})[own]}

    def trained_state(self, member: int = 0) -> dict[str, Tensor]:
        engine, own = self.pack.engine_of(self)
        return engine.trained_state(own)

    def load_trained_state(self, state: Mapping[str, Tensor], member: int = 0) -> None:
        engine, own = self.pack.engine_of(self)
        engine.load_trained_state(state, own)

    def optimizer_state(self, member: int = 0) -> dict[str, Tensor]:
        engine, own = self.pack.engine_of(self)
        return engine.optimizer_state(own)

    def load_optimizer_state(self, state: Mapping[str, Tensor], member: int = 0) -> None:
        engine, own = self.pack.engine_of(self)
        engine.load_optimizer_state(state, own)

    def close(self) -> None:
        self.pack.close(self)


def _fit_together(asks: Sequence[Ask], ranks: Ranks) -> bool:
    """Whether these may share a pass without gradient; every rank finds the same, whatever the length of its rows."""
    batches = [ask.given for ask in asks if isinstance(ask.given, Batch)]
    seats = [ask.engine for ask in asks if isinstance(ask.engine, _Seat)]
    if ranks.device.type == "cpu" and not seats[0].model.backbone.leaves_out_padding(ranks.device):
        return False  # padded to another length, a run's numbers would not be those that it has alone
    sizes = [seat.config.evaluation.batch_size * batch.num_choices for seat, batch in zip(seats, batches, strict=True)]
    return sum(map(len, batches)) <= max(sizes)
