"""Told to end: while a run trains, a signal is noted, and the run saves its state and leaves; elsewhere it raises.

A signal is a matter of the process, so what was heard is kept here for all of it.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SAME_SECONDS = 1.0
LAUNCHED_SAME_SECONDS = 10.0
"""A signal that comes so soon after another one is the same. A terminal and Slurm send to all processes of a job, and
their launcher passes it on besides, `deepspeed` to one rank after the other."""


class Terminated(KeyboardInterrupt):
    """A signal told this process to end; like Ctrl-C it unwinds the stack, so that records are closed."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(number)
        self.number = number

    @property
    def cause(self) -> str:
        """The signal as people know it."""
        return "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number).name


class Preempted(Terminated):
    """The run was told to end, and all its ranks have left it after the same update."""

    def __init__(self, number: int, step: int, folder: str | Path, *, saved: bool) -> None:
        super().__init__(number)
        self.step, self.folder, self.saved = step, str(folder), saved


@dataclass
class _Heard:
    number: int = 0
    at: float = 0.0
    raised: bool = False
    noting: int = 0


_heard = _Heard()


def hear(number: int, *, only_note: bool = False) -> None:
    """A signal has come: note it if a run will heed it, else raise `Terminated`; a second one always raises."""
    now = time.monotonic()
    same = LAUNCHED_SAME_SECONDS if "RANK" in os.environ else SAME_SECONDS
    if _heard.number and now - _heard.at < same:
        return
    again = _heard.number != 0
    _heard.number, _heard.at = number, now
    if only_note or (_heard.noting and not again):
        return
    _heard.raised = True
    raise Terminated(number)


def told() -> int:
    """The number of the signal that was heard; 0 if none was."""
    return _heard.number


def told_by_raising() -> int:
    """The number of the signal that has raised `Terminated`; 0 if none has."""
    return _heard.number if _heard.raised else 0


def forget() -> None:
    """Nothing was heard; a new command begins."""
    _heard.number, _heard.raised = 0, False


def is_noting() -> bool:
    """Whether a run trains that heeds what is heard."""
    return _heard.noting > 0


@contextlib.contextmanager
def noting() -> Iterator[None]:
    """Within, a signal is noted, for the loop to heed at the next update."""
    _heard.noting += 1
    try:
        yield
    finally:
        _heard.noting -= 1
