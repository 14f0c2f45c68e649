"""What `infoprompt predict` reads: texts on the command line, a file, or standard input."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

from infoprompt.config import DATA_SUFFIXES, ConfigError, is_data_file
from infoprompt.data.cells import as_text
from infoprompt.data.columns import ColumnNames
from infoprompt.data.json_rows import row_of_line
from infoprompt.data.opening import lost_bytes, open_file, text_stream
from infoprompt.data.places import existing_file, files_of
from infoprompt.data.problems import RowError
from infoprompt.data.rows import Adapter, Example, Span, adapted, example_of
from infoprompt.data.sources import FOUND_OUT, Dialect, log, read_rows

Given = str | Mapping[str, Any]
"""A line, or a row of a file."""

STANDARD_INPUT = "-"
BLANK = "a blank line"
"""Kind of the error of a line without a text."""

# `<e1>fire</e1>`, as SemEval-2010 Task 8 marks its entities; `<e>fire</e>` where there is one
_MARKERS = re.compile(r"</?e[12]?>")


def read_given(
    texts: Sequence[str],
    file: str | None,
    stdin: TextIO,
    dialect: Dialect = FOUND_OUT,
    tell: Callable[[str], None] = log.warning,
) -> Iterator[tuple[str, Given | RowError]]:
    """Lines and rows as they come from the first of these that is given: texts, a file, standard input.

    A data file is read as training reads it. Anything else holds a text a line: lines end at \\n or \\r\\n alone, and a
    line that is a JSON object is a row.

    Args:
        texts: from the command line.
        file: its path; `-` for standard input.
        stdin: standard input.
        dialect: encoding and delimiter, where they are given.
        tell: takes a line for people.
    Returns:
        Each with what an error calls it; what cannot be decoded or parsed as its error.
    Raises:
        ConfigError: there is no input, or it is damaged as a whole.
    """
    if not texts and file is None and stdin.isatty():
        raise ConfigError("There is nothing to predict. Give texts, --file, or lines on standard input.")
    if texts:
        return iter([(f"text {number}", text) for number, text in enumerate(texts, 1)])
    if file is None or file == STANDARD_INPUT:
        return _some(_lines_of_stdin(stdin, dialect.encoding))
    if has_rows(file):
        return _some(read_rows(file, dialect, tell))
    return _some(_lines_of_file(Path(file).expanduser(), dialect.encoding))


def has_rows(file: str) -> bool:
    """Whether a file is read by rows, as training reads it; else by lines. A folder and a pattern are read by rows."""
    if os.path.isfile(file):
        return file.lower().endswith(DATA_SUFFIXES)
    return is_data_file(file)


def check_file(file: str | None) -> None:
    """Raise ConfigError where a file to read does not exist, before anything is loaded."""
    if file in (None, STANDARD_INPUT):
        return
    assert file is not None
    if has_rows(file):
        for path in files_of(file) or ():
            existing_file(path)
    elif not os.path.exists(Path(file).expanduser()):
        existing_file(Path(file).expanduser().absolute())


def _some(items: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    num_items = 0
    for num_items, item in enumerate(items, 1):  # noqa: B007
        yield item
    if not num_items:
        raise ConfigError("There is nothing to predict: the input has no lines.")


def _lines_of_stdin(stdin: TextIO, encoding: str | None) -> Iterator[tuple[str, str | RowError]]:
    binary = _binary(stdin)
    stream: IO[str] = stdin if binary is None else text_stream(binary, encoding, "lf")
    with _decoded("standard input"):
        for number, line in enumerate(stream, 1):
            yield _line(line.removeprefix("\ufeff") if number == 1 else line, f"line {number}", encoding)


def _binary(stdin: TextIO) -> Any:
    """Standard input as bytes; None where a test gives a text instead."""
    try:
        # A reader of our own, for the interpreter cannot end while a thread waits in that of `sys.stdin`.
        return open(stdin.fileno(), "rb", closefd=False)
    except (OSError, ValueError, AttributeError):
        return getattr(stdin, "buffer", None)


def _lines_of_file(path: Path, encoding: str | None) -> Iterator[tuple[str, str | RowError]]:
    with _decoded(str(path)), open_file(path, encoding, "lf") as stream:
        for number, line in enumerate(stream, 1):
            yield _line(line, f"line {number} of {path}", encoding)


def _line(line: str, where: str, encoding: str | None) -> tuple[str, str | RowError]:
    return where, lost_bytes(line, where, encoding) or line.removesuffix("\n").removesuffix("\r")


@contextmanager
def _decoded(name: str) -> Iterator[None]:
    try:
        yield
    except UnicodeError as error:
        raise ConfigError(f"{name} cannot be read as text: {error}. Name its encoding by --encoding.") from error
    except EOFError as error:
        raise ConfigError(f"{name} cannot be read, it may be cut short: {error}. Copy or make it again.") from error


def as_row(given: Given) -> Mapping[str, Any] | None:
    """A row as it is, that of a line that is a JSON object; None for a plain line."""
    if not isinstance(given, str):
        return given
    if not given.lstrip().startswith("{"):
        return None
    row = row_of_line(given, "")
    if not isinstance(row, RowError):
        return row
    if row.kind == "not valid JSON":
        return None  # a text that begins with a brace
    raise row


def parse_given(
    given: Given, kind: str, columns: ColumnNames, where: str, adapt: Adapter | None = None
) -> list[Example]:
    """Examples of a row, of a plain line, or of a JSON object in the shape of a row.

    Args:
        given: what was read.
        kind: of the artifact's task, see `parse_line`.
        columns: which column is which of ours.
        where: what an error calls it.
        adapt: what makes our rows of a published row of the task, see `forms.adapter`.
    Raises:
        RowError: it is not of the artifact's kind.
    """
    try:
        row = as_row(given)
    except RowError as error:
        raise RowError(where, error.kind, f"{where}{error}") from None
    if row is None:
        return [parse_line(str(given), kind, where)]
    return [example_of(part, columns, labelled=False, where=where) for part in adapted(row, adapt, where)]


def parse_line(line: str, kind: str, where: str) -> Example:
    """The example that a plain line holds.

    It has a tab between the texts of a `pair`, and between the text and each answer of a `choice`. It marks the
    entities of a `relation` by <e1>..</e1> and <e2>..</e2>, the `span` by <e>..</e>. Blanks part the words of `tags`.
    A `regression` reads a text, or a pair where there is a tab.
    """
    if not line.strip():
        raise RowError(where, BLANK, f"The {where} is empty. Give it a text, or take it out.")
    as_text(line, "text", where)
    if kind in ("relation", "span"):
        return _marked(line, kind, where)
    if kind == "tags":
        words = tuple(line.split())
        return Example(text=" ".join(words), words=words, where=where)
    texts = line.split("\t", 1 if kind in ("pair", "answer", "regression") else -1)
    if kind in ("choice", "pair") or (kind in ("answer", "regression") and len(texts) > 1):
        return _tabbed(texts, kind, where)
    return Example(text=line, where=where)


def _tabbed(texts: Sequence[str], kind: str, where: str) -> Example:
    needed = 3 if kind == "choice" else 2
    if len(texts) < needed or not all(text.strip() for text in texts):
        form = (
            'choices: a text and its answers with tabs between them, or JSON as {"text": "...", "choices": [...]}'
            if kind == "choice"
            else 'pairs: two texts with a tab between them, or JSON as {"text_a": "...", "text_b": "..."}'
        )
        raise _unlike(where, chr(9).join(texts), f"{form}.")
    if kind == "choice":
        return Example(text=texts[0], choices=tuple(texts[1:]), where=where)
    return Example(text=texts[0], pair=texts[1], where=where)


def _marked(line: str, kind: str, where: str) -> Example:
    """The text without its markers, and where the entities were."""
    places: dict[str, int] = {}
    text, position = "", 0
    for marker in _MARKERS.finditer(line):
        text += line[position : marker.start()]
        position = marker.end()
        places[marker.group()] = len(text)
    text += line[position:]
    names = ("e1", "e2") if kind == "relation" else ("e",)
    spans = [(places.get(f"<{name}>"), places.get(f"</{name}>")) for name in names]
    found = [Span(start, end) for start, end in spans if start is not None and end is not None and start < end]
    if len(found) != len(names):
        form = (
            'relations: mark the two entities, as in "The <e1>fire</e1> was caused by a <e2>cable</e2>."'
            if kind == "relation"
            else 'spans: mark the span, as in "The <e>fire</e> is out."'
        )
        raise _unlike(where, line, form)
    if kind == "span":
        return Example(text=text, span=found[0], where=where)
    return Example(text=text, head=found[0], tail=found[1], where=where)


def _unlike(where: str, line: str, form: str) -> RowError:
    shown = line if len(line) <= 60 else f"{line[:57]}..."
    return RowError(where, "not what this prompt reads", f"The {where} is {shown!r}, but this prompt reads {form}")
