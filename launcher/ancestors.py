"""In a rank: notice that what has started it is gone, whichever launcher that was, and take it for a signal to end.

`deepspeed` is two processes, of which the first one may be told to end and die without a word to the second.
"""

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

LOOK_SECONDS = 0.5
LAUNCHERS = ("deepspeed", "torchrun", "torch.distributed", "torch/distributed", "launcher.cli", "infoprompt")
"""What stands in the command line of a process that is one, or part of one."""


@dataclass(frozen=True)
class _Process:
    pid: int
    started: str
    """When, so that another process of the same number is not taken for it."""


def end_with_launcher() -> None:
    """Watch from a thread, where a launcher started this process (Linux); returns at once."""
    if "RANK" not in os.environ or not sys.platform.startswith("linux"):
        return
    watched = launchers()
    if watched:
        threading.Thread(target=_watch, args=(watched,), daemon=True, name="launcher-watch").start()


def launchers() -> list[_Process]:
    """The process that started this one, and those above it as far as they are launchers too."""
    found: list[_Process] = []
    pid = os.getppid()
    while pid > 0:
        stat = _stat(pid)
        if stat is None or (found and not _is_launcher(pid)):
            break
        found.append(_Process(pid, stat[1]))
        pid = int(stat[0])
    return found


def _watch(watched: list[_Process]) -> None:
    while all(_lives(process) for process in watched):
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _lives(process: _Process) -> bool:
    stat = _stat(process.pid)
    return stat is not None and stat[1] == process.started and stat[2] not in "ZX"


def _stat(pid: int) -> tuple[str, str, str] | None:
    """Parent, start time and state of a process; None where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[1], fields[19], fields[0]


def _is_launcher(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return False
    return any(name in command for name in LAUNCHERS)
