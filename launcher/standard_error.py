"""Standard error that fails no run: who reads it, a terminal or `tee`, may be gone before the run is."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


class _Lenient:
    """A stream whose writing cannot fail; else the stream itself."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lenient_stderr() -> Iterator[None]:
    """Within, bars, log lines and messages that nobody reads any more are lost, and nothing else is."""
    before = sys.stderr
    sys.stderr = cast(TextIO, _Lenient(before))
    try:
        yield
    finally:
        sys.stderr = before
