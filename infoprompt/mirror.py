"""A copy of a run's folder in an object store or another file system, by fsspec; a run goes on from it elsewhere.

    records, figures -> checkpoints/step-N -> artifact -> result.json

A thread copies, so training never waits. A folder's manifest is removed first and comes last: what is not whole has
none, or none that fits, and is not read. There are no locks in such places, so the last start that came has the mirror.
"""

import contextlib
import json
import logging
import os
import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from infoprompt.checkpoint import MANIFEST, check_manifest, read_manifest
from infoprompt.config import ConfigError, RunConfig
from infoprompt.files import read_object, replace_file, whole_folder
from infoprompt.mirror_store import MIRROR_NAME, Store
from infoprompt.output import on_first
from infoprompt.progress import TrainingStopped
from infoprompt.ranks import Ranks
from infoprompt.tracking.client import reason, within

log = logging.getLogger(__name__)
T = TypeVar("T")

STATES, ARTIFACT, RESULT_NAME = "checkpoints", "artifact", "result.json"
ELSEWHERE = ("compare", "stacks", STATES, ARTIFACT, RESULT_NAME, MIRROR_NAME)
"""What is copied in an order of its own, by a run of its own, or not at all."""
HELD = ".mirrored"
"""States that are being copied."""
START_SECONDS = 60.0  # for the first answers; some clients try for minutes
STALLED_SECONDS = 120.0  # how long the end of a run waits for the next file to arrive
LAST_PAUSES = (0.0, 1.0, 5.0)  # before the attempts at the end


@contextmanager
def mirrored(config: RunConfig, ranks: Ranks, *, resume: bool) -> Iterator["Mirror | None"]:
    """The mirror of `run.mirror` while the body runs, on the first rank; None on others, and where there is none.

    Args:
        config: the run's settings.
        ranks: every rank calls this.
        resume: whether to go on with a run; what the mirror has of it, and the folder has not, is fetched first.
    Raises:
        ConfigError: on every rank, if the mirror cannot be used, or has another run.
    """
    if config.run.mirror is None:
        yield None
        return
    mirror = on_first(ranks, lambda: Mirror(config, resume=resume))
    try:
        yield mirror
    finally:
        if mirror is not None:
            mirror.close()


def check_new_mirror(config: RunConfig, ranks: Ranks) -> None:
    """Before a run starts anew, and an earlier one in its folder is moved aside: whether its mirror is free.

    Raises:
        ConfigError: on every rank, if the mirror cannot be used, or has a run.
    """
    address = config.run.mirror
    if address is not None:
        on_first(ranks, lambda: _require_own(address, *_reach(address, config)[1:], goes_on=False))


