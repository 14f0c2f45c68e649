"""What a task is: its classes, how they are described, how they are scored and where its rows come from."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from infoprompt.config import ConfigError
from infoprompt.data.rows import Example, Kind, labels_of

KINDS: dict[str, str] = {
    "single": "single texts",
    "pair": "pairs of texts",
    "relation": "relations between two marked entities",
    "span": "types of a marked span",
    "tags": "tags of words",
    "choice": "choices between answers",
    "answer": "candidate answers to questions",
    "regression": "values of texts or pairs",
}
"""Kind of task to what its rows are, for people."""


@dataclass(frozen=True)
class Source:
    """Where the rows of a known task come from, and how their columns are called there."""

    folder: str = ""
    """Folder under `data.folder`, in any spelling of case and hyphens."""
    hub: str | None = None
    """Hub data set as `owner/name` or `owner/name@config`."""
    hub_validation: str | None = "validation"
    """Its split for choosing, or for the report where there is no labelled test split."""
    hub_test: str | None = None
    """Its test split, where that has labels."""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Our column to the names it has in published files; the first that a row has counts."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Published label to ours, where they differ."""
    form: str | None = None
    """A function in `forms.FORMS` that makes our rows of a published row."""
    template: str | None = None
    """What `data.template: task` stands for, where it is not the kind's."""
    template_words: Mapping[str, str] = field(default_factory=dict)
    """Class to the words that stand for it with this template, where these are not `label_texts`."""
    tests: tuple[str, ...] = ()
    """Of a diagnostic task, which has no training rows: the tasks whose prompts it tests, the best one first."""
    merged: Mapping[str, str] = field(default_factory=dict)
    """Of a diagnostic task: class of theirs to the one of ours that it counts as, where the names differ."""


@dataclass(frozen=True)
class Task:
    """A task of classification, tagging, choice or regression."""

    name: str
    labels: tuple[str, ...]
    """Class names in id order; of a choice, its places (`choice1`); none of a regression, nor of a known task whose
    classes are those of its training rows."""
    label_texts: tuple[str, ...]
    """Words that describe each class, in the same order."""
    metrics: tuple[str, ...]
    """Names in `metrics.METRICS`; the first is the main one."""
    kind: Kind
    """What a row is; see `KINDS`."""
    scale: tuple[float, float] | None = None
    """Lowest and highest value of a regression."""
    source: Source | None = field(default=None, compare=False)
    """Where the rows of a known task come from."""

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.labels)

    @property
    def classifies(self) -> bool:
        """Whether an example has one class out of `labels`: not a tag for each word, a choice, an answer or a value."""
        return self.kind not in ("tags", "choice", "answer", "regression")

    def fits(self, example: Example) -> bool:
        """Whether an example is of the task's kind; an unlabelled text or pair may be a regression's or an answer's."""
        if self.kind == "regression" or (self.kind == "answer" and example.label is None):
            return example.kind in ("single", "pair", self.kind)
        return example.kind == self.kind

    def ids(self, examples: Sequence[Example]) -> list[int]:
        """Class index of each labelled example; -1 for an unlabelled one."""
        index = {label: number for number, label in enumerate(self.labels)}
        return [-1 if label is None else index[label] for label in labels_of(examples)]

    def classes_of(self, other: "Task") -> list[int]:
        """Class index of ours that each class of another task counts as, for a prompt that was trained on that.

        Raises:
            ConfigError: the other task is of another kind or tells other classes apart.
        """
        source = self.source or Source()
        counted = [source.merged.get(label, label) for label in other.labels]
        if other.kind != self.kind or not self.classifies or set(counted) != set(self.labels):
            remedy = f" Use one trained with data.task={source.tests[0]}." if source.tests else ""
            raise ConfigError(
                f"{self.name} has {KINDS[self.kind]} of the classes {', '.join(self.labels)}, but this prompt was "
                f"trained on {KINDS[other.kind]} of the classes {', '.join(other.labels[:5]) or 'none'}.{remedy}"
            )
        return [self.labels.index(label) for label in counted]

    def to_dict(self) -> dict[str, Any]:
        """What an artifact keeps: everything but the source of rows."""
        return {name: value for name, value in asdict(self).items() if name != "source"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Task":
        """The inverse of `to_dict`, also after JSON has made lists of tuples."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**fields)


def is_whole_number(label: str) -> bool:
    """Whether a label is written as a whole number."""
    return re.fullmatch(r"-?[0-9]+", label) is not None


def is_bio(tag: str) -> bool:
    """Whether a tag is `O`, `B-type` or `I-type`."""
    return re.fullmatch(r"O|[BI]-.+", tag) is not None


def words_of(label: str) -> str:
    """A label's name as words: `Refund_not_showing_up` and `RefundNotShowingUp` as `refund not showing up`."""
    if is_whole_number(label):
        return label
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", label)
    return " ".join(re.sub(r"[_\-/]+", " ", split).lower().split()) or label
