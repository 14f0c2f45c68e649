"""Comparing two methods or trials over the seeds that both have, for studies and sweeps."""

import math
import statistics
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


def resampled_error(values: Sequence[float], held_out_share: float) -> float | None:
    """Standard error of a mean of differences over repeated splits of the same rows; None for fewer than two.

        s * sqrt(1 / n + held-out rows / training rows)

    Splits share rows, so their scores are not independent, and s / sqrt(n) would be too small.
    Source: Nadeau and Bengio 2003, Inference for the Generalization Error, section 3 (the corrected resampled t-test).

    Args:
        values: a difference for each split.
        held_out_share: held-out rows over training rows of a split.
    """
    if len(values) < 2:
        return None
    return statistics.stdev(values) * math.sqrt(1 / len(values) + held_out_share)


def resampled_interval(
    values: Sequence[float], held_out_share: float, level: float = LEVEL
) -> tuple[float, float] | None:
    """The mean +- t(n - 1) times `resampled_error`; None for fewer than two, or where all differ by the same."""
    error = resampled_error(values, held_out_share)
    if error is None or max(values) - min(values) < ROUNDING <= abs(values[0]):
        return None
    from scipy.stats import t

    mean, reach = statistics.fmean(values), float(t.ppf((1 + level) / 2, len(values) - 1)) * error
    return mean - reach, mean + reach
