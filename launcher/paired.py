"""Comparing two methods or trials over the seeds that both have, for studies and sweeps."""

from collections.abc import Mapping

LEVEL = 0.95
"""Of confidence intervals."""


def paired_differences(scores: Mapping[int, float], baseline: Mapping[int, float]) -> list[float]:
    """Score minus baseline on each seed that both have, in the order of the seeds."""
    return [scores[seed] - baseline[seed] for seed in sorted(scores.keys() & baseline.keys())]
