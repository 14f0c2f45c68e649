"""One row of labelled data, and how it is made from a row of any file."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from infoprompt.config import ConfigError
from infoprompt.data.sources import read_rows


@dataclass(frozen=True)
class Span:
    """Part of a text, in characters."""

    start: int
    end: int
    """Exclusive."""


@dataclass(frozen=True)
class Candidate:
    """One of the answers that a question may have. Each is a row, and the best scored one is the answer given."""

    question: str
    """What the candidates of one question share, and no other row."""
    text: str
    right: tuple[str, ...]
    """All right answers to the question."""


Kind = Literal["single", "pair", "relation", "span", "tags", "choice", "answer", "regression"]


@dataclass(frozen=True)
class Example:
    """A text, a pair of texts, a text with marked entities, words to tag, or a text with answers to choose from."""

    text: str
    pair: str | None = None
    """The second text of a pair."""
    head: Span | None = None
    """First marked entity of a relation, in `text`."""
    tail: Span | None = None
    """Second marked entity of a relation, in `text`."""
    span: Span | None = None
    """The one marked entity that is to be classified, in `text`."""
    words: tuple[str, ...] | None = None
    """The words to tag; `text` is these with blanks between them."""
    tags: tuple[str, ...] | None = None
    """Class of each word; None when unlabelled."""
    choices: tuple[str, ...] | None = None
    """The answers to choose from."""
    candidate: Candidate | None = None
    """The answer that stands in the text or the pair, and what it is scored by; None when unlabelled."""
    label: str | None = None
    """Class, or of a choice `choice1`, `choice2` ...; None when unlabelled."""
    value: float | None = None
    """Target of a regression."""

    @property
    def kind(self) -> Kind:
        """What kind of task the example belongs to; an unlabelled regression or answer is `single` or `pair`."""
        parts: dict[Kind, object] = {
            "regression": self.value,
            "tags": self.words,
            "choice": self.choices,
            "answer": self.candidate,
            "span": self.span,
            "relation": self.head,
            "pair": self.pair,
        }
        return next((kind for kind, given in parts.items() if given is not None), "single")

    @property
    def given_labels(self) -> tuple[str, ...]:
        """The example's class, or its words' tags; none where it has no label."""
        if self.words is not None:
            return self.tags or ()
        return () if self.label is None else (self.label,)

    def unlabelled(self) -> "Example":
        """The same example without what is to be predicted."""
        return replace(self, label=None, tags=None, value=None, candidate=None)


# Our columns, each with the names that are found without being told.
COLUMNS: dict[str, tuple[str, ...]] = {
    "text": ("text", "text_a"),
    "pair": ("pair", "text_b"),
    "head": ("head",),
    "tail": ("tail",),
    "span": ("span",),
    "head_start": ("head_start",),
    "head_end": ("head_end",),
    "tail_start": ("tail_start",),
    "tail_end": ("tail_end",),
    "span_start": ("span_start",),
    "span_end": ("span_end",),
    "words": ("words", "tokens"),
    "tags": ("tags",),
    "choices": ("choices",),
    "candidate": ("candidate",),
    "label": ("label",),
    "value": ("value",),
}


def read_examples(
    source: str,
    columns: Mapping[str, str],
    labelled: bool = True,
    adapt: Callable[[Mapping[str, Any]], Iterable[Mapping[str, Any]]] | None = None,
) -> list[Example]:
    """Read every row of a file or hub split.

    Args:
        source: see `sources.read_rows`.
        columns: our column to the file's, where they differ; `text_a` and `text_b` may stand for `text` and `pair`.
        labelled: whether each row must have a label; if not, labels are not read.
        adapt: what makes our rows of a row of the file, see `forms.adapter`; a row is taken as it is if not given.
    Raises:
        ConfigError: with the row, when anything is missing, empty or out of range.
    """
    columns = check_columns(columns)
    examples = [
        example_from_mapping(part, columns, labelled, where)
        for where, row in read_rows(source)
        for part in (adapt(row) if adapt else (row,))
    ]
    if not examples:
        raise ConfigError(f"{source} has no rows. Give a file or split with at least one.")
    return examples


def check_columns(columns: Mapping[str, str]) -> dict[str, str]:
    """`data.columns` under our own names; raises ConfigError for a column we do not have."""
    ours = {alias: name for name, aliases in COLUMNS.items() for alias in aliases}
    for column in columns:
        if column not in ours:
            near = difflib.get_close_matches(column, ours, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Ours are {', '.join(ours)}."
            raise ConfigError(f"data.columns names {column}, which is no column of ours. {hint}")
    return {ours[column]: given for column, given in columns.items()}


def example_from_mapping(row: Mapping[str, Any], columns: Mapping[str, str], labelled: bool, where: str) -> Example:
    """Make an example of one row.

    Args:
        row: column to value; entities are objects with `start` and `end`, or numbers in the columns `head_start`,
            `head_end`, `tail_start` and `tail_end` (or `span_start` and `span_end`); words, tags and choices are lists;
            a candidate is an object with `question`, `text` and `answers`, and its label (`true` or `false`) follows.
        columns: as for `read_examples`.
        labelled: as for `read_examples`.
        where: what an error calls the row.
    Raises:
        ConfigError: see `read_examples`.
    """
    named = _ours(row, check_columns(columns), where)
    if "words" in named and "text" not in named:
        return _tagged(named, labelled, row, where)
    if "text" not in named:
        raise _missing("text", row, where)
    text = _text(named["text"], "text", where)
    head, tail, span = (_span(named, side, text, where) for side in ("head", "tail", "span"))
    if (head is None) != (tail is None):
        marked, unmarked = ("tail", "head") if head is None else ("head", "tail")
        raise ConfigError(f"{where} marks a {marked} but no {unmarked}. A relation needs both, other tasks neither.")
    value = _value(named["value"], where) if labelled and "value" in named else None
    candidate = _candidate(named.get("candidate"), where) if labelled else None
    label = None
    if candidate is not None:
        label = "true" if candidate.text in candidate.right else "false"
    elif labelled and value is None:
        if "label" not in named:
            raise _missing("label", row, where)
        label = _label(named["label"], where)
    choices = _strings(named["choices"], "choices", where) if "choices" in named else None
    if choices is not None and label is not None:
        label = _choice(label, choices, where)
    return Example(
        text=text,
        pair=_text(named["pair"], "pair", where) if "pair" in named else None,
        head=head,
        tail=tail,
        span=span,
        choices=choices,
        candidate=candidate,
        label=label,
        value=value,
    )


def _tagged(named: Mapping[str, Any], labelled: bool, row: Mapping[str, Any], where: str) -> Example:
    words = _strings(named["words"], "words", where)
    if labelled and "tags" not in named:
        raise _missing("tags", row, where)
    tags = _strings(named["tags"], "tags", where) if labelled else None
    if tags is not None and len(tags) != len(words):
        raise ConfigError(f"{where} has {len(words)} words but {len(tags)} tags. Give one tag for each word.")
    return Example(text=" ".join(words), words=words, tags=tags)


def _strings(value: Any, name: str, where: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise ConfigError(f"The {name} of {where} is {value!r}, but must be a list of at least one string.")
    return tuple(_text(item, f"{name} item {number}", where) for number, item in enumerate(value, 1))


def _choice(label: str, choices: Sequence[str], where: str) -> str:
    """`choice1` and so on, of that itself, of a choice's words, or of its number counted from 0."""
    places = [f"choice{number}" for number in range(1, len(choices) + 1)]
    if label in places:
        return label
    if label in choices:
        return places[choices.index(label)]
    if label.isdecimal() and int(label) < len(choices):
        return places[int(label)]
    raise ConfigError(
        f"The label of {where} is {label!r}, but must be one of {', '.join(places)}, the words of a choice, or its "
        "number counted from 0."
    )


