"""The time that was given, kept also where a single run takes longer than planned."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class OutOfTime(Exception):
    """What was going on takes longer than there is time for."""


class Clock:
    """Seconds that are left of those given."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._start, self._given = now(), seconds

    @property
    def used(self) -> float:
        """Since the start."""
        return self._now() - self._start

    @property
    def left(self) -> float:
        """Negative where more was used."""
        return self._given - self.used


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the body after so many seconds, by a signal; only in the main thread of a Unix process."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGUSR2"):
        yield
        return
    main = threading.main_thread().ident
    assert main is not None

    def handler(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGUSR2, handler)
    timer = threading.Timer(max(0.0, seconds), signal.pthread_kill, (main, signal.SIGUSR2))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # else its signal could come after the handler was taken back, and end the process
        signal.signal(signal.SIGUSR2, before)
