"""Labels as people write them: spellings that mean one class, and labels that look like something else."""

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from infoprompt.data.mapped_rows import changed
from infoprompt.data.problems import shown
from infoprompt.data.rows import Example, labels_of

_NEAREST = 10
_LONG = 60


def canonical(label: str) -> str:
    """What all spellings of one class share: no blanks around it, 1 for 1.0, `true` for `True`."""
    label = label.strip()
    if re.fullmatch(r"-?[0-9]+\.0+", label):
        return label.partition(".")[0]
    return label.lower() if label.lower() in ("true", "false") else label


class KnownLabels:
    """The labels of a task, found in any spelling."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._known = set(labels)
        self._spelled = {canonical(label): label for label in reversed(labels)}
        self._nearest: dict[str, str] = {}

    def unknown(self, example: Example) -> str | None:
        """The first label or tag of an example that the task does not have; None where it has all."""
        return next((label for label in example.given_labels if self.spelled(label) is None), None)

    def has(self, label: str) -> bool:
        """Whether the task spells a label so."""
        return label in self._known

    def spelled(self, label: str) -> str | None:
        """The label as the task spells it; None if it has no such class."""
        return label if label in self._known else self._spelled.get(canonical(label))

    def respelled(self, example: Example) -> Example:
        """The same example, its label or tags as the task spells them."""
        if all(label in self._known for label in example.given_labels):
            return example
        if example.tags is not None:
            return replace(example, tags=tuple(self.spelled(tag) or tag for tag in example.tags))
        return replace(example, label=self.spelled(example.label or "") or example.label)

    def nearest(self, label: str) -> str:
        """The known labels, those most alike first, as far as they can be shown; of many unknown labels, the first."""
        if label not in self._nearest:
            # Comparing takes its time, and nobody reads the nearest labels of thousands.
            self._nearest[label] = self._sorted(label) if len(self._nearest) < _NEAREST else "as above"
        return self._nearest[label]

    def _sorted(self, label: str) -> str:
        known = sorted(self._known, key=lambda one: -difflib.SequenceMatcher(None, one.lower(), label.lower()).ratio())
        more = f" and {len(known) - _NEAREST:,} more" if len(known) > _NEAREST else ""
        return ", ".join(shown(one) for one in known[:_NEAREST]) + more


def merged_spellings(examples: Sequence[Example]) -> tuple[Sequence[Example], list[str]]:
    """The examples with one label for all spellings of a class, and what was done, for people.

    A class of which the rows have one spelling keeps that.
    """
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in Counter(label for label in labels_of(examples) if label is not None):
        spellings[canonical(label)].append(label)
    several = {one: labels for one, labels in spellings.items() if len(labels) > 1}
    if not several:
        return examples, []
    one_of = {label: one for one, labels in several.items() for label in labels}
    notes = [
        f"The labels {' and '.join(sorted(map(repr, labels)))} are read as one class, {one!r}."
        for one, labels in several.items()
    ]

    def renamed(example: Example) -> Example:
        return replace(example, label=one_of[example.label]) if example.label in one_of else example

    return changed(examples, renamed), notes


def label_notes(examples: Sequence[Example]) -> list[str]:
    """Warnings where the labels of the training rows look like values, like free text, or differ only in case."""
    counts = Counter(label for label in labels_of(examples) if label is not None)
    labels = list(counts)
    return [note for note in (_values(labels), _free_text(counts), *_case(labels)) if note]


def _values(labels: Sequence[str]) -> str:
    if len(labels) <= 10 or not all(map(_is_number, labels)) or all(float(label).is_integer() for label in labels):
        return ""
    return (
        f"The labels look like values: {len(labels)} different numbers, such as {labels[0]}, and each is a class "
        "of its own. To predict values, use data.task=regression."
    )


def _free_text(counts: Mapping[str, int]) -> str:
    rows, classes = sum(counts.values()), len(counts)
    if rows < 20 or classes < 10 or all(map(_is_number, counts)):
        return ""
    long = sum(map(len, counts)) / classes > _LONG
    if classes < rows / 2 and not long:
        return ""
    return (
        f"The labels look like free text: {classes:,} classes in {rows:,} rows, such as {shown(next(iter(counts)))}. "
        "If another column holds the class, name it by data.columns.label."
    )


def _case(labels: Iterable[str]) -> list[str]:
    alike: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        alike[label.casefold()].append(label)
    pairs = [sorted(found) for found in alike.values() if len(found) > 1]
    named = "; ".join(" and ".join(map(repr, found)) for found in pairs[:3])
    return [f"Labels that differ only in case are classes of their own: {named}."] if pairs else []


def _is_number(label: str) -> bool:
    return re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,3})?", label) is not None
