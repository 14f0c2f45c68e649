"""Rows of JSON lines, and of a JSON list."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from infoprompt.config import ConfigError
from infoprompt.data.blanks import BlankLines
from infoprompt.data.opening import lost_bytes
from infoprompt.data.problems import RowError, shown

Numbered = tuple[str, Mapping[str, Any] | RowError]


class _Doubled(dict[str, Any]):
    """An object that has a key twice."""

    key: str


def json_line_rows(stream: IO[str], path: str, encoding: str | None, tell: Callable[[str], None]) -> Iterator[Numbered]:
    """A row of each line, with what an error calls it; a faulty line is its error. Arguments as for `csv_rows`."""
    blank = BlankLines(path, tell)
    for number, line in enumerate(stream, 1):
        if not line.strip():
            blank.add(number)
            continue
        blank.row_follows()
        where = f"line {number} of {path}"
        yield where, lost_bytes(line, where, encoding) or row_of_line(line, where)


def json_list_rows(stream: IO[str], path: str, encoding: str | None, tell: Callable[[str], None]) -> Iterator[Numbered]:
    """Rows of a JSON list, or of JSON lines in a file named so.

    Raises:
        ConfigError: it is neither.
    """
    first = stream.readline()
    skipped = 0
    while first and not first.strip():
        first = stream.readline()
        skipped += 1
    if not first.lstrip().startswith("["):  # JSON lines are often named .json
        lines: Any = _from(first, stream, skipped)
        yield from json_line_rows(lines, path, encoding, tell)
        return
    text = first + stream.read()
    if lost := lost_bytes(text, path, encoding):
        raise lost
    for number, value in enumerate(_parsed_list(text, path), 1):
        where = f"row {number} of {path}"
        yield where, _row(value, where)


def row_of_line(line: str, where: str) -> Mapping[str, Any] | RowError:
    """The object that a line holds, or what is wrong with it."""
    try:
        return _row(_parsed(line), where)
    except (ValueError, RecursionError) as error:
        return RowError(
            where,
            "not valid JSON",
            f"{where} is not valid JSON: {_reason(error)}. A .jsonl file holds one object a line, a .json file a list "
            "of them.",
        )


def _parsed(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_object)


def _parsed_list(text: str, path: str) -> list[Any]:
    try:
        values = _parsed(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not valid JSON: {_reason(error)}. A .jsonl file holds one object a line, a .json file a list "
            "of them."
        ) from None
    assert isinstance(values, list)
    return values


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "its lists or objects are nested too deep"
    # The interpreter reads no number of more than 4,300 digits, and its advice is for programmers.
    return "a number has too many digits" if "integer string conversion" in str(error) else str(error)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    inner = next((value for value in made.values() if isinstance(value, _Doubled)), None)
    if len(made) == len(pairs) and inner is None:
        return made
    doubled = _Doubled(made)
    keys = [key for key, _ in pairs]
    doubled.key = inner.key if inner is not None else next(key for key in keys if keys.count(key) > 1)
    return doubled


def _row(value: Any, where: str) -> Mapping[str, Any] | RowError:
    if isinstance(value, _Doubled):
        return RowError(
            where,
            "a key given twice",
            f"{where} has the key {shown(value.key)} twice, so it is not known which value is meant. Remove one.",
        )
    if not isinstance(value, dict):
        return RowError(
            where,
            "no object",
            f'{where} holds a {type(value).__name__}, but must hold an object such as {{"text": ..., "label": ...}}.',
        )
    return value


def _from(first: str, stream: IO[str], skipped: int) -> Iterator[str]:
    yield from [""] * skipped
    if first:
        yield first
    yield from stream
