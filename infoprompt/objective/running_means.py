"""The running means that MINE divides by, handed from one micro-batch of training to the next."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from infoprompt.kernels.estimators.ratios import Mine
from infoprompt.kernels.estimators.scores import Estimator, RowScores, log_mean_exp


def alone(value: Tensor) -> Tensor:
    """The tensors of all ranks, stacked, where there is one rank."""
    return value.unsqueeze(0)


@dataclass(frozen=True)
class RunningMeans:
    """Running means of exp(n) over the micro-batches so far, one for each term that `mine` estimates.

    They move once for each micro-batch of training and never in evaluation. A micro-batch's mean is taken over its rows
    on all ranks, so every rank divides by the same number, and the gradient of two ranks with 4 rows each is that of
    one with 8 but for rounding; it costs a collective of one number per term and micro-batch. Gradient accumulation is
    not equal to one large micro-batch: the means move more often. The value that is logged is of each rank's own rows,
    as for `dv`. The means are statistics: a resume state keeps them, and they are no part of what is trained.
    """

    log_averages: Mapping[str, Tensor] = field(default_factory=dict)
    """Their logs, scalars, by term; empty before the first micro-batch."""
    gather: Callable[[Tensor], Tensor] = alone
    """Stacks the tensors of all ranks; collective."""

    def join(self, term: str, estimator: Estimator, scores: RowScores) -> RowScores:
        """The scores with the term's running mean, moved by them; just the scores for an estimator without one."""
        if not isinstance(estimator, Mine):
            return scores
        log_batch = log_mean_exp(self.gather(log_mean_exp(scores.log_mean_exp_B.detach())))
        return replace(scores, log_average=estimator.moved(self.log_averages.get(term), log_batch))


FIRST = RunningMeans()
"""Those of the first micro-batch of one rank: the means are the batch's own."""
