"""Which methods fit the rows, what each would take, and which of them fit the time."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from infoprompt.config import RunConfig
from infoprompt.data.task import KINDS
from infoprompt.data.unlabelled import LEAST_ROWS
from launcher.choosing.methods import METHODS, Method
from launcher.choosing.probe import Estimate
from launcher.choosing.rows import Facts
from launcher.choosing.schedule import updates

OPTIONS = ((10, 3), (5, 3), (5, 1), (3, 1))
"""Seeds, and settings tried of a method whose updates pass the backbone; the first that fits the time is taken."""
KEPT_BACK = 0.15
"""Share of the time that is not planned: estimates are of a few updates, and processes take time to start."""
START_SECONDS = 15.0
"""For a worker's imports."""
CURVE_SIZES = 2
TEST_SHARE = 0.25
"""Of the time, for test rows: where all seeds would take more, fewer are scored on them."""
LOAD_SECONDS = 1.0
"""To load what a run has trained."""


@dataclass(frozen=True)
class Candidate:
    """A method in the plan."""

    name: str
    seeds: int
    tries: int
    """Settings tried."""
    search_seeds: int
    """Seeds that each setting is tried with; all seeds where a run takes a moment."""
    updates: int
    run_seconds: float
    """Estimated, of one run."""

    @property
    def runs(self) -> int:
        """Runs on held-out rows: the search, and what its choice still lacks of the seeds."""
        return self.tries * self.search_seeds + self.seeds - self.search_seeds

    @property
    def seconds(self) -> float:
        """Estimated, of all its runs."""
        return self.runs * self.run_seconds

    @property
    def method(self) -> Method:
        """Its settings."""
        return METHODS[self.name]


@dataclass(frozen=True)
class Plan:
    """What is compared, in the order in which it is trained."""

    candidates: Sequence[Candidate]
    left_out: Mapping[str, str]
    """Method to the reason."""
    num_seeds: int
    seconds: float
    """Estimated, of everything: held-out rows, the learning curve, and the test."""
    test_seconds: float
    """Kept for the test rows at the end."""
    test_seeds: int
    """Runs of a method that are scored on them."""

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def load(cls, values: Mapping[str, Any]) -> "Plan":
        """Read it back."""
        return cls(**{**values, "candidates": [Candidate(**one) for one in values["candidates"]]})


def misfits(facts: Facts, config: RunConfig, *, texts_given: bool = False) -> dict[str, str]:
    """Each method that does not fit the kind of rows or the backbone, with the reason.

    `texts_given`: whether there were texts without labels, of which `config` has none where too few can be used.
    """
    reasons = {}
    for name, method in METHODS.items():
        if facts.kind not in method.kinds:
            reasons[name] = f"it is not for {KINDS[facts.kind]}"
        elif name == "lora" and importlib.util.find_spec("peft") is None:
            reasons[name] = "it needs infoprompt[peft]"
        elif name == "label_information" and config.data.unlabelled is None:
            reasons[name] = f"fewer than {LEAST_ROWS} of the texts without labels can be used"
            if not texts_given:
                reasons[name] = "no texts without labels are given (--unlabelled)"
        elif method.trained == "body" and config.backbone.quantization != "none" and "backbone" in method.changes:
            reasons[name] = "the backbone is quantised, and stays as it is"
    return reasons


def make_plan(
    facts: Facts,
    estimates: Mapping[str, Estimate],
    left_out: Mapping[str, str],
    num_train: int,
    seconds: float,
    recommended: str | None = None,
    workers: int = 1,
) -> Plan:
    """The most seeds and tries with which all methods fit the time; else the recommended one and the cheapest that do.

    Args:
        facts: of the rows.
        estimates: of each method that fits the rows.
        left_out: the others.
        num_train: rows that a run trains on.
        seconds: what is left of the time given.
        recommended: a method that is left out last.
        workers: runs side by side.
    """
    usable = max(0.0, seconds * (1 - KEPT_BACK) - START_SECONDS)
    reasons = dict(left_out)
    if plan := _whole(facts, estimates, reasons, num_train, usable, workers):
        return plan
    num_seeds, tries = OPTIONS[-1]
    found = _planned(facts, estimates, num_train, num_seeds, tries)
    total, tested, seeds = _total(found, estimates, facts, num_seeds, usable, workers)
    while len(found) > 1 and total > usable:
        others = [one for one in found if one.name != recommended]
        only = [one for one in found if one.name == recommended]
        alone = _total(only, estimates, facts, num_seeds, usable, workers)[0]
        dropped = found[-1] if alone > usable else others[-1]
        found.remove(dropped)
        reasons[dropped.name] = f"its {dropped.runs} runs take about {dropped.seconds / 60:.0f} min"
        total, tested, seeds = _total(found, estimates, facts, num_seeds, usable, workers)
    rest = {one.name: estimates[one.name] for one in found}  # which may have time for more seeds
    whole = _whole(facts, rest, reasons, num_train, usable, workers)
    return whole or Plan(found, reasons, num_seeds, total, tested, seeds)


def _whole(
    facts: Facts,
    estimates: Mapping[str, Estimate],
    left_out: Mapping[str, str],
    num_train: int,
    usable: float,
    workers: int,
) -> Plan | None:
    """The most seeds and tries with which all of these methods fit the time, if any do."""
    for num_seeds, tries in OPTIONS:
        found = _planned(facts, estimates, num_train, num_seeds, tries)
        total, tested, seeds = _total(found, estimates, facts, num_seeds, usable, workers)
        if total <= usable:
            return Plan(found, left_out, num_seeds, total, tested, seeds)
    return None


def _planned(
    facts: Facts, estimates: Mapping[str, Estimate], num_train: int, num_seeds: int, tries: int
) -> list[Candidate]:
    found = []
    for name, estimate in estimates.items():
        method, total = METHODS[name], updates(METHODS[name], num_train)
        quick = method.trained != "body"
        settings = len(method.tries(10 if quick else tries, facts.num_classes))
        seeds = num_seeds if quick else 1
        found.append(Candidate(name, num_seeds, settings, seeds, total, estimate.run(total)))
    order = list(METHODS)
    return sorted(found, key=lambda one: (one.seconds if one.method.trained == "body" else 0.0, order.index(one.name)))


def _total(
    found: Sequence[Candidate],
    estimates: Mapping[str, Estimate],
    facts: Facts,
    num_seeds: int,
    usable: float,
    workers: int,
) -> tuple[float, float, int]:
    """Seconds of everything and of the test in it: two methods, with the seeds that a part of the time allows."""
    dearest = max((estimates[one.name].row for one in found), default=0.0)
    one_test = 2 * (LOAD_SECONDS + facts.num_test * dearest)
    seeds = max(1, min(num_seeds, int(usable * TEST_SHARE / one_test)))
    tested = seeds * one_test if facts.num_test else 0.0
    quick = [one.run_seconds for one in found if one.method.trained != "body"]
    curve = CURVE_SIZES * num_seeds * max(quick, default=0.0)
    return (sum(one.seconds for one in found) + curve) / workers + tested, tested, seeds
