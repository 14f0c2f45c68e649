"""What is timed: one way to make training steps on the rows that all others have too."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Contender:
    """One way to train a method."""

    name: str
    method: str
    """`prompt tuning`, `prefix tuning` or `InfoPrompt`; times are compared within it."""
    batches: Callable[[int], Iterator[Any]]
    """Every batch of a round, counted from 0: one pass over all rows, in the contender's own order."""
    update: Callable[[Any], Tensor]
    """Forward, loss, backward and AdamW's update on a batch; its loss, detached and on the device."""
    positions: Callable[[Any], int]
    """Positions of a batch, padding and prompt vectors included."""


@dataclass(frozen=True)
class Missing:
    """A contender that cannot run here."""

    name: str
    method: str
    reason: str
