"""What an estimator of mutual information reads and gives back.

A critic f scores pairs. A row holds the score of one pair drawn from the joint distribution, the positive p, and the
scores n_1 ... n_K of pairs drawn from the product of the marginals, its own negatives; or, in place of those scores,
the log of the mean of exp(n) in closed form. A matrix of scores of a batch, f_ij = f(x_i, y_j), is a case of it: the
diagonal holds the positives, and the rest of a row its negatives.

In the files beside this one p_i is the score of row i's joint pair, m_i the log-mean-exp of its K negatives, b_i its
learned baseline. A mean is over rows. The optimal critic is the log ratio of joint and product density. The bounds that
are not invariant to the scores' scale (NWJ, I_alpha at a share of 0) need it to be normalised, E[exp n] = 1.

No estimator escapes this. A lower bound that holds with high confidence for any distribution is at most of the order of
log n for n samples (McAllester and Stratos, arXiv:1811.04251). And a larger bound is not a better representation.

Shapes: B rows, K negatives, N rows of a square batch.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from infoprompt.kernels.pair_stats.reference import PairStats


@dataclass(frozen=True)
class RowScores:
    """Scores of B rows, float32 or wider; every row has at least one negative."""

    positive_B: Tensor
    """p, the score of the row's joint pair."""
    log_mean_exp_B: Tensor
    """m, the log of the mean of exp(n) over the row's negatives."""
    num_negatives_B: Tensor
    """K of each row, in the dtype of the scores."""
    negative_BK: Tensor | None = None
    """n, where samples are at hand."""
    keep_BK: Tensor | None = None
    """Which of them count, bool; all if not given."""
    baseline_B: Tensor | None = None
    """The learned baseline of each row (`Estimator.needs_baseline`); 0 if not given."""
    log_average: Tensor | None = None
    """Log of the running mean of exp(n), these rows included, a scalar (`Estimator.move_average`); that of these rows
    if not given."""

    @classmethod
    def from_samples(
        cls,
        positive_B: Tensor,
        negative_BK: Tensor,
        keep_BK: Tensor | None = None,
        baseline_B: Tensor | None = None,
    ) -> "RowScores":
        """One positive and K own negatives per row.

        Args:
            positive_B: scores of joint pairs, [B], any float dtype.
            negative_BK: scores of product pairs, [B, K].
            keep_BK: which negatives count, [B, K], bool, at least one a row; all if not given.
            baseline_B: learned baseline, [B], in nats.
        Raises:
            ValueError: shapes disagree.
        """
        _check(positive_B, negative_BK=negative_BK, baseline_B=baseline_B)
        negative_BK = _wide(negative_BK)
        num_negatives_B = torch.full_like(negative_BK[:, 0], negative_BK.shape[1])
        counted_BK = negative_BK
        if keep_BK is not None:
            if keep_BK.shape != negative_BK.shape:
                raise ValueError(f"keep_BK is {list(keep_BK.shape)}, but must be {list(negative_BK.shape)}.")
            counted_BK = negative_BK.masked_fill(~keep_BK, -torch.inf)
            num_negatives_B = keep_BK.sum(1).to(negative_BK.dtype)
        log_mean_exp_B = counted_BK.logsumexp(1) - num_negatives_B.log()
        return cls(_wide(positive_B), log_mean_exp_B, num_negatives_B, negative_BK, keep_BK, baseline_B)

    @classmethod
    def from_log_mean_exp(
        cls, positive_B: Tensor, log_mean_exp_B: Tensor, num_negatives: int, baseline_B: Tensor | None = None
    ) -> "RowScores":
        """One positive per row, and log E[exp(n)] of its negatives in closed form, which stands for K of them.

        Raises:
            ValueError: shapes disagree, or K is below 1.
        """
        _check(positive_B, log_mean_exp_B=log_mean_exp_B, baseline_B=baseline_B)
        if num_negatives < 1:
            raise ValueError(f"num_negatives is {num_negatives}, but must be at least 1.")
        positive_B = _wide(positive_B)
        num_negatives_B = torch.full_like(positive_B, num_negatives, requires_grad=False)
        return cls(positive_B, _wide(log_mean_exp_B), num_negatives_B, baseline_B=baseline_B)

    @classmethod
    def from_pair_stats(cls, stats: PairStats, num_negatives: int, baseline_B: Tensor | None = None) -> "RowScores":
        """Rows of a matrix of scores that was never stored.

        Args:
            stats: of `pair_stats`.
            num_negatives: keys less the positive.
            baseline_B: learned baseline, [B], in nats.
        Raises:
            ValueError: shapes disagree, or K is below 1.
        """
        mean_B = stats.row_lse_N - math.log(max(num_negatives, 1))
        return cls.from_log_mean_exp(stats.positive_N, mean_B, num_negatives, baseline_B)

    @classmethod
    def from_matrix(cls, score_NN: Tensor, baseline_N: Tensor | None = None) -> "RowScores":
        """A batch of N pairs, all scored with all: the diagonal is joint, the K = N - 1 others of a row are product.

        So the positive is never among the negatives; an estimator that puts it into its denominator says so by
        `include_positive`. The transposed matrix contrasts the other variable; CLIP's symmetric loss is the mean of
        both.

        Raises:
            ValueError: the matrix is not square, or has a single row.
        """
        if score_NN.ndim != 2 or score_NN.shape[0] != score_NN.shape[1] or len(score_NN) < 2:
            raise ValueError(f"score_NN is {list(score_NN.shape)}, but must be square with at least two rows.")
        off_diagonal_NN = ~torch.eye(len(score_NN), dtype=torch.bool, device=score_NN.device)
        return cls.from_samples(score_NN.diagonal(), score_NN, off_diagonal_NN, baseline_N)

    @property
    def samples_BK(self) -> Tensor:
        """The negatives' scores; a ValueError where there is only their log-mean-exp."""
        if self.negative_BK is None:
            raise ValueError("This estimator reads the score of every negative, but only their log-mean-exp is given.")
        return self.negative_BK

    @property
    def offset_B(self) -> Tensor:
        """The learned baseline, or zeros."""
        return torch.zeros_like(self.positive_B) if self.baseline_B is None else _wide(self.baseline_B)

    def mean_over_negatives(self, value_BK: Tensor) -> Tensor:
        """Mean of a function of the negatives' scores over those that count, [B]."""
        counted_BK = value_BK if self.keep_BK is None else value_BK.masked_fill(~self.keep_BK, 0)
        return counted_BK.sum(1) / self.num_negatives_B