class Mirror:
    """Copies one run's folder, from when it is made to `close`; one process has it."""

    def __init__(self, config: RunConfig, *, resume: bool) -> None:
        """Reach the mirror, fetch what is needed from it, and make it this start's; raises ConfigError."""
        assert config.run.mirror is not None
        self.address, self._folder = config.run.mirror, Path(config.run.output_dir)
        self._store, theirs, held = _reach(self.address, config)
        mine, newest = _mark(self._folder), _newest_whole(self._folder / STATES)
        adopts = resume and not mine and newest < 0  # an empty folder goes on with whatever run the mirror has
        goes_on = bool(theirs) and (adopts or theirs.get("run") == mine.get("run"))
        _require_own(self.address, theirs, held, goes_on=goes_on)
        # the start that wrote both has copied nothing that the folder does not have, or has replaced
        if resume and (newest < 0 or theirs.get("start") != mine.get("start")):
            _asked(self.address, config.engine.timeout_seconds, lambda: self._fetch(held, newest))
        self._mark = {
            "run": theirs["run"] if goes_on else mine.get("run") or uuid.uuid4().hex,
            "start": uuid.uuid4().hex,
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        _asked(self.address, START_SECONDS, self._claim)
        self._copied: dict[str, Any] = {}
        self._other: str | None = None
        self._failed = self._saved = False
        self._num_files = 0
        self._wanted, self._ending = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="mirror")
        self._thread.start()

    def copy_soon(self) -> None:
        """Have the thread copy what is new; called after each resume state.

        Raises:
            TrainingStopped: another start of the run has taken the mirror over.
        """
        if self._other is not None:
            raise TrainingStopped(
                f"run.mirror is {self.address}, but {self._other} has taken it over. Nothing more is copied by this "
                "run; its folder is whole. To go on with it here, give it another run.mirror."
            )
        self._saved = True
        self._wanted.set()

    def close(self) -> None:
        """Copy the rest, as long as files arrive, and say what was not copied. A start that saved nothing copies none.

        It never raises for the mirror's sake.
        """
        self._ending.set()
        self._wanted.set()
        before = -1
        while self._thread.is_alive() and before != self._num_files:
            before = self._num_files
            self._thread.join(STALLED_SECONDS)
        left = self._left() if self._has_something and self._other is None else []
        if left:
            log.warning(
                "The mirror %s does not have all of this run yet; missing are %s. They are in %s. When it answers "
                "again, copy them by the same command with --resume auto.",
                self.address,
                ", ".join([*left[:5], *([f"{len(left) - 5} more"] if len(left) > 5 else [])]),
                self._folder,
            )

    @property
    def _has_something(self) -> bool:
        return self._saved or (self._folder / RESULT_NAME).exists()

    def _claim(self) -> None:
        replace_file(self._folder / MIRROR_NAME, json.dumps(self._mark))
        self._store.put(self._folder / MIRROR_NAME, MIRROR_NAME)

    def _fetch(self, held: set[str], newest: int) -> None:
        """Bring the newest whole state that is newer than the folder's, with the records that go with it."""
        closed = sorted((name for name in held if _is_state_manifest(name)), reverse=True)
        steps = [name for name in closed if _step(name.split("/")[1]) > newest]  # names sort as steps do
        for manifest in steps:
            state = manifest.split("/")[1]
            try:
                with whole_folder(self._folder / STATES / state) as new:
                    self._store.get(manifest, new / MANIFEST)
                    for name in read_manifest(new):
                        if f"{STATES}/{state}/{name}" in held:
                            self._store.get(f"{STATES}/{state}/{name}", new / name)
                    problem = check_manifest(new)
                    if problem is not None:
                        raise ValueError(problem)
                    for name in sorted(filter(_is_loose, held)):  # before the state, which says that all is here
                        self._store.get(name, self._folder / name)
            except ValueError as error:
                log.warning(
                    "The state %s of the mirror %s is damaged (%s); it is passed over.", state, self.address, error
                )
                continue
            log.info("Fetched the state %s from %s.", state, self.address)
            return
        if steps and newest < 0:
            raise ConfigError(
                f"run.mirror is {self.address}, whose run has written resume states, but none of the {len(steps)} "
                "there can be used. Bring one back, or start anew with another run.mirror."
            )

    def _run(self) -> None:
        last = False
        while not last:
            self._wanted.wait()
            self._wanted.clear()
            last = self._ending.is_set()
            if last and not self._has_something:
                return
            for pause in LAST_PAUSES if last else (0.0,):
                time.sleep(pause)
                if self._attempt():
                    break

    def _attempt(self) -> bool:
        """Whether all was copied, or nothing more is to be."""
        if self._other is not None:
            return True
        try:
            self._copy()
        except Exception as error:  # whatever a store may do, the run goes on
            if not self._failed:
                log.warning(
                    "The mirror %s does not take the run's files (%s). Training goes on; they are copied after the "
                    "next save.",
                    self.address,
                    reason(error),
                )
            self._failed = True
            return False
        if self._failed and self._other is None:
            log.info("The mirror %s has all files again.", self.address)
        self._failed = False
        return True

    def _copy(self) -> None:
        theirs = self._store.mark()
        if theirs.get("start", self._mark["start"]) != self._mark["start"]:
            self._other = f"another start{_of(theirs)}"
            log.warning("The mirror %s was taken over by %s; nothing more is copied.", self.address, self._other)
            return
        if not theirs:  # emptied by somebody
            self._copied.clear()
            self._store.put(self._folder / MIRROR_NAME, MIRROR_NAME)
        with self._held_states() as states:  # before the records, which so reach as far as any of them
            for name in self._loose():
                self._put(name)
            for name, folder in states.items():
                self._put_whole(name, folder)
            if states:
                there = self._store.files(STATES)
                for old in {"/".join(name.split("/")[:2]) for name in there} - states.keys():
                    self._store.remove_folder(old, there)
        self._put_whole(ARTIFACT, self._folder / ARTIFACT)
        self._put(RESULT_NAME)

    @contextmanager
    def _held_states(self) -> Iterator[dict[str, Path]]:
        """The states, and for each a folder that stays as it is while it is copied, however soon the run drops it."""
        holding = self._folder / HELD
        shutil.rmtree(holding, ignore_errors=True)
        held: dict[str, Path] = {}
        try:
            for name in self._states():
                folder = holding / Path(name).name
                folder.mkdir(parents=True)
                with contextlib.suppress(FileNotFoundError):  # dropped already
                    for file in (MANIFEST, *read_manifest(self._folder / name)):
                        _link(self._folder / name / file, folder / file)
                    held[name] = folder
            yield held
        finally:
            shutil.rmtree(holding, ignore_errors=True)

    def _put(self, name: str) -> None:
        path = self._folder / name
        signature = _signature(path)
        if signature is None or self._copied.get(name) == signature:
            return
        self._store.put(path, name)
        self._copied[name] = signature
        self._num_files += 1

    def _put_whole(self, name: str, folder: Path) -> None:
        """Copy a folder that a manifest closes."""
        closing = f"{name}/{MANIFEST}"
        try:
            manifest = (folder / MANIFEST).read_bytes()
            if self._copied.get(name) == manifest:
                return
            there = self._store.read(closing)
            if there != manifest:
                if there is not None:
                    self._store.remove(closing)
                for file in read_manifest(folder):
                    self._store.put(folder / file, f"{name}/{file}")
                    self._num_files += 1
                if (folder / MANIFEST).read_bytes() != manifest:
                    raise OSError(f"{folder} was replaced while it was copied")
                self._store.write(manifest, closing)
        except FileNotFoundError:
            if folder.exists():
                raise
            return  # no artifact
        self._copied[name] = manifest

    def _states(self) -> list[str]:
        found = (self._folder / STATES).glob("step-*")
        return sorted(f"{STATES}/{path.name}" for path in found if (path / MANIFEST).exists())

    def _loose(self) -> list[str]:
        files = [path for path in self._folder.rglob("*") if path.is_file() and not path.is_symlink()]
        return sorted(filter(_is_loose, (path.relative_to(self._folder).as_posix() for path in files)))

    def _left(self) -> list[str]:
        """What the mirror lacks of the folder; folders by their name."""
        whole = [name for name in [*self._states(), ARTIFACT] if (self._folder / name / MANIFEST).exists()]
        left = [name for name in whole if self._copied.get(name) != (self._folder / name / MANIFEST).read_bytes()]
        loose = [name for name in [*self._loose(), RESULT_NAME] if (self._folder / name).exists()]
        return left + [name for name in loose if self._copied.get(name) != _signature(self._folder / name)]


