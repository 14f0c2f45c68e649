"""FLO: NWJ with a learned number for each joint pair."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from infoprompt.kernels.estimators.scores import Estimate, Estimator, RowScores, own_value


@dataclass(frozen=True)
class Flo(Estimator):
    """1 - mean( u + exp( m - p - u ) ), u learned for each joint pair.

    A lower bound for any u, tight at u = m - p, where it is the mean of p - m. One negative suffices, and the gradient
    is that of a ratio, so no row with a large exp m drowns the others. No ceiling. Source: Guo et al. 2021,
    arXiv:2107.01131 (FLO).
    """

    name: ClassVar[str] = "flo"
    is_lower_bound: ClassVar[bool] = True
    needs_baseline: ClassVar[bool] = True
    baseline_sees_pair: ClassVar[bool] = True

    def __call__(self, scores: RowScores) -> Estimate:
        excess_B = (scores.log_mean_exp_B - scores.positive_B - scores.offset_B).exp()
        return own_value(scores, 1 - scores.offset_B - excess_B, excess_B > 0)

    def start_baseline(self, learned_B: Tensor, positive_B: Tensor) -> Tensor:
        """u as its difference from -p.

        At a difference that positive and negatives share FLO is TUBA, so it starts as NWJ, as TUBA does, instead of
        learning its own scores first.
        """
        return learned_B - positive_B.detach()


ESTIMATOR = Flo
