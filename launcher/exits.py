"""How a command ends: by a code of `exit_codes`, and for a failure one message on standard error."""

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, ParamSpec

from infoprompt.credentials import shown_uri
from infoprompt.progress import RankLost
from infoprompt.stopping import Preempted, Terminated, forget, hear, told_by_raising
from launcher.exit_codes import BAD_INPUT, INTERRUPTED, LOST, RESUMABLE, STOPPED
from launcher.resume import resume_command
from launcher.standard_error import lenient_stderr

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""What tells a command to end: from a person, a terminal that closes, a scheduler, a cloud."""

PARENT_VARIABLE = "INFOPROMPT_PARENT"
"""Set for ranks that `processes.py` started: the id of the process that watches them."""

OUR_PACKAGES = ("infoprompt", "launcher")

P = ParamSpec("P")


@contextlib.contextmanager
def signals_heard() -> Iterator[None]:
    """Within, each of `SIGNALS` raises `Terminated` in the main thread, or is noted by a run that trains.

    One that is ignored stays so: `nohup` and a shell's background jobs mean it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    forget()
    before: dict[int, Any] = {}

    def handler(number: int, frame: FrameType | None) -> None:
        hear(number)

    for number in map(int, SIGNALS):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    try:
        yield
    except (Preempted, SystemExit):
        raise
    except BaseException:
        if told_by_raising():  # libraries make other errors of it
            raise Terminated(told_by_raising()) from None
        raise
    finally:
        for number, action in before.items():
            signal.signal(number, action)


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """A command that ends with a message and a code instead of a traceback, where the message says what to do.

    A traceback stays where it is needed: for a failure that our own code did not foresee, and with `debug=True` among
    the command's arguments.
    """

    @functools.wraps(command)
    def guarded_command(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with lenient_stderr(), signals_heard():
                command(*args, **kwargs)
        except (KeyboardInterrupt, Exception) as error:
            code = exit_code(error)
            if code is None or kwargs.get("debug"):
                raise
            say(error)
            raise SystemExit(code) from None

    return guarded_command


def say(error: BaseException) -> None:
    """The message on standard error, if this process is the one to say it."""
    message = shown_uri(explain(error))
    prefix = "" if isinstance(error, Preempted) else f"error{_on_rank()}: "
    with contextlib.suppress(OSError):  # the terminal may be what is gone
        sys.stderr.write(f"{prefix}{message}\n" if message else "")
        sys.stderr.flush()


def exit_code(error: BaseException) -> int | None:
    """The code that belongs to a failure whose message is enough; None for one that needs its traceback."""
    if isinstance(error, Terminated):
        return RESUMABLE if isinstance(error, Preempted) and error.saved else 128 + error.number
    if isinstance(error, BrokenPipeError):
        return None  # typer quietly ends a command whose reader is gone
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return code
    if _is_out_of_memory(error) or (_raised_by_us(error) and isinstance(error, RuntimeError)):
        return STOPPED
    return BAD_INPUT if _raised_by_us(error) and isinstance(error, ValueError) else None


def explain(error: BaseException) -> str:
    """The message for people; empty where another process says it."""
    if getattr(error, "said", False) or (isinstance(error, KeyboardInterrupt) and PARENT_VARIABLE in os.environ):
        return ""
    if isinstance(error, KeyboardInterrupt):
        return _explain_end(error if isinstance(error, Terminated) else Terminated(signal.SIGINT))
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    if _is_out_of_memory(error) or isinstance(error, MemoryError):
        first_line = str(error).partition("\n")[0]
        return f"out of memory. {first_line} Set data.micro_batch_size, or lower it, and evaluation.batch_size."
    return str(error)


def _explain_end(error: Terminated) -> str:
    if not isinstance(error, Preempted):
        return f"stopped by {error.cause}."
    launched = "RANK" in os.environ
    if os.environ.get("RANK", "0") != "0":
        return ""  # the first rank says it
    what = f"stopped by {error.cause} after update {error.step}"
    if not error.saved:
        return f"{what}; nothing was saved, for checkpoint.enabled is false."

    again = "the same command and --resume auto" if launched else resume_command(sys.argv)
    return f"{what}; its state is saved in {error.folder}. Go on with\n  {again}"


_CODES: dict[type[BaseException], int] = {
    KeyboardInterrupt: INTERRUPTED,
    RankLost: LOST,
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