@dataclass(frozen=True)
class Estimate:
    """What an estimator makes of a batch of rows."""

    value_B: Tensor
    """Each row's share of the estimate in nats: the estimate is the mean. No gradient."""
    loss_B: Tensor
    """What is trained, in nats, smaller is better: the loss is the mean."""
    active_B: Tensor
    """Whether the loss of a row has a gradient with respect to its scores, bool; it can underflow, never by a cap."""


class Estimator(ABC):
    """An estimator of mutual information: its value, its loss, and what is known of it."""

    name: ClassVar[str]
    is_lower_bound: ClassVar[bool]
    """Whether the expected value is at most the mutual information, whatever the critic (and the baseline)."""
    needs_samples: ClassVar[bool] = False
    """Whether it reads each negative's score, not only their log-mean-exp."""
    needs_baseline: ClassVar[bool] = False
    """Whether it has a learned baseline; without one, zero is taken for it."""
    baseline_sees_pair: ClassVar[bool] = False
    """Whether the baseline may differ between candidates of a row, and so see both sides of the joint pair."""
    include_positive: ClassVar[bool] = False
    """Whether the positive is one of the candidates in the denominator."""
    needs_average: ClassVar[bool] = False
    """Whether it divides by a running mean of exp(n), see `move_average`."""
    settings: ClassVar[Mapping[str, str]] = {}
    """Its fields that a run sets, each with the setting's name in `objective`."""

    @abstractmethod
    def __call__(self, scores: RowScores) -> Estimate:
        """Estimate and loss of a batch of rows."""

    def ceiling(self, num_negatives_B: Tensor) -> Tensor | None:
        """The largest value that rows with so many negatives can take, [B], in nats; None where there is none."""
        return None

    def start_baseline(self, learned_B: Tensor, positive_B: Tensor) -> Tensor:
        """The baseline, [B], from what is learned of it, which is zero at the start."""
        return learned_B

    def move_average(self, log_average: Tensor | None, log_batch: Tensor) -> Tensor:
        """Log of the running mean of exp(n) with one more batch in it, a scalar.

        Args:
            log_average: what this returned for the batch before; None before the first.
            log_batch: log of this batch's mean.
        """
        raise NotImplementedError(f"{self.name} divides by no running mean.")


def own_value(scores: RowScores, value_B: Tensor, active_B: Tensor | None = None) -> Estimate:
    """The estimate of an estimator that is trained by its own value; every row is active if not given."""
    active_B = torch.ones_like(scores.positive_B, dtype=torch.bool) if active_B is None else active_B
    return Estimate(value_B.detach(), -value_B, active_B)


def log_mean_exp(log_B: Tensor) -> Tensor:
    """log of the mean of exp over all rows, a scalar."""
    return log_B.logsumexp(0) - math.log(len(log_B))


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _check(positive_B: Tensor, **others: Tensor | None) -> None:
    for name, other in others.items():
        if other is not None and other.shape[0] != positive_B.shape[0]:
            raise ValueError(f"{name} has {other.shape[0]} rows, but positive_B has {positive_B.shape[0]}.")
        if other is not None and other.ndim != len(name.rsplit("_", 1)[-1]):
            raise ValueError(f"{name} is {list(other.shape)}, but its last letters name its dimensions.")
