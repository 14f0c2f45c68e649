"""MINE: Donsker-Varadhan with a running mean in its gradient."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from infoprompt.kernels.estimators.scores import Estimate, Estimator, RowScores, log_mean_exp


@dataclass(frozen=True)
class Mine(Estimator):
    """Value of `DonskerVaradhan`; trained by its gradient with a running mean of exp n in the denominator.

        a - p + exp( m - a ) - 1,  a the log of the running mean, without gradient

    The batch's own mean makes that gradient biased; a running mean does so less. The loss is the negative value where
    the running mean is the batch's, and above it elsewhere; it is `Tuba`'s for a as baseline, which here is averaged,
    not learned. The scores carry a (`RowScores.log_average`), and `move_average` is its next value, so that nothing is
    kept out of sight. No ceiling.
    Source: Belghazi et al. 2018, arXiv:1801.04062 (the gradient's bias), which names no rate.
    """

    name: ClassVar[str] = "mine"
    is_lower_bound: ClassVar[bool] = False
    needs_average: ClassVar[bool] = True
    settings: ClassVar[Mapping[str, str]] = {"rate": "mine_rate"}

    rate: float = 0.01
    """Weight of the newest batch in the running mean, above 0; 1 is `DonskerVaradhan`'s gradient."""

    def __call__(self, scores: RowScores) -> Estimate:
        log_batch = log_mean_exp(scores.log_mean_exp_B)
        log_average = log_batch.detach() if scores.log_average is None else scores.log_average
        loss_B = log_average - scores.positive_B + (scores.log_mean_exp_B - log_average).exp() - 1
        active_B = torch.ones_like(loss_B, dtype=torch.bool)
        return Estimate((scores.positive_B - log_batch).detach(), loss_B, active_B)

    def move_average(self, log_average: Tensor | None, log_batch: Tensor) -> Tensor:
        """log( (1 - rate) average + rate batch ), a scalar; the batch's at the start, where there is no average yet."""
        if log_average is None or self.rate == 1:
            return log_batch
        return torch.logaddexp(log_average + math.log1p(-self.rate), log_batch + math.log(self.rate))


ESTIMATOR = Mine
