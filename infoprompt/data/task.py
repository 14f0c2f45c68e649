"""What a task is: its classes, how they are described, how they are scored and where its rows come from."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from infoprompt.data.rows import Example

TaskKind = Literal["single", "pair", "relation", "span", "tags", "choice", "regression"]

KINDS: dict[str, str] = {
    "single": "single texts",
    "pair": "pairs of texts",
    "relation": "relations between two marked entities",
    "span": "types of a marked span",
    "tags": "tags of words",
    "choice": "choices between answers",
    "regression": "values of texts or pairs",
}
"""Kind of task to what its rows are, for people."""


@dataclass(frozen=True)
class Source:
    """Where the rows of a known task come from, and how their columns are called there."""

    folder: str = ""
    """Folder under `data.folder`."""
    hub: str | None = None
    """Hub data set as `owner/name` or `owner/name@config`."""
    hub_test: bool = False
    """Whether the hub has labels for the test split; else the validation split is reported on."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Our column to the one it has in the published files, where a row has that one."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Published label to ours, where they differ."""
    form: str | None = None
    """A function in `forms.FORMS` that makes our rows of a published row."""


@dataclass(frozen=True)
class Task:
    """A task of classification, tagging, choice or regression."""

    name: str
    labels: tuple[str, ...]
    """Class names in id order; of a choice, its places (`choice1`); of a regression, none."""
    label_texts: tuple[str, ...]
    """Words that describe each class, in the same order."""
    metrics: tuple[str, ...]
    """Names in `metrics.METRICS`; the first is the main one."""
    kind: TaskKind
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
        """Whether an example has one class out of `labels`."""
        return self.kind not in ("tags", "choice", "regression")

    def ids(self, examples: Sequence[Example]) -> list[int]:
        """Class index of each labelled example; -1 for an unlabelled one."""
        index = {label: number for number, label in enumerate(self.labels)}
        return [-1 if example.label is None else index[example.label] for example in examples]

    def to_dict(self) -> dict[str, Any]:
        """What an artifact keeps: everything but the source of rows."""
        return {name: value for name, value in asdict(self).items() if name != "source"}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Task":
        """The inverse of `to_dict`, also after JSON has made lists of tuples."""
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def is_whole_number(label: str) -> bool:
    """Whether a label is written as a whole number."""
    return re.fullmatch(r"-?[0-9]+", label) is not None


def words_of(label: str) -> str:
    """A label's name as words: `Refund_not_showing_up` and `RefundNotShowingUp` as `refund not showing up`."""
    if is_whole_number(label):
        return label
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", label)
    return " ".join(re.sub(r"[_\-/]+", " ", split).lower().split()) or label
