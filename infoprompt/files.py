"""Files and folders that are whole or not there, at whatever moment their writer is killed.

Each is written beside its place, synced, and put there by one rename. What a killed writer left is removed by the next.
"""

import contextlib
import ctypes
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: writers at the same time are not kept apart there
    fcntl = None  # type: ignore[assignment]

AT_FDCWD, RENAME_EXCHANGE = -100, 2
UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.ENOLCK, errno.EBADF)
"""What a file system answers that cannot exchange two names, or lock."""


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to write to, which has the name `folder` once the body has ended, in place of what had it.

    If the body raises, or the process is killed, what had the name before keeps it. One writer waits for another.

    Raises:
        OSError: it cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".writing-{folder.name}")
    with _alone_in(temporary):
        heal(folder)
        _try_remove(_old(folder))  # a killed writer's, and no longer of use
        try:
            yield temporary
            _sync_all(temporary)
            _put(temporary, folder)
        except BaseException:
            _try_remove(temporary)
            raise
    sync(folder.parent)


def heal(folder: Path) -> None:
    """Give a folder its name back, where a writer was killed between two renames.

    That takes a file system that cannot exchange two names; readers call this first.
    """
    if not os.path.lexists(folder):
        with contextlib.suppress(OSError):
            os.rename(_old(folder), folder)


@contextlib.contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A path to write to, which has the name `path` once the body has ended: as `whole_folder`, for one file.

    Args:
        path: where it goes.
        durable: wait for the disk, so that the file also outlives a machine that loses its power.
    """
    temporary = path.with_name(f".writing-{path.name}")
    descriptor = open_locked(temporary)
    try:
        yield temporary
        if durable:
            sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        _try_remove(temporary)
        raise
    finally:
        os.close(descriptor)
    if durable:
        sync(path.parent)


def replace_file(path: Path, content: bytes | str, *, durable: bool = True) -> None:
    """Write a file such that a reader, or a kill, sees the old or the new content and nothing between.

    `durable`: see `whole_file`.

    Raises:
        OSError: it cannot be written; the old content stays.
    """
    with whole_file(path, durable=durable) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: it holds anything else.
        OSError: it cannot be read.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} holds a {type(values).__name__}, not an object")
    return values


def sync(path: Path) -> None:
    """Have what is written to a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_locked(path: Path, flags: int = os.O_RDWR | os.O_CREAT) -> int:
    """A descriptor of the file that has this name now, which nobody else holds through this function.

    The lock ends when the descriptor is closed, or the process ends. A file system without locks is taken as it is.
    """
    while True:
        descriptor = os.open(path, flags, 0o666)
        try:
            _lock(descriptor)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:  # renamed or removed while we waited: look again
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """The folder is there, empty, and no other writer's while the body runs."""
    descriptor = None
    while descriptor is None:
        if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
            folder.unlink(missing_ok=True)
        # not by `exist_ok`, which asks a second time, when another writer may have renamed it
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        with contextlib.suppress(FileNotFoundError):
            descriptor = open_locked(folder, os.O_RDONLY)
    try:
        for path in folder.iterdir():
            _remove(path)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def _put(temporary: Path, folder: Path) -> None:
    """Give `folder`'s name to `temporary`, and remove what had it."""
    if not os.path.lexists(folder):
        os.rename(temporary, folder)
        return
    # locked, since another writer finds it under the name `temporary` until it is removed
    descriptor = open_locked(folder, os.O_RDONLY)
    try:
        if _exchange(temporary, folder):
            _try_remove(temporary)
            return
        while not _rename_twice(temporary, folder):
            pass
        _try_remove(_old(folder))
    finally:
        os.close(descriptor)


def _rename_twice(temporary: Path, folder: Path) -> bool:
    """Put `temporary` in the place of `folder`; whether no reader has healed the folder in between."""
    old = _old(folder)
    _remove(old)
    os.rename(folder, old)
    try:
        os.rename(temporary, folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        heal(folder)
        raise
    return True


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; whether that can be done here."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(other))


def _old(folder: Path) -> Path:
    return folder.with_name(f".old-{folder.name}")


def _remove(path: Path) -> None:
    if not os.path.lexists(path):
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _try_remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        _remove(path)


def _sync_all(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            sync(Path(place, name))
        sync(Path(place))
