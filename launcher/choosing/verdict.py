"""What a comparison says in the end: the method, how sure, what it costs, what would help more."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from launcher.paired import LEVEL, paired_differences, resampled_error, resampled_interval
from launcher.studies.statistics import bootstrap_mean, row_differences

ERRORS = 2.0
"""Standard errors within which the recommended method is taken in place of the best one."""
GAIN = 0.02
"""Gain of a doubling of the labels that is little, if even the interval's end lies below it."""


@dataclass(frozen=True)
class Scored:
    """A method with its scores on held-out rows."""

    name: str
    scores: Mapping[int, float]
    """By seed."""
    run_seconds: float
    """Measured, of a run."""
    row_seconds: float | None = None
    """Of a row, when predicting."""
    trained_parameters: int | None = None
    quick: bool = True
    """Whether its updates pass no backbone."""

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.scores.values())

    @property
    def deviation(self) -> float:
        """Sample standard deviation; 0 for one seed."""
        return statistics.stdev(self.scores.values()) if len(self.scores) > 1 else 0.0


@dataclass(frozen=True)
class Gap:
    """A method minus another one, seed by seed."""

    method: str
    other: str
    mean: float
    low: float | None
    """Of the interval; None where it cannot be told. Those of one choice all hold together at 95 % (Bonferroni)."""
    high: float | None
    seeds: int

    @property
    def sure(self) -> Literal["above", "below", "no"]:
        """Where zero lies. A difference that is the same on every seed is not sure: the rows may all be the same."""
        if self.low is None or self.high is None:
            return "no"
        return "above" if self.low > 0 else "below" if self.high < 0 else "no"

    def text(self) -> str:
        """`lora is 4.1 points above head_only, interval 1.2 to 7.0, 5 seeds`."""
        side = "above" if self.mean >= 0 else "below"
        return f"{self.method} is {abs(self.mean) * 100:.1f} points {side} {self.other}, {self.interval_text()}"

    def interval_text(self) -> str:
        """`interval 1.2 to 7.0, 5 seeds`."""
        if self.low is None or self.high is None:
            return f"the same on {self.seeds} seeds" if self.seeds > 1 else "1 seed"
        sign = 1 if self.mean >= 0 else -1
        low, high = sorted((sign * self.low * 100, sign * self.high * 100))
        return f"interval {low:.1f} to {high:.1f}, {self.seeds} seeds"


@dataclass(frozen=True)
class Choice:
    """The method that is taken, beside the others."""

    best: Scored
    top: Scored
    """The one with the highest mean, which may be another."""
    gaps: Sequence[Gap]
    """From the one that is taken to every other method, the cheapest first."""
    reference: str | None
    """What it is compared with on test rows: the best of those that cost much less, or less, or of all others."""

    @property
    def level(self) -> list[str]:
        """Methods that it is not surely above, the cheapest first."""
        return [gap.other for gap in self.gaps if gap.sure != "above"]


def choose_best(methods: Sequence[Scored], held_out_share: float, recommended: str | None = None) -> Choice:
    """The method with the highest mean on held-out rows, the cheapest of equals.

    What other tasks recommend for such rows is taken in its place if it is within two standard errors. Few rows part
    few methods, and the highest of ten noisy means is mostly luck. On 64 rows of MR the nearest label text had the
    highest one, and 7 points less than the recommended prompt on test rows.

    Args:
        methods: the cheapest first, each with the same seeds.
        held_out_share: held-out rows over training rows.
        recommended: name of a method; it need not be among them.
    """
    top = best = max(methods, key=lambda one: one.mean)
    for one in methods:
        differences = paired_differences(top.scores, one.scores)
        error = resampled_error(differences, held_out_share)
        if one.name == recommended and error is not None and statistics.fmean(differences) <= ERRORS * error:
            best = one
    others = [one for one in methods if one is not best]
    level = 1 - (1 - LEVEL) / max(1, len(others))
    gaps = [gap_between(best, other, held_out_share, level) for other in others]
    cheaper = list(methods[: methods.index(best)]) or others
    quick = [one for one in cheaper if one.quick] or cheaper
    real = [one for one in quick if one.name != "majority"] or quick
    reference = max(real, key=lambda one: one.mean).name if real else None
    return Choice(best, top, gaps, reference)


def gap_between(method: Scored, other: Scored, held_out_share: float, level: float = LEVEL) -> Gap:
    """The paired difference, with an interval of that level."""
    values = paired_differences(method.scores, other.scores)
    found = resampled_interval(values, held_out_share, level)
    low, high = found or (None, None)
    return Gap(method.name, other.name, statistics.fmean(values) if values else 0.0, low, high, len(values))


