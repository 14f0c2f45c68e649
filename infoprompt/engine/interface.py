"""What runs forward, backward and update: the interface of the engines, and what they share."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from infoprompt.data.batch import Batch
from infoprompt.engine.ranks import Ranks
from infoprompt.objective.encoding import Encoding


class NonFiniteLoss(RuntimeError):
    """A loss or gradient is infinite or not a number; the update was not made, on any rank."""


class Engine(Protocol):
    """Trains a model. Every method is collective but `set_lr`: all ranks call it, in the same order.

    The states are whole float32 CPU tensors that know nothing of ranks, ZeRO stages or the kind of engine, so one that
    was saved anywhere can be loaded anywhere.
    """

    ranks: Ranks
    model: nn.Module

    def forward(self, batch: Batch) -> Encoding:
        """Forward in training mode."""

    def step(self, loss: Tensor) -> float | None:
        """Backward of one micro-batch; at the last one of a batch clip, update, and zero the gradients.

        Args:
            loss: scalar, the mean over the micro-batch's examples of this rank.
        Returns:
            Norm of the whole gradient over all ranks, before clipping; None if no update was due.
        Raises:
            NonFiniteLoss: on every rank, if the loss of any rank or the gradient is not finite.
        """

    def set_lr(self, lr: float) -> None:
        """Learning rate of the next updates."""

    def infer(self, batch: Batch) -> Encoding:
        """Forward in evaluation mode, without gradients."""

    def trained_state(self) -> dict[str, Tensor]:
        """Every trained parameter, by its name in the model."""

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Set every trained parameter; raises ValueError if names or shapes differ."""

    def optimizer_state(self) -> dict[str, Tensor]:
        """`<parameter>.exp_avg` and `<parameter>.exp_avg_sq` of every trained parameter, and `step`, int64 scalar."""

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Set what `optimizer_state` gave; raises ValueError if names or shapes differ."""

    def close(self) -> None:
        """Let go of the model."""


@contextmanager
def seeded_dropout(seed: int, step: int, ranks: Ranks) -> Iterator[None]:
    """While open, what dropout draws depends on seed, update and rank alone, so a resumed run draws it again."""
    drawn = np.random.default_rng([seed, step, 3, ranks.rank]).integers(2**63)
    with torch.random.fork_rng(devices=[ranks.device] if ranks.device.type == "cuda" else []):
        torch.manual_seed(int(drawn))
        yield


def require_finite_loss(loss: Tensor, ranks: Ranks) -> None:
    """Raise NonFiniteLoss on every rank if the loss of any is not finite."""
    value = float(loss.detach())
    if ranks.all_true(math.isfinite(value)):
        return
    losses = ", ".join(f"{value:g} on rank {rank}" for rank, value in enumerate(ranks.gather_objects(value)))
    raise NonFiniteLoss(f"the loss is not finite ({losses}). Lower optim.lr, or look at this batch's rows.")


def require_finite_norm(norm: float) -> float:
    """The gradient norm, which all ranks share; raises NonFiniteLoss if it is not finite."""
    if not math.isfinite(norm):
        raise NonFiniteLoss(f"the gradient's norm is {norm:g}, though the loss is finite. Lower optim.lr.")
    return norm
