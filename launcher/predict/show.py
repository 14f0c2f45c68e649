"""How `infoprompt predict` shows a prediction: a line, a JSON object, or a row of a table."""

import csv
import json
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from infoprompt.config import ConfigError
from launcher.predict.choose import Asked
from launcher.predict.inputs import as_row

if TYPE_CHECKING:
    from infoprompt.artifact import Prediction

# What some reader takes for the end of a line, or of a cell.
_BREAKS = re.compile("[\t\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def as_json(asked: Asked, prediction: "Prediction | None") -> str:
    """One JSON object on one line.

    `label`, `probabilities` (or `tags`, or `value`), the texts that were read, then all other columns of the row. One
    that has the name of a field before it is called `given_...`. Where nothing was predicted, `label` is null and
    `error` says why.

    Args:
        asked: what was read.
        prediction: what was predicted; None where it could not be read.
    """
    shown: dict[str, Any] = {} if asked.name is None else {"prompt": asked.name}
    shown["label"] = None if prediction is None else prediction.label
    if prediction is None:
        shown["error"] = str(asked.problem)
    elif prediction.tags is not None:
        shown["tags"] = list(prediction.tags)
    elif prediction.value is not None:
        shown["value"] = prediction.value
    else:
        shown["probabilities"] = prediction.probabilities
    example, row = asked.example, _row(asked)
    if example is None:
        shown |= {} if row is not None else {"text": asked.given}
    else:
        shown["text"] = example.text
        if example.pair is not None:
            shown["pair"] = example.pair
        if example.words is not None:
            shown["words"] = list(example.words)
        if example.choices is not None:
            shown["choices"] = list(example.choices)
    hidden = {*asked.shown, asked.route}
    return _dumped(_beside(shown, {name: value for name, value in (row or {}).items() if name not in hidden}))


def as_line(asked: Asked, prediction: "Prediction | None", top: int) -> str:
    """Labels with their probabilities, the most probable first, then the texts; with tabs between them.

    A tab or line break in a text is written as \\t, \\n or its code. Where nothing was predicted, label and probability
    are empty.

    Args:
        asked: what was read.
        prediction: what was predicted; None where it could not be read.
        top: labels shown.
    """
    first = [] if asked.name is None else [asked.name]
    example = asked.example
    if prediction is None or example is None:
        return "\t".join([*first, "", "", on_one_line(_plain(asked))])
    ranked = sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:top]
    labels = [cell for label, value in ranked for cell in (label, f"{value:.3f}")] or [prediction.label]
    pair = [] if example.pair is None else [example.pair]
    return "\t".join(map(on_one_line, [*first, *labels, example.text, *pair, *(example.choices or ())]))


class Table:
    """Answers as rows of a .csv or .tsv file: `label` and `probability`, then the columns of the input as they are."""

    def __init__(self, stream: Any, kind: str, top: int) -> None:
        self._stream = stream
        self._tabs = kind == "tsv"
        self._writer = csv.writer(stream, lineterminator="\n")
        self._top = top
        self._columns: list[str] = []

    def write(self, asked: Asked, prediction: "Prediction | None") -> None:
        """Write a row, and the header before the first.

        Raises:
            ConfigError: a row has a column that the first one has not.
        """
        row = _row(asked)
        given = {"text": asked.given} if row is None else {name: row[name] for name in row if name != asked.route}
        cells = _beside(self._answer(asked, prediction), given)
        if not self._columns:
            self._columns = list(cells)
            self._put(self._columns)
        if asked.problem is None and (others := [name for name in cells if name not in self._columns]):
            raise ConfigError(
                f"The row {_dumped(row)[:200]} has the column {others[0]}, which the first row has not. A table has "
                "the same columns in every row: give --out a .jsonl file."
            )
        self._put([_cell(cells.get(name)) for name in self._columns])

    def _answer(self, asked: Asked, prediction: "Prediction | None") -> dict[str, Any]:
        cells: dict[str, Any] = {} if asked.name is None else {"prompt": asked.name}
        cells["label"] = None if prediction is None else prediction.label
        probabilities = {} if prediction is None else prediction.probabilities
        if prediction is not None and not probabilities:
            return cells
        ranked = sorted(probabilities.items(), key=lambda item: -item[1])[: self._top]
        cells["probability"] = f"{ranked[0][1]:.6g}" if ranked else None
        for place in range(2, self._top + 1):
            label, value = ranked[place - 1] if place <= len(ranked) else (None, None)
            cells[f"label_{place}"] = label
            cells[f"probability_{place}"] = None if value is None else f"{value:.6g}"
        return cells

    def _put(self, cells: list[str]) -> None:
        if self._tabs:
            self._stream.write("\t".join(map(on_one_line, cells)) + "\n")
        else:
            self._writer.writerow(cells)


def on_one_line(text: str) -> str:
    """The text with tabs and all that may end a line written as \\t, \\n or their codes."""
    return _BREAKS.sub(lambda found: _SHORT.get(found.group(), f"\\u{ord(found.group()):04x}"), text)


def _row(asked: Asked) -> Mapping[str, Any] | None:
    try:
        return as_row(asked.given)
    except ConfigError:
        return None


def _plain(asked: Asked) -> str:
    return asked.given if isinstance(asked.given, str) else _dumped(dict(asked.given))


def _beside(answer: dict[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
    """The answer's fields, then the columns; one of the same name is called `given_...`."""
    beside = dict(answer)
    for name, value in columns.items():
        free = str(name)
        while free in beside:
            free = f"given_{free}"
        beside[free] = value
    return beside


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else _dumped(value)


def _dumped(value: Any) -> str:
    """JSON on one line for every reader; what JSON does not know as text."""
    text = json.dumps(_finite(value), ensure_ascii=False, default=str)
    text = re.sub("[\x85\u2028\u2029\ud800-\udfff]", lambda found: f"\\u{ord(found.group()):04x}", text)
    return text


def _finite(value: Any) -> Any:
    """NaN and infinity, which JSON has not, as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value
