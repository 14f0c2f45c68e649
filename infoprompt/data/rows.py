"""One row of labelled data, and how it is made from a row of any file."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from infoprompt.config import ConfigError
from infoprompt.data.cells import as_choice, as_label, as_number, as_place, as_text, as_texts
from infoprompt.data.columns import COLUMNS, ColumnNames
from infoprompt.data.mapped_rows import MappedRows, Record, collected
from infoprompt.data.places import RowSource, source_name
from infoprompt.data.problems import NO_COLUMN, Problems, RowError
from infoprompt.data.sources import FOUND_OUT, Dialect, Row, log, read_rows


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
    where: str = field(default="", compare=False, repr=False)
    """Where it was read, as `line 3 of /data/train.jsonl`; for errors."""

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


RECORD_COLUMNS = {"text": str, "pair": str, "label": str, "value": float, "rest": str, "where": str}
"""Of a file of `mapped_rows`; `rest` is JSON of the fields that few kinds of task have."""
_LABEL = list(RECORD_COLUMNS).index("label")
_REST = ("head", "tail", "span", "words", "tags", "choices", "candidate")


def as_record(example: Example) -> Record:
    """An example as texts and numbers."""
    rest = None
    if any(getattr(example, name) is not None for name in _REST):
        values = asdict(example)
        rest = json.dumps({name: values[name] for name in _REST if values[name] is not None})
    return example.text, example.pair, example.label, example.value, rest, example.where


def of_record(record: Record) -> Example:
    """The inverse of `as_record`."""
    text, pair, label, value, rest, where = record
    if rest is None:
        return Example(text, pair, label=label, value=value, where=where)
    made: dict[str, Any] = {}
    for name, given in json.loads(rest).items():
        if name in ("head", "tail", "span"):
            made[name] = Span(**given)
        elif name == "candidate":
            made[name] = Candidate(given["question"], given["text"], tuple(given["right"]))
        else:
            made[name] = tuple(given)
    return Example(text, pair, label=label, value=value, where=where, **made)


def collect_examples(examples: Iterable[Example]) -> Sequence[Example]:
    """The examples as a list, or many of them mapped; see `mapped_rows.collected`."""
    return collected(examples, as_record, of_record, RECORD_COLUMNS)


def labels_of(examples: Sequence[Example]) -> Iterator[str | None]:
    """The label of each example."""
    if isinstance(examples, MappedRows) and examples.as_written:
        return examples.column(_LABEL)
    return (example.label for example in examples)


Adapter = Callable[[Row], Iterable[Row]]
"""What makes our rows of a row of a file; see `forms.adapter`."""


def read_examples(
    source: RowSource,
    columns: Mapping[str, str],
    labelled: bool = True,
    adapt: Adapter | None = None,
    *,
    dialect: Dialect = FOUND_OUT,
    kind: Kind | None = None,
    tell: Callable[[str], None] = log.info,
    problems: Problems | None = None,
) -> Sequence[Example]:
    """Read every row of files or of a hub split; many of them are mapped, see `mapped_rows.collected`.

    Args:
        source: see `sources.read_rows`.
        columns: our column to the file's, where they differ; `text_a` and `text_b` may stand for `text` and `pair`.
        labelled: whether each row must have a label; if not, labels are not read.
        adapt: a row is taken as it is if not given.
        dialect: encoding and delimiter of the files, where they are given.
        kind: of the task, where it was given: a label of `regression` is a value.
        tell: takes a line for people.
        problems: where faults are put; raised all together at the end if not given.
    Raises:
        ConfigError: with the rows, when anything is missing, empty or out of range.
    """
    found = Problems() if problems is None else problems
    names = ColumnNames(columns)

    def usable() -> Iterator[Example]:
        for _, made in _made(read_rows(source, dialect, tell), names, labelled, adapt, kind):
            if isinstance(made, RowError):
                found.rows.append(made)
            else:
                yield made

    examples: Sequence[Example] = []
    try:
        examples = collect_examples(usable())
        if not examples and not found:
            found.fatal.append(
                ConfigError(f"{source_name(source)} has no rows. Give a file or split with at least one.")
            )
    except RowError as error:  # of a header
        found.fatal.append(ConfigError(str(error)))
    except ConfigError as error:
        found.fatal.append(error)
    if found and problems is None:
        raise found.error(source_name(source))
    return examples


def _made(
    rows: Iterable[tuple[str, Row | RowError]],
    names: ColumnNames,
    labelled: bool,
    adapt: Adapter | None,
    kind: Kind | None,
) -> Iterator[tuple[str, Example | RowError]]:
    for where, row in rows:
        if isinstance(row, RowError):
            yield where, row
            continue
        try:
            for part in adapted(row, adapt, where):
                yield where, example_of(part, names, labelled, where, kind)
        except RowError as error:
            yield where, error


def adapted(row: Row, adapt: Adapter | None, where: str) -> list[Row]:
    """Our rows of a row of a file; raises RowError where it is not of the published form."""
    if adapt is None:
        return [row]
    try:
        return list(adapt(row))
    except ConfigError as error:
        raise RowError(where, "not of the task's published form", f"{where}: {error}") from None
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        # The forms read what benchmarks publish, and a damaged row fails wherever it differs.
        text = f"{where} is not of the form in which this task's rows are published ({type(error).__name__}: {error})."
        raise RowError(where, "not of the task's published form", f"{text} Correct the row or remove it.") from None


def example_from_mapping(row: Row, columns: Mapping[str, str], labelled: bool, where: str) -> Example:
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
    return example_of(row, ColumnNames(columns), labelled, where)


def example_of(row: Row, names: ColumnNames, labelled: bool, where: str, kind: Kind | None = None) -> Example:
    """As `example_from_mapping`, with columns found for many rows, and the kind of task where it was given."""
    named = {ours: row[theirs] for ours, theirs in names.of(row, where).items()}
    if kind == "regression" and "value" not in named and "label" in named:
        named["value"] = named.pop("label")
    if "words" in named and "text" not in named:
        return _tagged(named, labelled, row, where)
    if "text" not in named:
        raise _missing("text", row, where)
    text = as_text(named["text"], "text", where)
    head, tail, span = (_span(named, side, text, where) for side in ("head", "tail", "span"))
    if (head is None) != (tail is None):
        marked, unmarked = ("tail", "head") if head is None else ("head", "tail")
        raise RowError(
            where,
            f"a {marked} but no {unmarked}",
            f"{where} marks a {marked} but no {unmarked}. A relation needs both, other tasks neither.",
        )
    value = as_number(named["value"], where) if labelled and "value" in named else None
    candidate = _candidate(named.get("candidate"), where) if labelled else None
    label = None
    if candidate is not None:
        label = "true" if candidate.text in candidate.right else "false"
    elif labelled and value is None:
        if "label" not in named:
            raise _missing("value" if kind == "regression" else "label", row, where)
        label = as_label(named["label"], where)
    choices = as_texts(named["choices"], "choices", where) if "choices" in named else None
    if choices is not None and label is not None:
        label = as_choice(label, choices, where)
    return Example(
        text=text,
        pair=as_text(named["pair"], "pair", where) if "pair" in named else None,
        head=head,
        tail=tail,
        span=span,
        choices=choices,
        candidate=candidate,
        label=label,
        value=value,
        where=where,
    )


def _tagged(named: Mapping[str, Any], labelled: bool, row: Row, where: str) -> Example:
    words = as_texts(named["words"], "words", where)
    if labelled and "tags" not in named:
        raise _missing("tags", row, where)
    tags = tuple(tag.strip() for tag in as_texts(named["tags"], "tags", where)) if labelled else None
    if tags is not None and len(tags) != len(words):
        raise RowError(
            where,
            "not as many tags as words",
            f"{where} has {len(words)} words but {len(tags)} tags. Give one tag for each word.",
        )
    return Example(text=" ".join(words), words=words, tags=tags, where=where)


def _candidate(value: Any, where: str) -> Candidate | None:
    if not isinstance(value, Mapping):
        return None
    return Candidate(
        as_text(value.get("question"), "candidate's question", where),
        as_text(value.get("text"), "candidate's text", where),
        as_texts(value.get("answers"), "candidate's answers", where),
    )


def _span(named: Mapping[str, Any], side: str, text: str, where: str) -> Span | None:
    place = as_place(named, side, text, where)
    return None if place is None else Span(*place)


def _missing(name: str, row: Row, where: str) -> RowError:
    ours = {alias for aliases in COLUMNS.values() for alias in aliases}
    other = next((column for column in row if str(column).strip().casefold() not in ours), next(iter(row), "column"))
    return RowError(
        where,
        f"{NO_COLUMN} {name}",
        f"{where} has no column {name}. It has: {', '.join(map(str, row))}. "
        f"Say which one it is by data.columns, such as data.columns='{{{name}: {other}}}'.",
    )
