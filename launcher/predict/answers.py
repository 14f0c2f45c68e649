"""Where the answers of `infoprompt predict` go: standard output, or a file of the kind that its suffix names."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infoprompt.config import ConfigError
from launcher.predict.choose import Asked
from launcher.predict.show import Table, as_json, as_line

if TYPE_CHECKING:
    from infoprompt.artifact import Prediction


class Output:
    """Where answers go: standard output as lines or JSON, or a file of the kind that its suffix names."""

    KINDS = (".jsonl", ".csv", ".tsv")

    def __init__(self, out: Path | None, *, json_output: bool, top: int, source: str | None) -> None:
        """Check it.

        Args:
            out: the file; standard output if not given.
            json_output: whether standard output gets JSON.
            top: labels shown.
            source: the file that is read, which must be another.
        Raises:
            ConfigError: the file is of no kind that is written, or is the one that is read.
        """
        self._out = out
        self._kind = ".jsonl" if json_output else ""
        self._top = top
        self._stream: Any = None
        self._table: Table | None = None
        if out is not None:
            self._kind = out.suffix.lower()
            if self._kind not in self.KINDS:
                raise ConfigError(
                    f"--out is {out}, but must end in {', '.join(self.KINDS)}, which says what is written."
                )
            if source is not None and os.path.exists(source) and out.exists() and os.path.samefile(source, out):
                raise ConfigError(f"--out is {out}, which is the file that is read. Give another.")

    def open(self) -> None:
        """Open it, which empties a file; raises ConfigError where it cannot be written."""
        if self._out is None:
            self._stream = sys.stdout
            if hasattr(self._stream, "reconfigure"):
                self._stream.reconfigure(errors="backslashreplace")
        else:
            try:
                self._stream = self._out.open("w", encoding="utf-8", errors="backslashreplace", newline="")
            except OSError as error:
                raise ConfigError(f"--out is {self._out}, which cannot be written: {error.strerror}.") from error
        if self._kind in (".csv", ".tsv"):
            self._table = Table(self._stream, self._kind[1:], self._top)

    def write(self, asked: Asked, prediction: "Prediction | None") -> None:
        """Write one answer."""
        if self._table is not None:
            self._table.write(asked, prediction)
        elif self._kind == ".jsonl":
            self._stream.write(as_json(asked, prediction) + "\n")
        else:
            self._stream.write(as_line(asked, prediction, self._top) + "\n")

    def flush(self) -> None:
        """What was written is there for others."""
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        if self._out is not None:
            self._stream.close()
