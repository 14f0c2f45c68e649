"""Donsker-Varadhan: the log of a mean over the batch."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from infoprompt.kernels.estimators.scores import Estimate, Estimator, RowScores, log_mean_exp


@dataclass(frozen=True)
class DonskerVaradhan(Estimator):
    """mean p - log mean exp m, the log outside the mean over all rows.

    With expectations it is a lower bound, tighter than NWJ for the same critic. On a batch the log of a mean is too
    small on average, so the value is biased up and bounds nothing. No ceiling. Trained by its own gradient, that of the
    batch; `Mine` has the one with a running mean. Source: Donsker and Varadhan 1983, as in Belghazi et al. 2018,
    arXiv:1801.04062.
    """

    name: ClassVar[str] = "dv"
    is_lower_bound: ClassVar[bool] = False

    def __call__(self, scores: RowScores) -> Estimate:
        value_B = scores.positive_B - log_mean_exp(scores.log_mean_exp_B)
        return Estimate(value_B.detach(), -value_B, torch.ones_like(value_B, dtype=torch.bool))


ESTIMATOR = DonskerVaradhan
