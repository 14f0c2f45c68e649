"""Ranks that hang or fail: noticed, named, and asked where they are.

    every second   each rank says in the store of torch's process group that it lives, and at which update it is
    on an alarm    each rank that can writes its stacks to `stacks/rank-N.txt` in the output folder
    on a timeout   those who waited look at what the others say, and name who does not

Two threads, for the store may itself not answer: it lives in the first rank, or in its launcher.
"""

import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from infoprompt.progress import RankLost
from infoprompt.ranks import Ranks

BEAT_SECONDS = 0.5
LOOK_SECONDS = 4.0
"""How long a rank that lives may take to say so."""
MARGIN_SECONDS = 4.0
"""After the timeout, for gloo to raise by itself; NCCL does not raise."""
LOST = 76
"""Exit code where another rank has failed or does not answer."""

VERDICT = "verdict.txt"

_starts: list[int] = [0]  # runs of this process that were watched, so that a second one has keys of its own


@contextlib.contextmanager
def watched(ranks: Ranks, folder: Path, timeout_seconds: float) -> Iterator[None]:
    """Within, the ranks watch each other, and a collective that fails raises `RankLost`; every rank enters it.

    Args:
        ranks: this run's.
        folder: where stacks are written.
        timeout_seconds: how long a collective may wait for another rank.
    """
    if ranks.world_size == 1:
        yield
        return
    watch = _Watch(ranks, folder, timeout_seconds)
    watch.start()
    try:
        yield
    except Exception as error:
        if is_connection(error):
            raise watch.lost(error) from None
        watch.failed(error)
        raise
    finally:
        watch.stop()


def is_connection(error: BaseException) -> bool:
    """Whether another rank is gone or does not answer, and the reason is to be found there."""
    if isinstance(error, RankLost | dist.DistError):
        return True
    words = ("connection closed", "connection reset", "broken pipe", "timed out", "timeout", "socket", "peer")
    return type(error) is RuntimeError and any(word in str(error).lower() for word in words)  # gloo's have no class


