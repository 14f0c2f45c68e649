"""What a study's table is computed from. Pure functions of numbers.

Shapes: N paired observations, V different values among them, R resamples.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from launcher.paired import LEVEL, ROUNDING

RESAMPLES = 10_000

Curve = Sequence[tuple[float, float]]
"""(step, score) of every evaluation, in the order of the steps."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation; the latter is None for a single value."""

    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Wins:
    """On how many seeds a method scored above, as, and below another."""

    wins: int
    ties: int
    losses: int


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and sample standard deviation (n - 1); None for no value."""
    if not values:
        return None
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def has_collapsed(score: float, majority: float, margin: float) -> bool:
    """Whether a run learnt nothing: its score is at most `margin` above that of predicting one class always."""
    return score <= majority + margin


def count_wins(differences: Sequence[float]) -> Wins:
    """Signs of paired differences; what differs by rounding alone (below 1e-12) is a tie."""
    ties = sum(abs(value) < ROUNDING for value in differences)
    wins = sum(value >= ROUNDING for value in differences)
    return Wins(wins, ties, len(differences) - wins - ties)


def bootstrap_mean(
    differences: Sequence[float], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the mean of paired differences; None for fewer than two of them.

        resample r:  mean_r = sum_v count_rv * value_v / N,   count_r ~ Multinomial(N, share of value v)

    Drawing N differences with replacement is drawing how often each different value comes, so a few values among
    thousands of rows cost no more than a few.

    With n pairs a resample is one of at most (2n - 1 choose n): 10 for 3 seeds, 126 for 5. The interval is then too
    narrow, it lies within the smallest and the largest difference, and it excludes zero whenever all seeds agree in
    sign. Read it beside the count of wins.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    if len(differences) < 2:
        return None
    value_V, count_V = np.unique(np.asarray(differences, dtype=np.float64), return_counts=True)
    total = len(differences)
    drawn_RV = np.random.default_rng(seed).multinomial(total, count_V / total, size=resamples)
    mean_R = drawn_RV @ value_V / total
    low, high = np.quantile(mean_R, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def row_differences(ours: Sequence[Sequence[bool]], theirs: Sequence[Sequence[bool]]) -> list[float]:
    """For each test row, in how much larger a share of the seeds it was predicted right: [seed][row] twice to [row].

    A bootstrap over these says how the difference would vary with other test rows, the trained runs being given. It
    knows nothing of other seeds.
    """
    ours_N, theirs_N = (np.asarray(right, dtype=np.float64).mean(axis=0) for right in (ours, theirs))
    return (ours_N - theirs_N).tolist()


def area_under(curve: Curve) -> float | None:
    """Mean score over the course of a run, from its first evaluation (0) to its last (1), by trapezoids.

    It is high for a run that learns early and keeps what it learnt. None for an empty curve; of a single point, its
    score.
    """
    if not curve:
        return None
    steps, scores = (np.asarray(values, dtype=np.float64) for values in zip(*curve, strict=True))
    if steps[-1] == steps[0]:
        return float(scores[-1])
    return float(np.trapezoid(scores, (steps - steps[0]) / (steps[-1] - steps[0])))
