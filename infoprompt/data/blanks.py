"""Blank lines between the rows of a file: no rows, but not passed over without a word."""

from collections.abc import Callable


class BlankLines:
    """Counts the blank lines of a file; those behind the last row go without saying."""

    def __init__(self, path: str, tell: Callable[[str], None]) -> None:
        self._path = path
        self._tell = tell
        self._told = False
        self._first: int | None = None

    def add(self, line: int) -> None:
        """A blank line."""
        self._first = self._first or line

    def row_follows(self) -> None:
        """A row: the blank lines before it stand between rows; said once for a file."""
        if self._first is not None and not self._told:
            self._tell(f"{self._path} has blank lines between its rows (the first is line {self._first}); no row each.")
            self._told = True
