"""What `infoprompt predict` reads: texts on the command line, a file, or standard input."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from infoprompt.config import ConfigError, is_data_file

if TYPE_CHECKING:
    from infoprompt.data.rows import Example

Given = str | Mapping[str, Any]
"""A line, or a row of a file."""

STANDARD_INPUT = "-"
_TEXT_SUFFIXES = (".txt", ".tsv")

# `<e1>fire</e1>`, as SemEval-2010 Task 8 marks its entities; `<e>fire</e>` where there is one
_MARKERS = re.compile(r"</?e[12]?>")


def read_inputs(
    texts: Sequence[str], file: str | None, stdin: TextIO, kind: str, columns: Mapping[str, str]
) -> list["Example"]:
    """Examples from the first of these that is given: texts, a file (`-` for standard input), standard input.

    Args:
        texts: one example each.
        file: one example a line, or rows of a .jsonl, .csv or .parquet file.
        stdin: one example a line; a line may be a JSON object.
        kind: of the artifact's task, see `parse_line`.
        columns: our column to the file's, where they differ.
    Raises:
        ConfigError: there is no input, or a line is not of the artifact's kind.
        FileNotFoundError: there is no such file.
    """
    return [parse_line(given, kind, columns, where) for where, given in read_given(texts, file, stdin)]


def read_given(texts: Sequence[str], file: str | None, stdin: TextIO) -> list[tuple[str, Given]]:
    """Lines and rows as they stand in the input, each with what an error calls it; arguments as for `read_inputs`."""
    from infoprompt.data.sources import read_rows

    if not texts and file is None and stdin.isatty():
        raise ConfigError("There is nothing to predict. Give texts, --file, or lines on standard input.")
    given: list[tuple[str, Given]]
    if texts:
        given = [(f"text {number}", text) for number, text in enumerate(texts, 1)]
    elif file is None or file == STANDARD_INPUT:
        given = [(f"line {number}", line) for number, line in enumerate(stdin.read().splitlines(), 1)]
    elif is_data_file(file) and not file.endswith(_TEXT_SUFFIXES) and Path(file).suffix:
        given = [*read_rows(file)]
    else:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
        given = [(f"line {number} of {file}", line) for number, line in enumerate(lines, 1)]
    if not given:
        raise ConfigError("There is nothing to predict: the input has no lines.")
    return given


def as_row(given: Given) -> Mapping[str, Any] | None:
    """A row as it is, that of a line that is a JSON object; None for a plain line."""
    return _json_object(given) if isinstance(given, str) else given


def parse_line(given: Given, kind: str, columns: Mapping[str, str], where: str) -> "Example":
    """One example of a row, of a plain line, or of a JSON object in the shape of a row.

    A plain line has a tab between the texts of a `pair`, and between the text and each answer of a `choice`. It marks
    the entities of a `relation` by <e1>..</e1> and <e2>..</e2>, the `span` by <e>..</e>. Blanks part the words of
    `tags`. A `regression` reads a text, or a pair where there is a tab.
    """
    from infoprompt.data.rows import Example, example_from_mapping

    row = as_row(given)
    if row is not None:
        return example_from_mapping(row, columns, labelled=False, where=where)
    line = str(given)
    if not line.strip():
        raise ConfigError(f"The {where} is empty. Give it a text, or take it out.")
    if kind in ("relation", "span"):
        return _marked(line, kind, where)
    if kind == "tags":
        words = tuple(line.split())
        return Example(text=" ".join(words), words=words)
    texts = line.split("\t", 1 if kind in ("pair", "answer", "regression") else -1)
    if kind in ("choice", "pair") or (kind in ("answer", "regression") and len(texts) > 1):
        return _tabbed(texts, kind, where)
    return Example(text=line)


def _tabbed(texts: Sequence[str], kind: str, where: str) -> "Example":
    from infoprompt.data.rows import Example

    needed = 3 if kind == "choice" else 2
    if len(texts) < needed or not all(text.strip() for text in texts):
        form = (
            'choices: a text and its answers with tabs between them, or JSON as {"text": "...", "choices": [...]}'
            if kind == "choice"
            else 'pairs: two texts with a tab between them, or JSON as {"text_a": "...", "text_b": "..."}'
        )
        raise ConfigError(f"The {where} is {_shortened(chr(9).join(texts))!r}, but this prompt reads {form}.")
    if kind == "choice":
        return Example(text=texts[0], choices=tuple(texts[1:]))
    return Example(text=texts[0], pair=texts[1])


def _marked(line: str, kind: str, where: str) -> "Example":
    """The text without its markers, and where the entities were."""
    from infoprompt.data.rows import Example, Span

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
        raise ConfigError(f"The {where} is {_shortened(line)!r}, but this prompt reads {form}")
    if kind == "span":
        return Example(text=text, span=found[0])
    return Example(text=text, head=found[0], tail=found[1])


def _json_object(line: str) -> dict[str, Any] | None:
    if not line.lstrip().startswith("{"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None  # a text that begins with a brace
    return row if isinstance(row, dict) else None


def _shortened(line: str) -> str:
    return line if len(line) <= 60 else f"{line[:57]}..."
