"""Who is writing to a folder: one process at a time, and the lock of one that is dead is taken over.

The lock is a file that names its process. On the same machine that process is looked at. Of another machine, which
shares the disk, it is watched whether the file's time still moves: two machines' clocks are never compared.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from infoprompt.config import ConfigError
from infoprompt.files import open_locked

log = logging.getLogger(__name__)

LOCK_NAME = ".lock"

BEAT_SECONDS = 5.0
"""How often a living process moves the time of its lock."""
SILENT_SECONDS = 30.0
"""A process of another machine whose lock stands still for so long is taken for dead."""
LOOK_SECONDS = 0.5
DYING_SECONDS = 1.0
"""How long a living process of this machine is given to be gone, as one is that was killed just before."""


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock."""

    id: str
    """Of this holding: another one by the same process has another."""
    host: str
    pid: int
    started: str | None
    """When the process started, in the kernel's ticks: a later process with the same id has another."""
    boot: str | None
    """The kernel's name for the time since it was started."""
    namespace: str | None
    """The kernel's name for what process ids count in: each container has its own."""
    since: str
    what: str = "a run"
    owner: str | None = None
    """Names what is done: another process that does the same, such as a run that is tried again, takes over."""

    def __str__(self) -> str:
        return f"{self.what} of process {self.pid} on {self.host} has been writing there since {self.since}"


def inside(folder: Path) -> Path:
    """The lock of a folder that keeps its place while it is written to."""
    return folder / LOCK_NAME


def beside(folder: Path) -> Path:
    """The lock of a folder that is replaced as a whole."""
    return folder.with_name(f".{folder.name}{LOCK_NAME}")


@contextlib.contextmanager
def held(path: Path, setting: str, what: str = "a run", owner: str | None = None) -> Iterator[None]:
    """Hold a lock while the body runs.

    Args:
        path: see `inside` and `beside`.
        setting: the folder's name and value, as `run.output_dir is runs/x`, for people.
        what: is done there.
        owner: see `Holder`.
    Raises:
        ConfigError: somebody else holds it, and is alive.
        OSError: the file cannot be written.
    """
    mine = _take(path, setting, _this_process(what, owner))
    ended = threading.Event()
    threading.Thread(target=_beat, args=(path, mine, ended), daemon=True, name="folder-lock").start()
    try:
        yield
    finally:
        ended.set()
        _release(path, mine)


def require_free(path: Path, setting: str, owner: str | None = None) -> None:
    """Raise ConfigError, which says who it is, if a living process holds the lock; may wait `SILENT_SECONDS`.

    A lock of the same `owner` is no obstacle: see `Holder`.
    """
    first = _read(path)
    if first is None or (owner is not None and first.holder.owner == owner):
        return
    state = _state(first.holder)
    end = time.monotonic() + DYING_SECONDS
    while state == "alive" and time.monotonic() < end:
        time.sleep(DYING_SECONDS / 10)
        state = _state(first.holder) if _read(path) else "dead"
    if state == "alive" or (state == "unknown" and _moves(path, first)):
        raise ConfigError(
            f"{setting}, but {first.holder} (its lock is {path}). Wait for its end or stop it, or give another folder."
        )


def require_free_below(folder: Path, setting: str) -> None:
    """Raise ConfigError if a living process holds the lock of any folder in this one."""
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if name.startswith(".") and name.endswith(LOCK_NAME) and path != inside(folder):
                require_free(path, setting)


def taken_over(path: Path) -> Holder | None:
    """Another process that holds the lock which this one had taken, as after this machine was asleep."""
    found = _read(path)
    if found is None or _same_process(found.holder, _this_process()):
        return None
    return found.holder


@dataclass(frozen=True)
class _Sight:
    """A lock as it was seen."""

    holder: Holder
    time_ns: int


def _take(path: Path, setting: str, mine: Holder) -> Holder:
    """Of all who try at the same time, one returns from here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        judged = _read(path)
        if judged is None or mine.owner is None or judged.holder.owner != mine.owner:
            require_free(path, setting)
        with _opened(path, os.O_RDWR | os.O_CREAT) as descriptor:
            now = _read_open(descriptor)
            if now is None or (judged is not None and now.holder.id == judged.holder.id):  # else somebody was faster
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(asdict(mine)).encode(), 0)
                os.fsync(descriptor)
                return mine


def _this_process(what: str = "a run", owner: str | None = None) -> Holder:
    return Holder(
        id=uuid.uuid4().hex,
        host=socket.gethostname(),
        pid=os.getpid(),
        started=_started(os.getpid()),
        boot=_text("/proc/sys/kernel/random/boot_id"),
        namespace=_link("/proc/self/ns/pid"),
        since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        what=what,
        owner=owner,
    )


def _same_process(one: Holder, other: Holder) -> bool:
    return replace(one, id="", since="", what="", owner=None) == replace(other, id="", since="", what="", owner=None)


def _state(holder: Holder) -> Literal["alive", "dead", "unknown"]:
    """Whether a holder lives, as far as can be told from this machine at once."""
    here = _this_process()
    if holder.host == here.host and holder.boot != here.boot:
        return "dead"  # before this machine was started again
    if (holder.host, holder.namespace) != (here.host, here.namespace):
        return "unknown"
    if here.started is None:  # no /proc
        return "alive" if _exists(holder.pid) else "dead"
    return "alive" if _started(holder.pid) == holder.started else "dead"


def _moves(path: Path, first: _Sight) -> bool:
    """Whether a lock of another machine changes while it is watched."""
    log.info("%s may be alive (%s): watching its lock for up to %g s.", first.holder, path, SILENT_SECONDS)
    end = time.monotonic() + SILENT_SECONDS
    while time.monotonic() < end:
        time.sleep(LOOK_SECONDS)
        now = _read(path)
        if now is None:
            return False
        if now != first:
            return True
    return False


def _beat(path: Path, mine: Holder, ended: threading.Event) -> None:
    """Move the lock's time until the end, or until it is another's."""
    while not ended.wait(BEAT_SECONDS):
        try:
            with _opened(path, os.O_RDWR) as descriptor:
                found = _read_open(descriptor)
                if found is None or found.holder.id != mine.id:
                    return
                os.utime(descriptor)
        except FileNotFoundError:
            return
        except OSError:  # a shared disk that is away for a while
            continue


def _release(path: Path, mine: Holder) -> None:
    with contextlib.suppress(OSError), _opened(path, os.O_RDWR) as descriptor:
        found = _read_open(descriptor)
        if found is not None and found.holder.id == mine.id:
            path.unlink()


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = open_locked(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read(path: Path) -> _Sight | None:
    """Who holds a lock; None if nobody does. Opened anew each time, which asks the server of a shared disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return _read_open(descriptor)
    finally:
        os.close(descriptor)


def _read_open(descriptor: int) -> _Sight | None:
    try:
        values = json.loads(os.pread(descriptor, 1 << 16, 0))
        holder = Holder(**{name: values.get(name) for name in Holder.__dataclass_fields__})
    except (ValueError, AttributeError, RecursionError):  # empty, as it is for a moment, or not ours
        return None
    if not isinstance(holder.pid, int) or not isinstance(holder.id, str):
        return None
    return _Sight(holder, os.fstat(descriptor).st_mtime_ns)


def _started(pid: int) -> str | None:
    """When a process started, in ticks since boot; None if it is gone (or there is no /proc)."""
    text = _text(f"/proc/{pid}/stat")
    if text is None:
        return None
    state, *fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return None if state in ("Z", "X") else fields[18]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
