"""One part of the data (training, validation or test): its rows, and what is wrong with them."""

import json
import logging
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from infoprompt.config import ConfigError
from infoprompt.data.labels import KnownLabels
from infoprompt.data.places import RowSource, source_name
from infoprompt.data.problems import Problems, RowError, by_kind, places, shown
from infoprompt.data.rows import Adapter, Example, Kind, read_examples
from infoprompt.data.sources import Dialect
from infoprompt.data.task import Task

log = logging.getLogger(__name__)


@dataclass
class SplitRows:
    """Rows of one part, which the checks make fewer."""

    name: str
    """`training`, `validation` or `test`."""
    source: RowSource
    examples: list[Example] = field(default_factory=list)
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
        self.examples = [known.respelled(example) for example in self.examples]

    def _keep(self, faults: Sequence[RowError | None]) -> None:
        self.problems.rows += [fault for fault in faults if fault is not None]
        self.examples = [row for row, fault in zip(self.examples, faults, strict=True) if fault is None]

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


def doubling_notes(train: SplitRows, others: Sequence[SplitRows]) -> list[str]:
    """A line each on equal texts with unlike labels, and on rows of another part that training has too."""
    answers: dict[Hashable, set[Hashable]] = {}
    for example in train.examples:
        known = answers.setdefault(text_key(example), set())
        known.add((example.label, example.tags, example.value, example.candidate))
    notes = []
    unlike = [key for key, found in answers.items() if len(found) > 1] if not _has_candidates(train) else []
    if unlike:
        text = unlike[0][0] if isinstance(unlike[0], tuple) else ""
        notes.append(f"{len(unlike):,} texts stand in the training rows with unlike labels, such as {shown(text)}.")
    for part in others:
        shared = sum(text_key(example) in answers for example in part.examples)
        if shared:
            notes.append(f"{shared:,} of {len(part.examples):,} {part.name} rows stand in the training rows too.")
    return notes


def _has_candidates(part: SplitRows) -> bool:
    return bool(part.examples) and part.examples[0].candidate is not None
