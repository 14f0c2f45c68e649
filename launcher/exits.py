"""How a command ends: an exit code, and for a failure one message on standard error.

0 done    1 stopped on the way    2 bad input    130 Ctrl-C    143 SIGTERM
"""

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import ParamSpec

from infoprompt.credentials import shown_uri

STOPPED = 1
BAD_INPUT = 2
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM

PARENT_VARIABLE = "INFOPROMPT_PARENT"
"""Set for ranks that `processes.py` started: the id of the process that watches them."""

OUR_PACKAGES = ("infoprompt", "launcher")

P = ParamSpec("P")


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; like Ctrl-C it unwinds the stack, so that records are closed."""


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Within, SIGTERM raises `Terminated` in the main thread."""
    arrived: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        raise Terminated

    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    except KeyboardInterrupt:
        if arrived:  # Tune makes a plain KeyboardInterrupt of it
            raise Terminated from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """A command that ends with a message and a code instead of a traceback, where the message says what to do.

    A traceback stays where it is needed: for a failure that our own code did not foresee, and with `debug=True` among
    the command's arguments.
    """

    @functools.wraps(command)
    def guarded_command(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with sigterm_raises():
                command(*args, **kwargs)
        except (KeyboardInterrupt, Exception) as error:
            code = exit_code(error)
            if code is None or kwargs.get("debug"):
                raise
            message = shown_uri(explain(error))
            sys.stderr.write(f"error{_on_rank()}: {message}\n" if message else "")
            raise SystemExit(code) from None

    return guarded_command


def exit_code(error: BaseException) -> int | None:
    """The code that belongs to a failure whose message is enough; None for one that needs its traceback."""
    if isinstance(error, BrokenPipeError):
        return None  # typer quietly ends a command whose reader is gone
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return code
    if _is_out_of_memory(error):
        return STOPPED
    if _raised_by_us(error):
        return BAD_INPUT if isinstance(error, ValueError) else STOPPED if isinstance(error, RuntimeError) else None
    return None


def explain(error: BaseException) -> str:
    """The message for people; empty where another process says it."""
    if isinstance(error, KeyboardInterrupt) and PARENT_VARIABLE in os.environ:
        return ""
    if isinstance(error, Terminated):
        return "stopped by SIGTERM."
    if isinstance(error, KeyboardInterrupt):
        return "stopped by Ctrl-C."
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    if _is_out_of_memory(error) or isinstance(error, MemoryError):
        first_line = str(error).partition("\n")[0]
        return f"out of memory. {first_line} Set data.micro_batch_size, or lower it, and evaluation.batch_size."
    return str(error)


_CODES: dict[type[BaseException], int] = {
    Terminated: TERMINATED,
    KeyboardInterrupt: INTERRUPTED,
    FileNotFoundError: BAD_INPUT,
    PermissionError: BAD_INPUT,
    NotADirectoryError: BAD_INPUT,
    IsADirectoryError: BAD_INPUT,
    OSError: STOPPED,
    MemoryError: STOPPED,
}


def _is_out_of_memory(error: BaseException) -> bool:
    return type(error).__name__ == "OutOfMemoryError"  # torch's; a message must not cost an import of torch


def _raised_by_us(error: BaseException) -> bool:
    """Whether the `raise` is in this project: only then was the message written for its users."""
    traceback = error.__traceback__
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_globals.get("__name__", "").partition(".")[0] in OUR_PACKAGES


def _on_rank() -> str:
    rank = os.environ.get("RANK", "0")
    return "" if rank == "0" else f" on rank {rank}"
