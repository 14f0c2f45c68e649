"""Comparing two methods or trials over the seeds that both have, for studies and sweeps."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LEVEL = 0.95
"""Of confidence intervals."""
ROUNDING = 1e-12
"""Scores that differ by less are the same."""


def paired_differences(scores: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    """Score minus baseline on each seed that both have, in the order of the seeds."""
    return [scores[seed] - baseline[seed] for seed in sorted(scores.keys() & baseline.keys())]


def interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """Student's t interval of the mean; None for fewer than two values.

        mean +- t(n - 1) * s / sqrt(n)

    It assumes that the values are independent and, for few of them, normally distributed around the mean that is
    sought. That needs seeds drawn without looking at scores, far from the ends of the metric's range. It knows nothing
    of other dev rows. Three seeds reach 2.5 standard deviations to either side, five 1.2, and two 9.0.
    """
    if len(values) < 2:
        return None
    from scipy.stats import ttest_1samp

    return bounds_of(ttest_1samp, values, 0, level=level)


def bounds_of(test: Callable[..., Any], *arguments: Any, level: float, **named: Any) -> tuple[float, float]:
    """The confidence interval of a test of scipy, which warns of values that are all the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = test(*arguments, **named).confidence_interval(level)
    return float(low), float(high)
