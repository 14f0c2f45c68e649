"""What the objective hands to the engine and to the records."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from infoprompt.kernels.estimators.infonce import InfoNCE
from infoprompt.kernels.estimators.scores import Estimator, RowScores

INFONCE = InfoNCE()


@dataclass(frozen=True)
class InformationTerm:
    """One mutual-information loss over a micro-batch."""

    loss: Tensor
    """Mean loss in nats, with the cap applied; what is trained."""
    value: Tensor
    """The estimate of the mutual information in nats, whatever the cap; no gradient."""
    ceiling: Tensor | None
    """The largest value that the estimator can take here, in nats; None where it has no limit."""
    active_share: Tensor
    """Share of examples whose gradient is not zero."""
    estimator: Estimator = INFONCE
    """What made the estimate."""

    @classmethod
    def from_rows(cls, loss_B: Tensor, num_negatives_B: Tensor, cap: float | None) -> "InformationTerm":
        """Reduce InfoNCE losses, [B] in nats, against `num_negatives_B` negatives each."""
        capped_B = loss_B if cap is None else loss_B.clamp(max=cap)
        # softplus underflows to zero, and with it the gradient, when the positive wins by some 100 nats
        active_B = (loss_B > 0) if cap is None else (loss_B > 0) & (loss_B <= cap)
        ceiling_B = INFONCE.ceiling(num_negatives_B.to(loss_B.dtype))
        return cls(
            loss=capped_B.mean(),
            value=(ceiling_B - loss_B.detach()).mean(),
            ceiling=ceiling_B.mean(),
            active_share=active_B.to(loss_B.dtype).mean(),
        )

    @classmethod
    def from_scores(cls, estimator: Estimator, scores: RowScores) -> "InformationTerm":
        """Reduce what an estimator makes of scores."""
        estimate = estimator(scores)
        ceiling_B = estimator.ceiling(scores.num_negatives_B)
        return cls(
            loss=estimate.loss_B.mean(),
            value=estimate.value_B.mean(),
            ceiling=None if ceiling_B is None else ceiling_B.mean(),
            active_share=estimate.active_B.to(estimate.loss_B.dtype).mean(),
            estimator=estimator,
        )

    def as_metrics(self, term: str) -> dict[str, Tensor]:
        """Numbers for the records; a value that bounds nothing is not called a bound."""
        prefix = f"train/mi_{term}_{self.estimator.name}"
        kind = "bound" if self.estimator.is_lower_bound else "value"
        ceiling = {} if self.ceiling is None else {f"{prefix}_ceiling": self.ceiling}
        return {
            f"train/{term}_loss": self.loss,
            f"{prefix}_{kind}": self.value,
            **ceiling,
            f"train/{term}_active_share": self.active_share,
        }


@dataclass(frozen=True)
class LossTerms:
    """The total and its parts; a part that is off is None."""

    total: Tensor
    task: Tensor
    head: InformationTerm | None = None
    representation: InformationTerm | None = None
    kl: Tensor | None = None
    label: InformationTerm | None = None
    anchor: Tensor | None = None
    task_name: str = "cross_entropy"
    """What the records call the task's own loss."""

    def detached(self) -> "LossTerms":
        """The same numbers without the graph that they come from, which holds memory."""
        changes: dict[str, Any] = {
            name: replace(term, loss=term.loss.detach()) for name, term in self._information().items()
        }
        for name in ("kl", "anchor"):
            value = getattr(self, name)
            changes[name] = None if value is None else value.detach()
        return replace(self, total=self.total.detach(), task=self.task.detach(), **changes)

    def as_metrics(self) -> dict[str, float]:
        """Numbers for the records, in nats; moves them to the host."""
        metrics = {"train/loss": self.total, f"train/{self.task_name}": self.task}
        for name, term in self._information().items():
            metrics.update(term.as_metrics(name))
        if self.kl is not None:
            metrics["train/kl"] = self.kl
        if self.anchor is not None:
            metrics["train/start_anchor"] = self.anchor
        return {name: value.detach().item() for name, value in metrics.items()}

    def _information(self) -> dict[str, InformationTerm]:
        terms = {"head": self.head, "representation": self.representation, "label": self.label}
        return {name: term for name, term in terms.items() if term is not None}


def mean_metrics(parts: Sequence[LossTerms]) -> dict[str, float]:
    """Numbers for the records of an update: the mean over its micro-batches, which are all of one size."""
    metrics = [terms.as_metrics() for terms in parts]
    return {name: sum(values[name] for values in metrics) / len(metrics) for name in metrics[0]}
