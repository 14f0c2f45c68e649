"""Lower bounds on the mutual information that need no more of the negatives than their log-mean-exp.

p_i is the score of row i's joint pair, m_i the log-mean-exp of its K negatives, b_i its learned baseline; a mean is
over rows. The optimal critic is the log ratio of joint and product density; the bounds that are not invariant to the
scores' scale (`Nwj`, `Interpolated` at a share of 0) need it to be normalised, E[exp n] = 1.

No estimator escapes this: a lower bound that holds with high confidence, whatever the distribution, is at most of the
order of log n for n samples (McAllester and Stratos, arXiv:1811.04251). And a larger bound is not a better
representation. Letters: B rows, K negatives.
"""

import math
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


@dataclass(frozen=True)
class Nwj(Estimator):
    """1 + mean p - mean exp m, also known as the f-GAN bound of the KL divergence and as MINE-f.

    A lower bound without ceiling, unbiased under the optimal critic, which is the normalised log ratio; the variance
    of its second term grows as exp(2 I), so that a value far above log n rests on a few samples.
    Source: Nguyen, Wainwright and Jordan 2010, arXiv:0809.0853; Poole et al. 2019, arXiv:1905.06922 (I_NWJ), there with
    scores larger by one.
    """

    name: ClassVar[str] = "nwj"
    is_lower_bound: ClassVar[bool] = True

    def __call__(self, scores: RowScores) -> Estimate:
        return _of_value(scores, 1 + scores.positive_B - scores.log_mean_exp_B.exp())


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
        return _of_value(scores, 1 + scores.positive_B - baseline_B - (scores.log_mean_exp_B - baseline_B).exp())


@dataclass(frozen=True)
class Interpolated(Estimator):
    """I_alpha, between InfoNCE (share 1) and TUBA or, for b = 0, NWJ (share 0).

        1 + mean( p - log( alpha (exp p + (K - 1) exp m) / K + (1 - alpha) exp b ) )
          - mean( exp m / (alpha exp m + (1 - alpha) exp b) )

    A lower bound that trades bias for variance by alpha. As published, both denominators average K candidates, and the
    joint one averages the positive and K - 1 of the negatives; here the mean of all K stands for the mean of K - 1,
    so that the log-mean-exp is enough. By Jensen that lowers the value, and so does a log-mean-exp in closed form.
    Source: Poole et al. 2019, arXiv:1905.06922 (I_alpha); its baseline q is exp b.
    """

    name: ClassVar[str] = "interpolated"
    is_lower_bound: ClassVar[bool] = True
    needs_baseline: ClassVar[bool] = True
    include_positive: ClassVar[bool] = True

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
        return _of_value(scores, value_B, (joint_B > own_B) | (product_B > 0))

    def ceiling(self, num_negatives_B: Tensor) -> Tensor | None:
        """1 + log(K / alpha), reached only where no negative scores at all; log K for a share of 1, none for 0."""
        if self.alpha == 0:
            return None
        return num_negatives_B.log() - math.log(self.alpha) + (1 if self.alpha < 1 else 0)


@dataclass(frozen=True)
class Flo(Estimator):
    """1 - mean( u + exp( m - p - u ) ), u learned for each joint pair.

    A lower bound for any u, tight at u = m - p, where it is the mean of p - m; one negative suffices, and the gradient
    is that of a ratio, so no row with a large exp m drowns the others. No ceiling.
    Source: Guo et al. 2021, arXiv:2107.01131 (FLO).
    """

    name: ClassVar[str] = "flo"
    is_lower_bound: ClassVar[bool] = True
    needs_baseline: ClassVar[bool] = True

    def __call__(self, scores: RowScores) -> Estimate:
        excess_B = (scores.log_mean_exp_B - scores.positive_B - scores.offset_B).exp()
        return _of_value(scores, 1 - scores.offset_B - excess_B, excess_B > 0)


def _of_value(scores: RowScores, value_B: Tensor, active_B: Tensor | None = None) -> Estimate:
    """An estimator that is trained by its own value."""
    active_B = torch.ones_like(scores.positive_B, dtype=torch.bool) if active_B is None else active_B
    return Estimate(value_B.detach(), -value_B, active_B)


def _log(share: float) -> float:
    return math.log(share) if share > 0 else -math.inf