def choice_lines(choice: Choice, metric: str) -> list[str]:
    """Which method, and how sure."""
    best, top = choice.best, choice.top
    lines = [
        f"{top.name} has the best {metric} on held-out rows: {top.mean:.4f} ± {top.deviation:.4f} over "
        f"{len(top.scores)} seeds."
    ]
    if best is not top:
        lines.append(
            f"{best.name} ({best.mean:.4f} ± {best.deviation:.4f}) is within two standard errors of it, and other "
            "tasks favour it for such rows: it is taken."
        )
    of = {gap.other: gap for gap in choice.gaps}
    if choice.level:
        simplest = choice.level[0]
        lines.append(f"{best.name} is not surely above {simplest}: {of[simplest].text()}.")
        if len(choice.level) > 1:
            lines.append(f"Neither is it surely above {', '.join(choice.level[1:])}.")
    elif choice.gaps:
        lines.append(f"{best.name} is surely above every other method.")
    if choice.reference and choice.reference != next(iter(choice.level), None):
        lines.append(f"{of[choice.reference].text()}.")
    return lines


@dataclass(frozen=True)
class OnTestRows:
    """A method on the test rows."""

    scores: Mapping[int, float]
    """By seed."""
    right: Mapping[int, Sequence[bool]]
    """By seed, whether each row was predicted right; empty where the metric is not accuracy."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "OnTestRows":
        """Of JSON, where seeds are texts."""
        return cls(*({int(seed): found for seed, found in values[name].items()} for name in ("scores", "right")))

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.scores.values())

    def text(self) -> str:
        """`0.8450 ± 0.0099`."""
        spread = f" ± {statistics.stdev(self.scores.values()):.4f}" if len(self.scores) > 1 else ""
        return f"{self.mean:.4f}{spread}"


def confirmation(method: str, other: str, ours: OnTestRows, theirs: OnTestRows) -> str:
    """Whether test rows confirm a difference: their interval excludes zero, and so does every seed.

    The interval is over the rows (bootstrap) where these are right or wrong, else Student's over the seeds.
    """
    values = paired_differences(ours.scores, theirs.scores)
    mean, found = statistics.fmean(values), resampled_interval(values, 0.0)
    seeds = sorted(ours.right.keys() & theirs.right.keys())
    of = f"{len(values)} seeds"
    if seeds:
        found = bootstrap_mean(
            row_differences([ours.right[one] for one in seeds], [theirs.right[one] for one in seeds])
        )
        of = f"{len(ours.right[seeds[0]]):,} rows, {len(seeds)} seeds"
    low, high = found or (None, None)
    gap = Gap(method, other, mean, low, high, len(values))
    agree = all(value > 0 for value in values) or all(value < 0 for value in values)
    word = {"above": "confirm it", "below": "do not confirm it", "no": "do not tell the two apart"}
    return f"They {word[gap.sure if agree else 'no']}: {gap.text().rpartition(', ')[0]}, {of}."


def cost_line(best: Scored, cheaper: Scored | None) -> str:
    """What training and predicting take."""
    line = f"A run of {best.name} takes {taken(best.run_seconds)} here"
    if best.trained_parameters:
        line += f" and trains {best.trained_parameters:,} parameters"
    if best.row_seconds:
        line += f"; a row takes {best.row_seconds * 1000:.1f} ms to predict"
    if cheaper is not None:
        line += f". {cheaper.name} takes {taken(cheaper.run_seconds)}"
    return f"{line}."


def taken(seconds: float) -> str:
    """Seconds for people: `about 40 s`, `under a second`."""
    from infoprompt.bar import duration

    return "under a second" if seconds < 1 else f"about {duration(seconds)}"


def curve_lines(name: str, curve: Sequence[tuple[int, Mapping[int, float]]], held_out_share: float) -> list[str]:
    """What more labels would bring, by scores at rising numbers of training rows."""
    done = [(rows, scores) for rows, scores in curve if scores and rows]
    if len(done) < 2:
        return []
    shown = ", ".join(f"{statistics.fmean(scores.values()):.3f} with {rows:,}" for rows, scores in done)
    (few, before), (many, after) = done[-2:]
    values = paired_differences(after, before)
    if not values:
        return []
    mean, found = statistics.fmean(values), resampled_interval(values, held_out_share)
    told = f"interval {found[0] * 100:.1f} to {found[1] * 100:.1f}" if found else "no interval"
    change = f"{'gained' if mean >= 0 else 'lost'} {abs(mean) * 100:.1f} points"
    gain = f"From {few:,} to {many:,} it {change} ({told})"
    if found and found[0] > 0:
        verdict = "more labels help."
    elif found and mean > (found[1] - found[0]) / 4:  # half of the interval's reach
        verdict = "more labels would probably help."
    elif found and found[1] < GAIN:
        verdict = "more labels of this kind would bring little."
    else:
        verdict = "so few rows do not tell whether more of them help."
    return [f"Labels: {name} has {shown} training rows.", f"{gain}: {verdict}"]


def as_json(choice: Choice, methods: Sequence[Scored]) -> dict[str, Any]:
    """As plain values."""
    return {
        "method": choice.best.name,
        "reference": choice.reference,
        "level": choice.level,
        "gaps": [{**asdict(gap), "sure": gap.sure} for gap in choice.gaps],
        "methods": {
            one.name: {"mean": one.mean, "deviation": one.deviation, "scores": dict(one.scores)} for one in methods
        },
    }
