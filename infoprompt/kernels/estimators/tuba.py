"""TUBA: NWJ with a learned baseline."""

from dataclasses import dataclass
from typing import ClassVar

from infoprompt.kernels.estimators.scores import Estimate, Estimator, RowScores, own_value


@dataclass(frozen=True)
class Tuba(Estimator):
    """1 + mean( p - b ) - mean exp( m - b ), b = log a the learned baseline.

    A lower bound for any baseline that does not depend on which candidate is scored; tight where b = log E[exp n], so
    the critic need not be normalised. Variance as `Nwj`'s, which it is for b = 0; no ceiling.
    Source: Poole et al. 2019, arXiv:1905.06922 (I_TUBA).
    """

    name: ClassVar[str] = "tuba"
    is_lower_bound: ClassVar[bool] = True
    needs_baseline: ClassVar[bool] = True

    def __call__(self, scores: RowScores) -> Estimate:
        baseline_B = scores.offset_B
        return own_value(scores, 1 + scores.positive_B - baseline_B - (scores.log_mean_exp_B - baseline_B).exp())


ESTIMATOR = Tuba