def _candidate(value: Any, where: str) -> Candidate | None:
    if not isinstance(value, Mapping):
        return None
    return Candidate(
        _text(value.get("question"), "candidate's question", where),
        _text(value.get("text"), "candidate's text", where),
        _strings(value.get("answers"), "candidate's answers", where),
    )


def _value(value: Any, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"The value of {where} is {value!r}, but must be a number. Correct the row or remove it.")
    return number


def _ours(row: Mapping[str, Any], columns: Mapping[str, str], where: str) -> dict[str, Any]:
    named = {}
    for name, aliases in COLUMNS.items():
        if name in columns:
            # What is to be predicted may be mapped and yet absent where none is asked for.
            if columns[name] in row:
                named[name] = row[columns[name]]
            elif name not in ("label", "tags", "value", "candidate"):
                raise ConfigError(
                    f"data.columns.{name} is {columns[name]}, but {where} has no such column. It has: {', '.join(row)}."
                )
        elif found := next((alias for alias in aliases if alias in row), None):
            named[name] = row[found]
    return named


def _missing(name: str, row: Mapping[str, Any], where: str) -> ConfigError:
    return ConfigError(
        f"{where} has no column {name}. It has: {', '.join(row)}. "
        f"Say which one it is by data.columns, such as data.columns='{{{name}: {next(iter(row), 'column')}}}'."
    )


def _text(value: Any, name: str, where: str) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ConfigError(f"The {name} of {where} is {value!r}, but must be a string. Correct the row or remove it.")
    if not value.strip():
        raise ConfigError(f"The {name} of {where} is empty. Remove the row, or give it a text.")
    return value


def _label(value: Any, where: str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():  # a column of whole numbers that once had gaps
        value = int(value)
    if isinstance(value, int):
        return str(value)
    if value is None or _is_nan(value) or (isinstance(value, str) and not value.strip()):
        raise ConfigError(
            f"The label of {where} is empty. Remove the row, or give a labelled part (the labels of many public test "
            "splits are kept private; use their validation split)."
        )
    if not isinstance(value, str):
        raise ConfigError(
            f"The label of {where} is {value!r}, but must be a class: a string, a whole number or a bool."
        )
    return value


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _span(named: Mapping[str, Any], side: str, text: str, where: str) -> Span | None:
    entity = named.get(side)
    if isinstance(entity, Mapping):
        start, end, words = entity.get("start"), entity.get("end"), entity.get("text")
    elif f"{side}_start" in named and f"{side}_end" in named:
        start, end, words = named[f"{side}_start"], named[f"{side}_end"], entity
    else:
        return None
    span = Span(_offset(start, f"{side} start", where), _offset(end, f"{side} end", where))
    if not 0 <= span.start < span.end <= len(text):
        raise ConfigError(
            f"The {side} of {where} runs from {span.start} to {span.end}, but its text has the characters 0 to "
            f"{len(text)}. Offsets count characters, and the end is exclusive."
        )
    if isinstance(words, str) and words != text[span.start : span.end]:
        raise ConfigError(
            f"The {side} of {where} is {words!r}, but its offsets point at {text[span.start : span.end]!r}. "
            "Offsets count characters (not bytes or tokens), and the end is exclusive."
        )
    return span


def _offset(value: Any, name: str, where: str) -> int:
    if isinstance(value, bool) or not (
        isinstance(value, int) or (isinstance(value, str) and value.strip().isdecimal())
    ):
        raise ConfigError(f"The {name} of {where} is {value!r}, but must be a whole number of characters.")
    return int(value)
