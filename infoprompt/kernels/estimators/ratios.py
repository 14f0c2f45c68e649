"""Estimators by way of the log ratio of joint and product density, of which some are no bounds.

Scores as in `lower_bounds`: p positive, n negatives, m their log-mean-exp. Letters: B rows, K negatives.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from infoprompt.kernels.estimators.scores import Estimate, Estimator, RowScores, log_mean_exp


@dataclass(frozen=True)
class DonskerVaradhan(Estimator):
    """mean p - log mean exp m, the log outside the mean over all rows.

    With expectations it is a lower bound, tighter than NWJ for the same critic; on a batch the log of a mean is too
    small on average, so the value is biased up and bounds nothing. No ceiling. Trained by its own gradient, that of the
    batch; `Mine` has the one with a running mean.
    Source: Donsker and Varadhan 1983, as in Belghazi et al. 2018, arXiv:1801.04062.
    """

    name: ClassVar[str] = "dv"
    is_lower_bound: ClassVar[bool] = False

    def __call__(self, scores: RowScores) -> Estimate:
        value_B = scores.positive_B - log_mean_exp(scores.log_mean_exp_B)
        return Estimate(value_B.detach(), -value_B, torch.ones_like(value_B, dtype=torch.bool))


@dataclass(frozen=True)
class Mine(Estimator):
    """Value of `DonskerVaradhan`; trained by its gradient with a running mean of exp n in the denominator.

        a - p + exp( m - a ) - 1,  a the log of the running mean, without gradient

    The batch's own mean makes that gradient biased; a running mean does so less. The loss is the negative value where
    the running mean is the batch's, and above it elsewhere; it is `Tuba`'s for a as baseline, which here is averaged,
    not learned. The scores carry a (`RowScores.log_average`), and `moved` is its next value, so that nothing is kept
    out of sight. No ceiling.
    Source: Belghazi et al. 2018, arXiv:1801.04062 (the gradient's bias), which names no rate.
    """

    name: ClassVar[str] = "mine"
    is_lower_bound: ClassVar[bool] = False

    rate: float = 0.01
    """Weight of the newest batch in the running mean, above 0; 1 is `DonskerVaradhan`'s gradient."""

    def __call__(self, scores: RowScores) -> Estimate:
        log_batch = log_mean_exp(scores.log_mean_exp_B)
        log_average = log_batch.detach() if scores.log_average is None else scores.log_average
        loss_B = log_average - scores.positive_B + (scores.log_mean_exp_B - log_average).exp() - 1
        active_B = torch.ones_like(loss_B, dtype=torch.bool)
        return Estimate((scores.positive_B - log_batch).detach(), loss_B, active_B)

    def moved(self, log_average: Tensor | None, log_batch: Tensor) -> Tensor:
        """log( (1 - rate) average + rate batch ), a scalar; the batch's at the start, where there is no average yet."""
        if log_average is None or self.rate == 1:
            return log_batch
        return torch.logaddexp(log_average + math.log1p(-self.rate), log_batch + math.log(self.rate))


@dataclass(frozen=True)
class Jsd(Estimator):
    """Trained by mean softplus(-p) + mean softplus(n), a discriminator's loss; its value is NWJ's for the same scores.

    The loss is stable, and its optimum is the normalised log ratio, NWJ's optimal critic. The value is a lower bound
    without ceiling and as noisy as NWJ's.
    Source: Nowozin et al. 2016, arXiv:1606.00709; value by NWJ as in Poole et al. 2019, arXiv:1905.06922 (I_JS).
    """

    name: ClassVar[str] = "jsd"
    is_lower_bound: ClassVar[bool] = True
    needs_samples: ClassVar[bool] = True

    def __call__(self, scores: RowScores) -> Estimate:
        loss_B = _discriminator_loss(scores)
        value_B = 1 + scores.positive_B - scores.log_mean_exp_B.exp()
        return Estimate(value_B.detach(), loss_B, loss_B > 0)


@dataclass(frozen=True)
class Smile(Estimator):
    """Trained as `Jsd`; its value is mean p - log mean exp clamp(n, -tau, tau), positives not clamped.

    The clamp bounds the second term by tau either way, and with it the variance; the value stays within tau of mean p
    and has no ceiling of its own. Biased even with the true log ratio (upward, the more so the larger the mutual
    information), so it is no bound.
    Source: Song and Ermon 2020, arXiv:1910.06222 (SMILE).
    """

    name: ClassVar[str] = "smile"
    is_lower_bound: ClassVar[bool] = False
    needs_samples: ClassVar[bool] = True

    tau: float = 5.0
    """Largest absolute score of a negative in the value, in nats."""

    def __call__(self, scores: RowScores) -> Estimate:
        loss_B = _discriminator_loss(scores)
        clamped_B = scores.mean_over_negatives(scores.samples_BK.clamp(-self.tau, self.tau).exp())
        value_B = scores.positive_B - log_mean_exp(clamped_B.log())
        return Estimate(value_B.detach(), loss_B, loss_B > 0)


def _discriminator_loss(scores: RowScores) -> Tensor:
    return F.softplus(-scores.positive_B) + scores.mean_over_negatives(F.softplus(scores.samples_BK))
