"""One part of the data (training, validation or test): its rows, and what is wrong with them."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from infoprompt.config import ConfigError
from infoprompt.data.labels import KnownLabels
from infoprompt.data.mapped_rows import changed, chosen
from infoprompt.data.places import RowSource, source_name
from infoprompt.data.problems import Problems, RowError, by_kind, places, shown
from infoprompt.data.rows import Adapter, Example, Kind, labels_of, read_examples
from infoprompt.data.sources import Dialect
from infoprompt.data.task import Task

log = logging.getLogger(__name__)


@dataclass
class SplitRows:
    """Rows of one part, which the checks make fewer."""

    name: str
    """`training`, `validation` or `test`."""
    source: RowSource
    examples: Sequence[Example] = field(default_factory=list)
    problems: Problems = field(default_factory=Problems)
    notes: list[str] = field(default_factory=list)
    """Lines for people about what was found."""

    @classmethod
    def read(
        cls,
        name: str,
        source: RowSource,
        columns: Mapping[str, str],
        adapt: Adapter | None,
        dialect: Dialect,
        kind: Kind | None,
    ) -> "SplitRows":
        """Read all rows that can be read; raises ConfigError for a column of `columns` that is none of ours."""
        part = cls(name, source)
        part.examples = read_examples(
            source, columns, adapt=adapt, dialect=dialect, kind=kind, tell=part.notes.append, problems=part.problems
        )
        return part

    def keep_kind(self, kind: Kind | None) -> None:
        """Of training rows of several kinds, keep those of the given one, or of the most frequent one."""
        kinds = Counter(example.kind for example in self.examples)
        if len(kinds) < 2:
            return
        most = kind if kind in kinds else kinds.most_common(1)[0][0]
        self._keep(
            [
                None
                if example.kind == most
                else RowError(
                    example.where,
                    f"of the kind {example.kind}, unlike most",
                    f"The training rows are of different kinds ({' and '.join(sorted(kinds))}), but must all be of "
                    f"one: {example.where} is of the kind {example.kind}, and most are of the kind {most}. Give it the "
                    "same columns, or remove it.",
                )
                for example in self.examples
            ]
        )

    def check(self, task: Task, known_task: bool, owner: str = "") -> None:
        """Keep the rows that fit the task, their labels as the task spells them.

        Args:
            task: what the training rows describe.
            known_task: whether its classes and its scale come from the table of tasks.
            owner: what has the labels, for errors; the training rows or the known task if not given.
        """
        known = KnownLabels(task.labels)
        owner = owner or (task.name if known_task else "")
        self._keep([self._fault(example, task, known, known_task, owner) for example in self.examples])
        if any(label is not None and not known.has(label) for label in self._spellings()):
            self.examples = changed(self.examples, known.respelled)

    def _spellings(self) -> Iterator[str | None]:
        if self.examples and self.examples[0].words is not None:
            return (tag for example in self.examples for tag in example.given_labels)
        return labels_of(self.examples)

    def _keep(self, faults: Sequence[RowError | None]) -> None:
        self.problems.rows += [fault for fault in faults if fault is not None]
        left = [place for place, fault in enumerate(faults) if fault is None]
        if len(left) < len(faults):
            self.examples = chosen(self.examples, left)

    def _fault(self, example: Example, task: Task, known: KnownLabels, known_task: bool, owner: str) -> RowError | None:
        what = f"The {self.name} {example.where}"
        if not task.fits(example):
            return RowError(
                example.where,
                f"of the kind {example.kind} instead of {task.kind}",
                f"{what} is of the kind {example.kind}, but the task is of the kind {task.kind}. All parts need the "
                "same columns.",
            )
        if (unknown := known.unknown(example)) is not None:
            owner = f"{owner} has" if owner else "the training rows have"
            return RowError(
                example.where,
                f"the label {shown(unknown)}, which {owner} not",
                f"{what} has the label {shown(unknown)}, but {owner} no such label; the nearest are "
                f"{known.nearest(unknown)}. Correct or remove the row, or check data.columns.label.",
            )
        if example.choices is not None and len(example.choices) != task.num_classes:
            return RowError(
                example.where,
                "another number of choices",
                f"{what} has {len(example.choices)} choices, but the training rows have {task.num_classes}. Correct or "
                "remove the row.",
            )
        if known_task and task.scale and example.value is not None:
            low, high = task.scale
            if not low <= example.value <= high:
                return RowError(
                    example.where,
                    "a value off the scale",
                    f"{what} has the value {example.value:g}, but those of {task.name} run from {low:g} to {high:g}. "
                    "Correct or remove the row, or check data.columns.value.",
                )
        return None


@dataclass(frozen=True)
class SkippedRow:
    """A row that was left out."""

    part: str
    where: str
    reason: str


SKIPPED_NAME = "skipped_rows.jsonl"


def write_skipped(rows: Sequence[SkippedRow], folder: Path) -> None:
    """Write each row that was left out, with its reason, a line each; nothing where there is none."""
    if not rows:
        return
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(asdict(row)) + "\n" for row in rows)
    (folder / SKIPPED_NAME).write_text(lines, encoding="utf-8")


def settle(parts: Sequence[SplitRows], bad_rows: str) -> list[SkippedRow]:
    """Raise ConfigError for all that is wrong in any part; or, with `skip`, note the rows that are left out."""
    if bad_rows != "skip" or any(part.problems.fatal for part in parts):
        errors = [part.problems.error(source_name(part.source), skippable=True) for part in parts if part.problems]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ConfigError("\n".join(map(str, errors)))
        return []
    skipped = []
    for part in parts:
        rows = part.problems.rows
        if not rows:
            continue
        if not part.examples:
            problem = part.problems.error(source_name(part.source))
            raise ConfigError(f"data.bad_rows is skip, but no row is left. {problem}")
        kinds = "; ".join(f"{len(found):,} {kind} ({places(found)})" for kind, found in by_kind(rows).items())
        part.notes.append(f"{len(rows):,} {part.name} rows of {source_name(part.source)} are left out: {kinds}.")
        skipped += [SkippedRow(part.name, row.where, str(row)) for row in rows]
    return skipped


def text_key(example: Example) -> Hashable:
    """What two rows share that ask the same."""
    return (example.text, example.pair, example.head, example.tail, example.span, example.words, example.choices)


def numbers_of(keys: Iterable[Hashable]) -> np.ndarray:
    """A number for each key, uint64: the same for equal keys.

    It takes 8 bytes in place of a text. Of 10 million texts, two unlike ones meet in one of 400,000 data sets.
    """
    return np.fromiter(map(_number, keys), np.uint64)


def _number(key: Hashable) -> int:
    digest = hashlib.blake2b(repr(key).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def doubling_notes(train: SplitRows, others: Sequence[SplitRows]) -> list[str]:
    """A line each on equal texts with unlike labels, and on rows of another part that training has too."""
    rows = train.examples
    key_M = numbers_of(map(text_key, rows))
    notes = []
    if not _has_candidates(train):
        answer_M = numbers_of((row.label, row.tags, row.value, row.candidate) for row in rows)
        several, count = np.unique(np.unique(np.stack([key_M, answer_M], 1), axis=0)[:, 0], return_counts=True)
        unlike_M = np.isin(key_M, several[count > 1])
        if unlike_M.any():
            text = rows[int(unlike_M.argmax())].text
            notes.append(
                f"{(count > 1).sum():,} texts stand in the training rows with unlike labels, such as {shown(text)}."
            )
    for part in others:
        shared = int(np.isin(numbers_of(map(text_key, part.examples)), key_M).sum())
        if shared:
            notes.append(f"{shared:,} of {len(part.examples):,} {part.name} rows stand in the training rows too.")
    return notes


def _has_candidates(part: SplitRows) -> bool:
    return bool(part.examples) and part.examples[0].candidate is not None
