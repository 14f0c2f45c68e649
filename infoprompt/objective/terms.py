"""What the objective hands to the engine and to the records."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class InformationTerm:
    """One mutual-information loss over a micro-batch."""

    loss: Tensor
    """Mean loss in nats, with the cap applied; what is trained."""
    bound: Tensor
    """InfoNCE's lower bound on the mutual information in nats, from the uncapped loss; no gradient."""
    ceiling: Tensor
    """The most that this bound can certify: mean of log(K + 1), in nats."""
    active_share: Tensor
    """Share of examples whose gradient is not zero."""

    @classmethod
    def from_rows(cls, loss_B: Tensor, num_negatives_B: Tensor, cap: float | None) -> "InformationTerm":
        """Reduce per-row losses, [B] in nats, against `num_negatives_B` negatives each."""
        capped_B = loss_B if cap is None else loss_B.clamp(max=cap)
        # softplus underflows to zero, and with it the gradient, when the positive wins by some 100 nats
        active_B = (loss_B > 0) if cap is None else (loss_B > 0) & (loss_B <= cap)
        ceiling_B = torch.log1p(num_negatives_B.to(loss_B.dtype))
        return cls(
            loss=capped_B.mean(),
            bound=(ceiling_B - loss_B.detach()).mean(),
            ceiling=ceiling_B.mean(),
            active_share=active_B.to(loss_B.dtype).mean(),
        )


@dataclass(frozen=True)
class LossTerms:
    """The total and its parts; a part that is off is None."""

    total: Tensor
    task: Tensor
    head: InformationTerm | None = None
    representation: InformationTerm | None = None
    kl: Tensor | None = None

    def as_metrics(self) -> dict[str, float]:
        """Numbers for the records, in nats; moves them to the host."""
        metrics = {"train/loss": self.total, "train/cross_entropy": self.task}
        for name, term in (("head", self.head), ("representation", self.representation)):
            if term is not None:
                metrics[f"train/{name}_loss"] = term.loss
                metrics[f"train/mi_{name}_infonce_bound"] = term.bound
                metrics[f"train/mi_{name}_infonce_ceiling"] = term.ceiling
                metrics[f"train/{name}_active_share"] = term.active_share
        if self.kl is not None:
            metrics["train/kl"] = self.kl
        return {name: value.detach().item() for name, value in metrics.items()}


def mean_metrics(parts: Sequence[LossTerms]) -> dict[str, float]:
    """Numbers for the records of an update: the mean over its micro-batches, which are all of one size."""
    metrics = [terms.as_metrics() for terms in parts]
    return {name: sum(values[name] for values in metrics) / len(metrics) for name in metrics[0]}