@dataclass
class _Watch:
    """One rank's view of the others."""

    ranks: Ranks
    folder: Path
    timeout: float
    _ended: threading.Event = field(default_factory=threading.Event)
    _answered: float = 0.0
    """When the store has last answered."""
    _looking: bool = False
    _alarm: dict[str, Any] | None = None
    """What is wrong, as the first rank to notice it has said."""
    _own_alarm: dict[str, Any] | None = None
    _beats: dict[int, dict[str, Any]] = field(default_factory=dict)
    _first_beats: dict[int, int] = field(default_factory=dict)
    _dumped: bool = False

    def start(self) -> None:
        """Begin; the store must be there."""
        _starts[0] += 1
        if self.ranks.is_first:
            (self.folder / VERDICT).unlink(missing_ok=True)
        # of its own, for a rank that waits in the shared one would keep us waiting too
        self._store = dist.PrefixStore(f"watch{_starts[0]}", _get_default_store().clone())  # type: ignore[attr-defined]  # torch's stubs lack it
        self._store.set_timeout(timedelta(seconds=LOOK_SECONDS))
        self._answered = time.monotonic()
        for target in (self._talk, self._guard):
            threading.Thread(target=target, daemon=True, name=f"rank-watch{target.__name__}").start()

    def stop(self) -> None:
        """No more watching."""
        self._ended.set()

    def failed(self, error: Exception) -> None:
        """Tell the others why this rank is about to end, and give them the time to hear it."""
        text = (str(error).strip() or "no message").splitlines()[0]
        self._own_alarm = {"kind": "failed", "rank": self.ranks.rank, "text": f"{type(error).__name__}: {text}"}
        self._wait(lambda: self._alarm is not None, 3 * BEAT_SECONDS)
        alarm = self._alarm or self._own_alarm
        if alarm["rank"] != self.ranks.rank and alarm.get("text", "").startswith(type(error).__name__):
            error.said = True  # type: ignore[attr-defined]  # all ranks have found the same, and one says it
        else:
            time.sleep(2 * BEAT_SECONDS)

    def lost(self, error: Exception) -> RankLost:
        """What is wrong when a collective has failed with `error`."""
        if isinstance(error, RankLost):
            return error
        self._wait(lambda: self._alarm is not None, 3 * BEAT_SECONDS)
        if self._alarm and self._alarm["kind"] == "failed":
            number, text = self._alarm["rank"], self._alarm["text"]
            return RankLost(f"Rank {number} failed, and the others were ended. {text}", said=True)
        launched = "INFOPROMPT_PARENT" in os.environ
        if launched and "timed out" not in str(error).lower() and not self._alarm:
            return RankLost("Another rank has ended.", said=True)  # who started the ranks knows which, and says so
        self._write_stacks("".join(traceback.format_exception(error)))
        return self._diagnose()

    def _diagnose(self) -> RankLost:
        """Look at the others for a while, and say who does not come."""
        self._own_alarm = {"kind": "hang", "rank": self.ranks.rank}
        self._looking = True
        time.sleep(LOOK_SECONDS)
        message = (
            f"{self._culprits()} engine.timeout_seconds is {self.timeout:g}. The stacks of the ranks that could be "
            f"asked are in {self.folder}. Go on from the last resume state with --resume auto; where a rank was only "
            "slow, raise engine.timeout_seconds."
        )
        if self.ranks.is_first:
            time.sleep(2 * BEAT_SECONDS)  # the others may still need the store
        return RankLost(message, said=not self._speaks(message))

    def _culprits(self) -> str:
        """Who does not come, and what is known of it."""
        own = self.ranks.place
        if time.monotonic() - self._answered > LOOK_SECONDS - 2 * BEAT_SECONDS:
            silent = [0] if self.ranks.rank else []
        else:
            others = (rank for rank in range(self.ranks.world_size) if rank != self.ranks.rank)
            silent = [
                rank
                for rank in others
                if rank not in self._beats or self._beats[rank]["count"] == self._first_beats.get(rank)
            ]
        if silent:
            names = _names(silent)
            return f"{names} did not answer after update {own.step}: stopped, killed, or cut off."
        late = [rank for rank, beat in self._beats.items() if rank != self.ranks.rank and not beat["waiting_in"]]
        if late:
            return f"{_names(late)} did not come to update {own.step + 1}, though alive: busy or stuck; see the stacks."
        places = ", ".join(f"rank {rank} in {beat['waiting_in']}" for rank, beat in sorted(self._beats.items()))
        return f"After update {own.step} the ranks waited for each other in vain ({places})."

    def _speaks(self, message: str) -> bool:
        """Whether this rank is the one that says it: the first to write it down."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                with (self.folder / VERDICT).open("x", encoding="utf-8") as file:
                    file.write(message + "\n")
            except FileExistsError:
                return False
        return True

    def _talk(self) -> None:
        """The thread that talks with the store."""
        count = 0
        while not self._ended.is_set():
            count += 1
            place = self.ranks.place
            beat = {"count": count, "step": place.step, "waiting_in": place.waiting_in}
            # a store that does not answer is seen by `_answered`
            with contextlib.suppress(dist.DistError, RuntimeError, ValueError):
                self._store.set(f"beat{self.ranks.rank}", json.dumps(beat))
                if self._own_alarm and not self._alarm:
                    self._store.compare_set("alarm", "", json.dumps(self._own_alarm))
                if not self._alarm and self._store.check(["alarm"]):
                    self._alarm = json.loads(self._store.get("alarm"))
                if self._looking:
                    self._look()
                self._answered = time.monotonic()
            if self._alarm and self._alarm["kind"] == "hang" and not self._dumped:
                self._write_stacks("")
            self._ended.wait(BEAT_SECONDS)

    def _look(self) -> None:
        for rank in range(self.ranks.world_size):
            if self._store.check([f"beat{rank}"]):
                self._beats[rank] = json.loads(self._store.get(f"beat{rank}"))
                self._first_beats.setdefault(rank, self._beats[rank]["count"])

    def _guard(self) -> None:
        """The thread that ends this process where a collective waits for ever: NCCL's do."""
        while not self._ended.wait(BEAT_SECONDS):
            place = self.ranks.place
            if place.waiting_in and time.monotonic() - place.since > self.timeout + MARGIN_SECONDS:
                if self._looking:  # the main thread is at it
                    continue
                self._write_stacks("")
                found = self._diagnose()
                sys.stderr.write("" if found.said else f"error: {found}\n")
                sys.stderr.flush()
                os._exit(LOST)

    def _write_stacks(self, text: str) -> None:
        self._dumped = True
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / f"rank-{self.ranks.rank}.txt").open("w", encoding="utf-8") as file:
                place = self.ranks.place
                waiting = f", waiting in {place.waiting_in}" if place.waiting_in else ""
                file.write(f"rank {self.ranks.rank} after update {place.step}{waiting}\n{text}")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)

    def _wait(self, condition: Any, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            time.sleep(BEAT_SECONDS / 10)


def _names(ranks: list[int]) -> str:
    return f"Rank {ranks[0]}" if len(ranks) == 1 else f"Ranks {', '.join(map(str, sorted(ranks)))}"