def _link(source: Path, target: Path) -> None:
    """The same file by another name, or a copy where a file system has no such thing."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copy2(source, target)


def _asked(address: str, seconds: float, call: Callable[[], T]) -> T:
    """What a store answers at the start of a run; raises ConfigError if it does not."""
    try:
        return within(seconds, call)
    except ConfigError:
        raise
    except Exception as error:  # whatever a store or its client may raise
        raise ConfigError(
            f"run.mirror is {address}, which cannot be used ({reason(error)}), but the run is to be copied there. "
            "Check the address, the network, and the credentials that its client finds; or leave run.mirror out."
        ) from None


def _reach(address: str, config: RunConfig) -> tuple[Store, dict[str, str], set[str]]:
    """The store, whose mirror it is, and what it has; some clients connect as soon as they are made."""

    def reach() -> tuple[Store, dict[str, str], set[str]]:
        store = Store(address, Path(config.run.output_dir))
        return store, store.mark(), store.files()

    return _asked(address, START_SECONDS, reach)


def _require_own(address: str, theirs: dict[str, str], held: set[str], *, goes_on: bool) -> None:
    if held - {MIRROR_NAME} and not goes_on:
        raise ConfigError(
            f"run.mirror is {address}, which has another run{_of(theirs)}. Give each run a mirror of its own, remove "
            "what is there, or go on with that run by --resume auto in a new run.output_dir."
        )


def _mark(folder: Path) -> dict[str, str]:
    try:
        return {key: str(value) for key, value in read_object(folder / MIRROR_NAME).items()}
    except (OSError, ValueError):
        return {}


def _of(mark: dict[str, str]) -> str:
    return f" (on {mark.get('host')}, begun {mark.get('since')})" if mark else ""


def _newest_whole(folder: Path) -> int:
    """Step of the newest whole state; -1 if there is none."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        if check_manifest(path) is None:
            return _step(path.name)
    return -1


def _is_state_manifest(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 3 and parts[0] == STATES and parts[2] == MANIFEST and _step(parts[1]) >= 0


def _step(name: str) -> int:
    return int(name.removeprefix("step-")) if re.fullmatch(r"step-[0-9]{8}", name) else -1


def _is_loose(name: str) -> bool:
    """Whether a file is copied by itself: neither hidden, nor a part of what is copied as a whole."""
    path = PurePosixPath(name)
    return path.parts[0] not in ELSEWHERE and not any(part.startswith(".") for part in path.parts) and "\\" not in name


def _signature(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns
