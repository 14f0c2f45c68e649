"""Rows of a large data set in an Arrow file that is mapped into memory; each is made when it is asked for.

Ranks and runs of a node share the file's pages. A few rows stay a list, which is what the mapped ones must equal.
"""

import itertools
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np

from infoprompt.cache_folder import cache_dir, make_folders
from infoprompt.config import ConfigError

log = logging.getLogger(__name__)
T = TypeVar("T")

MOST_IN_MEMORY = 20_000
"""Rows that stay a list."""
BLOCK_ROWS = 4096
"""Rows that are written, and made, at a time."""

Record = tuple[Any, ...]
"""A row as texts, numbers and None, in the order of the columns."""


class MappedRows(Sequence[T], Generic[T]):
    """The rows of a file, or some of them, each with the changes that were asked for."""

    def __init__(self, path: Path, make: Callable[[Record], T], key: str = "") -> None:
        """Map a file that `write_rows` has written; it may lose its name afterwards.

        Args:
            path: of the file.
            make: the row of a record.
            key: names the content; empty where it is not known.
        """
        import pyarrow  # type: ignore[import-untyped]  # a dependency of `datasets`

        self._reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
        sizes = [self._reader.get_batch(i).num_rows for i in range(self._reader.num_record_batches)]
        self._rows = np.arange(sum(sizes))
        self._make, self.key = make, key
        self.as_written = True
        """Whether no change was asked for."""

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> list[T]: ...
    def __getitem__(self, place: int | slice) -> T | list[T]:
        if isinstance(place, slice):
            return list(self._made(self._rows[place]))
        return next(self._made(self._rows[[place]]))

    def __iter__(self) -> Iterator[T]:
        return self._made(self._rows)

    def take(self, rows: Sequence[int] | np.ndarray) -> "MappedRows[T]":
        """These rows, in this order."""
        return self._like(self._rows[np.asarray(rows, dtype=np.int64)], self._make)

    def changed(self, change: Callable[[T], T]) -> "MappedRows[T]":
        """The same rows, each as the change makes it."""
        make = self._make
        other = self._like(self._rows, lambda record: change(make(record)))
        other.as_written = False
        return other

    def column(self, place: int) -> Iterator[Any]:
        """A column as it was written, without any change, and without the work of making rows."""
        return (record[0] for record in self._records(self._rows, [place]))

    def _like(self, rows: np.ndarray, make: Callable[[Record], T]) -> "MappedRows[T]":
        other = object.__new__(MappedRows)
        other._reader, other._rows, other._make = self._reader, rows, make
        other.key, other.as_written = "", self.as_written
        return other

    def _made(self, rows: np.ndarray) -> Iterator[T]:
        return map(self._make, self._records(rows))

    def _records(self, rows: np.ndarray, places: Sequence[int] | None = None) -> Iterator[Record]:
        import pyarrow

        for start in range(0, len(rows), BLOCK_ROWS):
            some = rows[start : start + BLOCK_ROWS]
            for part in np.split(some, np.flatnonzero(np.diff(some // BLOCK_ROWS)) + 1):
                block = self._reader.get_batch(int(part[0]) // BLOCK_ROWS).take(pyarrow.array(part % BLOCK_ROWS))
                columns = [block.column(place) for place in places or range(block.num_columns)]
                yield from zip(*([_text(cell) for cell in column.to_pylist()] for column in columns), strict=True)


def _text(cell: Any) -> Any:
    return cell.decode("utf-8", "surrogatepass") if isinstance(cell, bytes) else cell


def write_rows(path: Path, records: Iterable[Record], columns: dict[str, type]) -> None:
    """Write an Arrow file for `MappedRows`.

    Args:
        path: of the file.
        records: the rows.
        columns: name to `str` or `float`; any cell may be None.
    Raises:
        OSError: it cannot be written.
    """
    import pyarrow

    # bytes, since a text may hold what is not UTF-8, which is refused with its row later
    kinds = [pyarrow.binary() if kind is str else pyarrow.float64() for kind in columns.values()]
    schema = pyarrow.schema(list(zip(columns, kinds, strict=True)))
    rest = iter(records)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, schema) as writer:
        while block := list(itertools.islice(rest, BLOCK_ROWS)):
            cells = [[_bytes(cell) for cell in column] for column in zip(*block, strict=True)]
            arrays = [pyarrow.array(column, kind) for column, kind in zip(cells, kinds, strict=True)]
            writer.write_batch(pyarrow.record_batch(arrays, schema=schema))


def _bytes(cell: Any) -> Any:
    return cell.encode("utf-8", "surrogatepass") if isinstance(cell, str) else cell


def collected(
    rows: Iterable[T], record: Callable[[T], Record], make: Callable[[Record], T], columns: dict[str, type]
) -> Sequence[T]:
    """The rows as a list or, of many, mapped from a file without a name.

    Args:
        rows: read once.
        record: of a row; see `write_rows`.
        make: its inverse.
        columns: see `write_rows`.
    Raises:
        ConfigError: the disk is full.
    """
    rest = iter(rows)
    first = list(itertools.islice(rest, MOST_IN_MEMORY + 1))
    if len(first) <= MOST_IN_MEMORY:
        return first
    folder = cache_dir() / "rows"
    try:
        make_folders(folder / "rows")
        file = tempfile.NamedTemporaryFile(dir=folder, prefix=".reading-")  # noqa: SIM115
    except OSError as error:
        log.warning("The rows stay in memory: %s cannot be written (%s). Set INFOPROMPT_CACHE.", folder, error)
        return [*first, *rest]
    with file:
        try:
            write_rows(Path(file.name), map(record, itertools.chain(first, rest)), columns)
        except OSError as error:
            raise ConfigError(
                f"The rows cannot be written to {folder} ({error}). Free some of its disk, or set INFOPROMPT_CACHE "
                "to a folder elsewhere."
            ) from error
        return MappedRows(Path(file.name), make)


def chosen(rows: Sequence[T], places: Sequence[int] | np.ndarray) -> Sequence[T]:
    """The rows at these places, in this order."""
    return rows.take(places) if isinstance(rows, MappedRows) else [rows[place] for place in places]


def changed(rows: Sequence[T], change: Callable[[T], T]) -> Sequence[T]:
    """Each row as the change makes it."""
    return rows.changed(change) if isinstance(rows, MappedRows) else [change(row) for row in rows]
