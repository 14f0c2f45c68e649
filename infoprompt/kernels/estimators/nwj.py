"""NWJ: the f-GAN bound of the KL divergence."""

from dataclasses import dataclass
from typing import ClassVar

from infoprompt.kernels.estimators.scores import Estimate, Estimator, RowScores, own_value


@dataclass(frozen=True)
class Nwj(Estimator):
    """1 + mean p - mean exp m, also known as the f-GAN bound of the KL divergence and as MINE-f.

    A lower bound without ceiling, unbiased under the optimal critic, which is the normalised log ratio. The variance of
    its second term grows as exp(2 I), so that a value far above log n rests on a few samples. Source: Nguyen,
    Wainwright and Jordan 2010, arXiv:0809.0853; Poole et al. 2019, arXiv:1905.06922 (I_NWJ), there with scores larger
    by one.
    """

    name: ClassVar[str] = "nwj"
    is_lower_bound: ClassVar[bool] = True

    def __call__(self, scores: RowScores) -> Estimate:
        return own_value(scores, 1 + scores.positive_B - scores.log_mean_exp_B.exp())


ESTIMATOR = Nwj
