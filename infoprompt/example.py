"""An input of a task's kind, as the command line and as Python take it: `train` prints it, the model card shows it."""

import shlex
from collections.abc import Mapping
from typing import Any

from infoprompt.data.task import Task
from infoprompt.mlmodel import example_row


def example_argument(task: Task) -> str:
    """A text for `infoprompt predict`, quoted for a shell."""
    line = example_line(task)
    if "\t" not in line:
        return shlex.quote(line)
    # a tab typed in a terminal asks for completion
    return f'"$(printf {shlex.quote(line.replace("%", "%%").replace(chr(9), chr(92) + "t"))})"'


def example_line(task: Task) -> str:
    """The same as a line of a file: tabs between texts, markers around entities."""
    row = example_row(task)
    if task.kind == "tags":
        return " ".join(row["words"])
    if task.kind == "choice":
        return "\t".join([row["text"], *row["choices"]])
    markers = {"head": "e1", "tail": "e2", "span": "e"}
    text = str(row["text"])
    for part in ("tail", "head", "span"):  # from the last one, so that the places before it stay
        if f"{part}_start" in row:
            start, end, mark = row[f"{part}_start"], row[f"{part}_end"], markers[part]
            text = f"{text[:start]}<{mark}>{text[start:end]}</{mark}>{text[end:]}"
    return f"{text}\t{row['pair']}" if "pair" in row else text


def example_code(task: Task) -> str:
    """Python that loads an artifact from "this folder" and predicts."""
    given = _constructor(task, example_row(task))
    names = [name for name in ("Artifact", "Example", "Span") if name == "Artifact" or f"{name}(" in given]
    lines = [
        f"from infoprompt import {', '.join(names)}",
        "",
        'artifact = Artifact.from_pretrained("this folder")',
        f"print(artifact.predict([{given}]))",
    ]
    return "\n".join(lines)


def _constructor(task: Task, row: Mapping[str, Any]) -> str:
    if task.kind == "tags":
        return repr(" ".join(row["words"]))
    spans = [
        f"{part}=Span({row[f'{part}_start']}, {row[f'{part}_end']})"
        for part in ("head", "tail", "span")
        if f"{part}_start" in row
    ]
    more = [f"{name}={_plain(row[name])}" for name in ("pair", "choices") if name in row]
    text = repr(row["text"])
    return f"Example({', '.join([text, *spans, *more])})" if spans or more else text


def _plain(value: Any) -> str:
    return repr(tuple(value)) if isinstance(value, list) else repr(value)
