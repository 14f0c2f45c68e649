"""I_alpha: between InfoNCE and TUBA."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from infoprompt.kernels.estimators.scores import Estimate, Estimator, RowScores, own_value


@dataclass(frozen=True)
class Interpolated(Estimator):
    """I_alpha, between InfoNCE (share 1) and TUBA or, for b = 0, NWJ (share 0).

        1 + mean( p - log( alpha (exp p + (K - 1) exp m) / K + (1 - alpha) exp b ) )
          - mean( exp m / (alpha exp m + (1 - alpha) exp b) )

    A lower bound that trades bias for variance by alpha. As published, both denominators average K candidates, and the
    joint one averages the positive and K - 1 of the negatives. Here the mean of all K stands for the mean of K - 1, so
    that the log-mean-exp is enough. By Jensen that lowers the value, and so does a log-mean-exp in closed form. Source:
    Poole et al. 2019, arXiv:1905.06922 (I_alpha); its baseline q is exp b.
    """

    name: ClassVar[str] = "interpolated"
    is_lower_bound: ClassVar[bool] = True
    needs_baseline: ClassVar[bool] = True
    include_positive: ClassVar[bool] = True
    settings: ClassVar[Mapping[str, str]] = {"alpha": "interpolation"}

    alpha: float = 0.01
    """Share of the batch's own mean in the denominator, from 0 to 1."""

    def __call__(self, scores: RowScores) -> Estimate:
        positive_B, mean_B, count_B = scores.positive_B, scores.log_mean_exp_B, scores.num_negatives_B
        log_share, log_rest = _log(self.alpha), _log(1 - self.alpha)
        fixed_B = log_rest + scores.offset_B
        own_B = log_share + positive_B - count_B.log()
        others_B = log_share + (count_B - 1).log() + mean_B - count_B.log()
        rest_B = torch.logaddexp(others_B, fixed_B) if self.alpha < 1 else others_B
        joint_B = torch.logaddexp(own_B, rest_B) if self.alpha > 0 else fixed_B
        if self.alpha == 1:
            product_B = torch.ones_like(mean_B)
        else:
            product_B = (mean_B - torch.logaddexp(log_share + mean_B, fixed_B)).exp()
        value_B = 1 + positive_B - joint_B - product_B
        return own_value(scores, value_B, (joint_B > own_B) | (product_B > 0))

    def ceiling(self, num_negatives_B: Tensor) -> Tensor | None:
        """1 + log(K / alpha), reached only where no negative scores at all; log K for a share of 1, none for 0."""
        if self.alpha == 0:
            return None
        return num_negatives_B.log() - math.log(self.alpha) + (1 if self.alpha < 1 else 0)


def _log(share: float) -> float:
    return math.log(share) if share > 0 else -math.inf


ESTIMATOR = Interpolated
