"""What runs forward, backward and update: the interface of the engines, and what they share."""

import functools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from infoprompt.data.batch import Batch
from infoprompt.objective.encoding import Encoding
from infoprompt.ranks import Ranks


class NonFiniteLoss(RuntimeError):
    """A member's loss or gradient is infinite or not a number; its update was not made, on any rank."""


Update = float | Tensor | NonFiniteLoss | None
"""What became of a member's micro-batch. Where its parameters were updated: the norm of its whole gradient over all
ranks, before clipping. None where no update was due; else why none was made.

A tensor is the norm still on its device: the engine has looked at neither it nor the losses, so that the device need
not be waited for. The update was made even if one is not finite. Look at them before the state is used."""


class Engine(Protocol):
    """Trains members over one backbone, each as if it were alone: its own rate, clipping, AdamW state and end.

    Every method is collective but `set_lr`: all ranks call it, in the same order. Members are named by their place in
    the model. The states are whole float32 CPU tensors that know nothing of ranks, ZeRO stages, the kind of engine or
    other members. So one that was saved anywhere can be loaded anywhere.
    """

    ranks: Ranks

    def forward(self, batches: Mapping[int, Batch]) -> dict[int, Encoding]:
        """Forward in training mode, of the members that go on."""

    def step(self, losses: Mapping[int, Tensor]) -> dict[int, Update]:
        """Backward of one micro-batch; at the last one of a batch clip, update, and zero the gradients.

        Args:
            losses: of the members that `forward` was called for: scalar, the mean over the micro-batch's examples of
                this rank.
        Returns:
            What became of each. A member whose loss or gradient is not finite on any rank is not updated, then or
            later (but see `Update`); do not give it again. The others are, as if it had not been there.
        """

    def set_lr(self, lr: float, member: int = 0) -> None:
        """Learning rate of a member's next updates."""

    def infer(self, batches: Mapping[int, Batch]) -> dict[int, Encoding]:
        """Forward in evaluation mode, without gradients, of any members."""

    def trained_state(self, member: int = 0) -> dict[str, Tensor]:
        """Every trained parameter, by its name in the member."""

    def load_trained_state(self, state: Mapping[str, Tensor], member: int = 0) -> None:
        """Set every trained parameter; raises ValueError if names or shapes differ."""

    def optimizer_state(self, member: int = 0) -> dict[str, Tensor]:
        """`<parameter>.exp_avg` and `<parameter>.exp_avg_sq` of every trained parameter, and `step`, int64 scalar."""

    def load_optimizer_state(self, state: Mapping[str, Tensor], member: int = 0) -> None:
        """Set what `optimizer_state` gave; raises ValueError if names or shapes differ."""

    def close(self) -> None:
        """Let go of the model."""


class SeededDropout:
    """What dropout draws in an update: it depends on seed, update and rank alone, so a resumed run draws it again.

    Each context goes on in the stream where the last one has left it, whoever else draws in between.
    """

    def __init__(self, seed: int, step: int, ranks: Ranks) -> None:
        self._devices = [ranks.device] if ranks.device.type == "cuda" else []
        self._drawn = int(np.random.default_rng([seed, step, 3, ranks.rank]).integers(2**63))
        self._states: list[Tensor] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """While open, torch draws from this stream."""
        with torch.random.fork_rng(devices=self._devices):
            if self._states:
                torch.set_rng_state(self._states[0])
                for device, state in zip(self._devices, self._states[1:], strict=True):
                    torch.cuda.set_rng_state(state, device)
            else:
                torch.manual_seed(self._drawn)
            yield
            self._states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self._devices)]


def finite_losses(
    losses: Mapping[int, Tensor], ranks: Ranks, *, waits: bool = True
) -> tuple[dict[int, Tensor], dict[int, Update]]:
    """The losses that are finite on every rank, and what became of each member so far; in one collective.

    Where the engine does not wait for values, every loss counts as finite.
    """
    values = {member: float(loss.detach()) if waits else 0.0 for member, loss in losses.items()}
    agreed = ranks.each_true([math.isfinite(value) for value in values.values()])
    updates: dict[int, Update] = dict.fromkeys(losses)
    if not all(agreed):
        of_rank = ranks.gather_objects(values)
        for member in (member for member, finite in zip(losses, agreed, strict=True) if not finite):
            shown = ", ".join(f"{found[member]:g} on rank {rank}" for rank, found in enumerate(of_rank))
            updates[member] = NonFiniteLoss(
                f"the loss is not finite ({shown}). Lower optim.lr, or look at this batch's rows."
            )
    return {member: loss for member, loss in losses.items() if updates[member] is None}, updates


def total(losses: Mapping[int, Tensor]) -> Tensor:
    """The sum; rows of one member give the parameters of another no gradient, so it is each one's own loss."""
    return functools.reduce(torch.add, losses.values())


def checked_norm(norm: float) -> float | NonFiniteLoss:
    """The norm of a member's gradient, which all ranks share, or what is wrong with it."""
    if math.isfinite(norm):
        return norm
    return NonFiniteLoss(f"the gradient's norm is {norm:g}, though the loss is finite. Lower optim.lr.")
