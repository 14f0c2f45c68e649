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
    batch; `mine_loss` has the one with a running mean.
    Source: Donsker and Varadhan 1983, as in Belghazi et al. 2018, arXiv:1801.04062.
    """

    name: ClassVar[str] = "dv"
    is_lower_bound: ClassVar[bool] = False

    def __call__(self, scores: RowScores) -> Estimate:
        value_B = scores.positive_B - log_mean_exp(scores.log_mean_exp_B)
        return Estimate(value_B.detach(), -value_B, torch.ones_like(value_B, dtype=torch.bool))


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


def mine_loss(scores: RowScores, log_average: Tensor | None = None, *, decay: float = 0.99) -> tuple[Tensor, Tensor]:
    """MINE's loss: Donsker and Varadhan's gradient with a running mean of exp n in the denominator.

        -p + exp( m - log average ),   average <- decay * average + (1 - decay) * mean exp m

    The batch's own mean makes that gradient biased; a running mean does so less. It is handed from call to call, so
    that nothing is kept out of sight. The value is `DonskerVaradhan`'s. The gradient is also that of `Tuba` with the
    log of the running mean as baseline; `tuba` is the form that a run can choose, its baseline is saved with the run.

    Args:
        scores: the batch.
        log_average: log of the running mean so far, a scalar; None at the start.
        decay: share of the running mean that is kept.
    Returns:
        Loss per row, [B] (only its gradient means anything), and the new log of the running mean.
    Source: Belghazi et al. 2018, arXiv:1801.04062 (the gradient's bias).
    """
    current = log_mean_exp(scores.log_mean_exp_B.detach())
    if log_average is None or decay == 0:
        log_average = current
    else:
        log_average = torch.logaddexp(log_average + math.log(decay), current + math.log1p(-decay))
    return (scores.log_mean_exp_B - log_average).exp() - scores.positive_B, log_average


def _discriminator_loss(scores: RowScores) -> Tensor:
    return F.softplus(-scores.positive_B) + scores.mean_over_negatives(F.softplus(scores.samples_BK))
