"""Rows of CSV and TSV files.

A .csv file follows RFC 4180, with quotes; its delimiter is found from its first lines where it is not given. A .tsv
file is as GLUE's archives are written: quotes mean nothing, and a cell holds no tab.
"""

import csv
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from infoprompt.config import ConfigError
from infoprompt.data.blanks import BlankLines
from infoprompt.data.opening import lost_bytes
from infoprompt.data.problems import RowError

DELIMITERS = (",", ";", "\t", "|")
_SAMPLE_LINES = 20
_NAMES = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}

# The standard library refuses a cell of more than 131,072 characters, which a document may have. The limit is one of
# the whole process, and nobody needs the lower one.
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))

Numbered = tuple[str, Mapping[str, Any] | RowError]


def csv_rows(
    stream: IO[str], path: str, delimiter: str | None, encoding: str | None, tell: Callable[[str], None]
) -> Iterator[Numbered]:
    """Rows of a CSV file, each with what an error calls it; a faulty row is its error.

    Args:
        stream: opened with line ends as they are.
        path: what an error calls the file.
        delimiter: found from the first lines if not given.
        encoding: as `data.encoding`, for errors.
        tell: takes a line for people.
    Raises:
        ConfigError: the header cannot be used.
    """
    lines = _Lines(stream)
    if delimiter is None:
        delimiter = lines.delimiter()
        if delimiter != ",":
            tell(f"{path} is read with the delimiter {_NAMES.get(delimiter, delimiter)}; data.delimiter sets another.")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header = _csv_header(reader, path, encoding)
    blank = BlankLines(path, tell)
    number = 0
    while True:
        first_line = reader.line_num + 1
        lines.seen.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            number += 1
            where = f"row {number} of {path}"
            yield where, _misquoted(where, first_line, error)
            continue
        if not cells:
            blank.add(first_line)
            continue
        blank.row_follows()
        number += 1
        where = f"row {number} of {path}"
        lost = next((lost for line in lines.seen if (lost := lost_bytes(line, where, encoding))), None)
        if lost is not None:
            yield where, lost
        elif len(cells) != len(header):
            yield where, _uneven(where, len(cells), len(header), delimiter)
        else:
            yield where, dict(zip(header, cells, strict=True))


class _Lines:
    """Lines for `csv.reader`; keeps those of the row being read, and reads ahead to find the delimiter."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._ahead: list[str] = []
        self.seen: list[str] = []
        """Lines, since it was last cleared, that are not plain ASCII."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._ahead.pop(0) if self._ahead else next(self._stream)
        if not line.isascii():
            self.seen.append(line)
        return line

    def delimiter(self) -> str:
        """The delimiter that parts the header and as many of the next lines as possible into as many cells."""
        for line in self._stream:
            self._ahead.append(line)
            if len(self._ahead) >= _SAMPLE_LINES:
                break
        if self._ahead and (named := re.fullmatch(r"\ufeff?sep=(.)\s*", self._ahead[0])):  # as Excel has it
            self._ahead.pop(0)
            return named[1]
        return found_delimiter(self._ahead)


def found_delimiter(lines: Sequence[str]) -> str:
    """The delimiter of a file that begins with these lines; a comma where none parts the header."""
    agreeing = {}
    for delimiter in DELIMITERS:
        try:
            counts = [len(cells) for cells in csv.reader(lines, delimiter=delimiter) if cells]
        except csv.Error:
            continue
        if counts and counts[0] > 1:
            agreeing[delimiter] = Counter(counts)[counts[0]] / len(counts)
    return max(agreeing, key=lambda delimiter: agreeing[delimiter]) if agreeing else ","


def _csv_header(reader: Any, path: str, encoding: str | None) -> list[str]:
    try:
        cells: list[str] = next((cells for cells in reader if cells), [])
    except csv.Error as error:
        raise _misquoted(f"the header of {path}", 1, error) from None
    return header_of(cells, path, encoding)


def header_of(cells: Sequence[str], path: str, encoding: str | None) -> list[str]:
    """Names of the columns; one without a name is called by its place.

    Raises:
        ConfigError: two columns have the same name, or a name cannot be decoded.
    """
    if lost := lost_bytes("".join(cells), f"the header of {path}", encoding):
        raise lost
    # pandas' index has no name, and spreadsheets add columns without one at the end.
    names = [name if name.strip() or place == 1 else f"column {place}" for place, name in enumerate(cells, 1)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ConfigError(
            f"{path} has the column {twice[0]} {names.count(twice[0])} times, so it is not known which one is meant. "
            "Rename or remove the others."
        )
    return names


def _misquoted(where: str, line: int, error: csv.Error) -> RowError:
    if "unexpected end of data" in str(error):
        text = f"{where} (line {line}) opens a quote that is never closed. Close it, or double the quotes in its text."
        return RowError(where, "a quote that is never closed", text)
    return RowError(
        where,
        "quotes that do not fit",
        f"{where} (line {line}) cannot be read: {error}. Put a text that holds quotes in quotes, and double them.",
    )


def _uneven(where: str, num_cells: int, num_columns: int, delimiter: str) -> RowError:
    return RowError(
        where,
        "not as many cells as the header",
        f"{where} has not as many cells as the header: {num_cells} instead of {num_columns}. Put texts that hold a "
        f"{_NAMES.get(delimiter, delimiter)} or a quote in quotes.",
    )


def tsv_rows(stream: IO[str], path: str, encoding: str | None, tell: Callable[[str], None]) -> Iterator[Numbered]:
    """Rows of a TSV file; arguments as for `csv_rows`."""
    header: list[str] | None = None
    blank = BlankLines(path, tell)
    number = 0
    for line_number, line in enumerate(stream, 1):
        text = line.rstrip("\r\n")
        cells = text.split("\t")
        if header is None:
            header = header_of(cells, path, encoding) if text.strip() else None
            continue
        if not text:
            blank.add(line_number)
            continue
        blank.row_follows()
        number += 1
        where = f"row {number} of {path}"
        if lost := lost_bytes(text, where, encoding):
            yield where, lost
        elif len(cells) != len(header):
            text = f"{where} has {len(cells)} cells, but the header has {len(header)}. Correct the row."
            yield where, RowError(where, "not as many cells as the header", text)
        else:
            yield where, dict(zip(header, cells, strict=True))
