"""JSD: a discriminator, whose value is NWJ's."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from infoprompt.kernels.estimators.scores import Estimate, Estimator, RowScores


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
        loss_B = discriminator_loss(scores)
        value_B = 1 + scores.positive_B - scores.log_mean_exp_B.exp()
        return Estimate(value_B.detach(), loss_B, loss_B > 0)


def discriminator_loss(scores: RowScores) -> Tensor:
    """Loss of telling joint pairs from product pairs, [B], in nats."""
    return F.softplus(-scores.positive_B) + scores.mean_over_negatives(F.softplus(scores.samples_BK))


ESTIMATOR = Jsd
