"""InfoNCE: the cross-entropy of picking the positive among its negatives."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from infoprompt.kernels.estimators.scores import Estimate, Estimator, RowScores


@dataclass(frozen=True)
class InfoNCE(Estimator):
    """mean( p - log( (exp p + K exp m) / (K + 1) ) ), the positive being one of K + 1 candidates.

    A lower bound of low variance, never above log(K + 1), and far too low where the mutual information is. Trained by
    its negative less the constant: the cross-entropy of picking the positive.
    Source: van den Oord et al. 2018, arXiv:1807.03748, equations 4 and 5.
    """

    name: ClassVar[str] = "infonce"
    is_lower_bound: ClassVar[bool] = True
    include_positive: ClassVar[bool] = True

    def __call__(self, scores: RowScores) -> Estimate:
        log_sum_B = scores.num_negatives_B.log() + scores.log_mean_exp_B
        loss_B = F.softplus(log_sum_B - scores.positive_B, threshold=40)
        return Estimate(self.ceiling(scores.num_negatives_B) - loss_B.detach(), loss_B, loss_B > 0)

    def ceiling(self, num_negatives_B: Tensor) -> Tensor:
        """log(K + 1)."""
        return torch.log1p(num_negatives_B)


ESTIMATOR = InfoNCE
