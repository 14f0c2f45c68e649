"""The methods that rows of one's own are compared by, in the order of what they cost.

Each is the recipe of its name in `configs/recipes`, which an installed package does not have; a test holds them equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from infoprompt.data.rows import Kind
from infoprompt.data.task import KINDS as KIND_NAMES

LARGE_RATE_CLASSES = 10
"""Classes from which on all weights and LoRA take their grid's largest rate, as held-out rows of BANKING77 and SemEval
chose. With four or less (AG News, MR) they chose the smallest (EXPERIMENTS 2026-11-29)."""

Trained = Literal["nothing", "head", "body"]

_PLAIN: Mapping[str, Any] = {
    "objective": {"preset": "analytic", "head_weight": 0, "representation_weight": 0},
    "prompt": {"kind": "none"},
}
_CLASSES: frozenset[Kind] = frozenset({"single", "pair", "relation", "span"})
_ASKED: frozenset[Kind] = frozenset({"single", "pair", "span"})
_CHOICE: frozenset[Kind] = frozenset({"choice"})
_WORDS: Mapping[str, Any] = {"kind": "label_words", "fit": "start", "calibration": "contextual"}
_CHOICES: Mapping[str, Any] = {"kind": "choice_text", "fit": "start", "length_normalization": True}
_ALL: frozenset[Kind] = frozenset(KIND_NAMES)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Method:
    """A method: its settings and what it tries."""

    name: str
    trained: Trained
    """What updates change: nothing, the head on kept states, or something that each update passes the backbone for."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Nested settings, beside those of a run without prompt and without information terms."""
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """As `search` of a recipe."""
    by_classes: bool = False
    """Whether its rate follows the number of classes; see `LARGE_RATE_CLASSES`."""
    kinds: frozenset[Kind] = _ALL
    """Kinds of task that it can be trained on."""

    @property
    def asks(self) -> bool:
        """Whether the model is asked in words, so that no states are kept."""
        return "template" in self.changes.get("data", {})

    @property
    def reads_labels(self) -> bool:
        """Whether the labels of training rows change what it predicts."""
        data, fit = self.changes.get("data", {}), self.changes.get("head", {}).get("fit")
        return fit != "start" or "demonstrations" in data

    @property
    def settings(self) -> dict[str, Any]:
        """Nested settings, without the grid."""
        return {key: {**_PLAIN.get(key, {}), **self.changes.get(key, {})} for key in (*_PLAIN, *self.changes)}

    def default(self, num_classes: int) -> dict[str, Any]:
        """The grid's setting for so many classes: what is taken where there is no time to choose."""
        return self.tries(1, num_classes)[0]

    def tries(self, most: int, num_classes: int) -> list[dict[str, Any]]:
        """At most so many settings of the grid, those nearest to the default, in the grid's order."""
        (values,) = self.grid.values() or ([],)
        (key,) = self.grid or ("",)
        points = [dict(value) if key == "points" else {key: value} for value in values] or [{}]
        place = len(points) // 2
        if key == "points":
            place = [point["objective.label_form"] for point in points].index("plain")
        elif self.by_classes:
            place = len(points) - 1 if num_classes >= LARGE_RATE_CLASSES else 0 if 0 < num_classes <= 4 else place
        nearest = sorted(range(len(points)), key=lambda other: abs(other - place))[:most]
        return [points[one] for one in sorted(nearest)]


def _rates(*rates: float) -> dict[str, list[float]]:
    return {"optim.lr": [*rates]}


METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("majority", "nothing", {"head": {"fit": "majority"}}, kinds=_CLASSES),
        Method("nearest_label", "nothing", {"head": {"fit": "start"}}, kinds=_CLASSES),
        Method("logistic_regression", "nothing", {"head": {"fit": "logistic_regression"}}, kinds=_CLASSES),
        Method("zero_shot", "nothing", {"head": _WORDS, "data": {"template": "task"}}, kinds=_ASKED),
        Method(
            "few_shot_in_context",
            "nothing",
            {"head": _WORDS, "data": {"template": "task", "demonstrations": 4}},
            kinds=_ASKED,
        ),
        Method("zero_shot_choices", "nothing", {"head": _CHOICES, "data": {"template": "task"}}, kinds=_CHOICE),
        Method(
            "few_shot_in_context_choices",
            "nothing",
            {"head": _CHOICES, "data": {"template": "task", "demonstrations": 4}},
            kinds=_CHOICE,
        ),
        Method("head_only", "head", grid=_rates(1e-3, 3e-3, 1e-2)),
        Method(
            "label_information",
            "head",
            {
                "data": {"unlabelled": "rest"},
                "objective": {"label_form": "plain"},
                "optim": {"lr": 1e-2},
                "evaluation": {"state": "last"},
            },
            {
                "points": [
                    {"objective.label_form": "off", "optim.lr": 1e-3},
                    {"objective.label_form": "off", "optim.lr": 3e-3},
                    {"objective.label_form": "off", "optim.lr": 1e-2},
                    {"objective.label_form": "plain", "optim.lr": 1e-2},
                    {"objective.label_form": "guarded", "optim.lr": 1e-2},
                ]
            },
            kinds=_CLASSES,
        ),
        Method(
            "adaption_prompt", "body", {"prompt": {"kind": "adaption_prompt", "length": 64}}, _rates(2e-3, 5e-3, 1e-2)
        ),
        Method("prefix", "body", {"prompt": {"kind": "prefix", "length": 8}}, _rates(1e-3, 3e-3, 1e-2)),
        Method(
            "prompt_tuning",
            "body",
            {"prompt": {"kind": "static", "template": "front", "length": 8, "init": "vocabulary"}},
            _rates(1e-3, 3e-3, 1e-2),
        ),
        Method("lora", "body", {"backbone": {"lora_rank": 8}}, _rates(5e-4, 1e-3, 2e-3), by_classes=True),
        Method(
            "contrastive",
            "body",
            {
                "objective": {"task": "contrastive"},
                "backbone": {"frozen": False, "dtype": "float32"},
                "head": {"fit": "logistic_regression"},
                "data": {"batch_size": 32},
                "optim": {"lr": 2e-5, "epochs": 80, "warmup_percent": 10, "decay_percent": 90},
                "evaluation": {"state": "last"},
            },
            _rates(2e-5, 5e-5, 1e-4),
            kinds=_CLASSES,
        ),
        Method(
            "full_fine_tuning",
            "body",
            {"backbone": {"frozen": False, "dtype": "float32"}},
            _rates(2e-5, 5e-5, 1e-4),
            by_classes=True,
        ),
    )
}
