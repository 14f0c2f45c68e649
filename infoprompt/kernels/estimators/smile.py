"""SMILE: a discriminator, whose value is a clamped Donsker-Varadhan."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from infoprompt.kernels.estimators.jsd import discriminator_loss
from infoprompt.kernels.estimators.scores import Estimate, Estimator, RowScores, log_mean_exp


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
    settings: ClassVar[Mapping[str, str]] = {"tau": "smile_tau"}

    tau: float = 5.0
    """Largest absolute score of a negative in the value, in nats."""

    def __call__(self, scores: RowScores) -> Estimate:
        loss_B = discriminator_loss(scores)
        clamped_B = scores.mean_over_negatives(scores.samples_BK.clamp(-self.tau, self.tau).exp())
        value_B = scores.positive_B - log_mean_exp(clamped_B.log())
        return Estimate(value_B.detach(), loss_B, loss_B > 0)


ESTIMATOR = Smile
