"""How far long work is, on standard error: a bar on a terminal, a line now and then elsewhere.

Nothing is shown where log lines are not (`--quiet`, ranks other than the first), nor of work that takes a moment.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from functools import cache
from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from infoprompt.progress import Progress as RunProgress

log = logging.getLogger(__name__)
T = TypeVar("T")

MOMENT_SECONDS = 1.0
LINE_SECONDS = 30.0


class Pace:
    """When to say again how far work is, and how long the rest may take."""

    def __init__(self, total: int, done: int = 0) -> None:
        self._total, self._before = total, done
        self._start = self._told = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._start

    def due(self) -> bool:
        """True once every half a minute."""
        now = time.monotonic()
        if now - self._told < LINE_SECONDS:
            return False
        self._told = now
        return True

    def text(self, done: int, what: str = "") -> str:
        """Such as `12 of 48 runs, about 3 min left`, where the last words are known only once something is done."""
        here = done - self._before
        left = f", about {duration(self.seconds / here * (self._total - done))} left" if here > 0 else ""
        return f"{done:,} of {self._total:,}{what and f' {what}'}{left if done < self._total else ''}"


def track(items: Iterable[T], total: int, name: str) -> Iterator[T]:
    """The items, with a display of how many of them are done.

    Args:
        items: what is worked through.
        total: how many there are.
        name: what is done with them, for people.
    """
    if not log.isEnabledFor(logging.INFO):
        yield from items
        return
    pace, bar, task = Pace(total), None, None
    try:
        for done, item in enumerate(items, 1):
            yield item
            if not _console().is_terminal:
                if pace.due():
                    log.info("%s: %s", name, pace.text(done))
            elif bar is not None and task is not None:
                bar.update(task, completed=done)
            elif pace.seconds > MOMENT_SECONDS:
                text = TextColumn("{task.description}", markup=False)
                columns = (text, BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
                bar = Progress(*columns, console=_console(), transient=True)
                task = bar.add_task(name, total=total, completed=done)
                bar.start()
                bar.refresh()  # within another display it would wait for that one's next drawing
    finally:
        if bar is not None:
            bar.stop()


class ProgressBar:
    """Shows updates done, loss, dev score, examples a second and time left; does nothing where not enabled."""

    def __init__(self, enabled: bool, name: str, progress: RunProgress) -> None:
        self._enabled, self._name = enabled, name
        self._pace = Pace(progress.total_steps, progress.step)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  dev {task.fields[score]}  {task.fields[rate]} ex/s", markup=False),
            TimeRemainingColumn(),
            console=_console(),
            disable=not enabled,
        )
        self._task = self._bar.add_task(
            name, total=progress.total_steps, completed=progress.step, loss="-", score="-", rate="-"
        )

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, progress: RunProgress, **fields: float) -> None:
        """Show progress, and any of `loss`, `score` and `rate`."""
        shown: dict[str, Any] = {
            name: f"{value:.0f}" if name == "rate" else f"{value:.3f}" for name, value in fields.items()
        }
        self._bar.update(self._task, completed=progress.step, **shown)
        if self._enabled and not _console().is_terminal and self._pace.due():
            latest = self._bar.tasks[0].fields
            text = self._pace.text(progress.step)
            log.info("%s: update %s; loss %s, dev %s", self._name, text, latest["loss"], latest["score"])


@cache
def _console() -> Console:
    """One for all displays: where one is shown within another, they stand below each other."""
    return Console(stderr=True, markup=False, emoji=False)


def duration(seconds: float) -> str:
    """Seconds as people say them: `40 s`, `12 min`, `1.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
