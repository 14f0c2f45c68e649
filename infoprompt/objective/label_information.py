"""Mutual information between a text and its label, maximised on texts without labels. Ours: neither paper has it.

Shapes: U rows without labels on this rank, C classes, W width of the class vectors.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from infoprompt.config import ConfigError, ObjectiveSettings
from infoprompt.objective.information import KeepsMeans, over_ranks
from infoprompt.objective.terms import InformationTerm


class LabelInformation(KeepsMeans):
    """The term mean_u H(p(.|x_u)) + KL(p_mean || target), in nats; with a uniform target it is log C - I(X; Y).

    The estimate of a batch, H(p_mean) - mean_u H(p(.|x_u)), is InfoNCE with critic log p(y|x), the other rows of the
    batch as negatives, and the expectation over y taken exactly. So it is a lower bound in expectation, and its ceiling
    is min(log C, log U).

    Where a batch has fewer rows than there are classes, `p_mean` is a running mean, in which the newest batch weighs
    U / C. The gradient is that of the newest batch, as in MINE. Means are over the rows of all ranks.

    Sources: Krause, Perona and Gomes 2010 (regularised information maximisation); Boudiaf et al. 2020 (TIM,
    arXiv:2008.11297).
    """

    name = "label"

    def __init__(self, settings: ObjectiveSettings, labels: Sequence[str], *, alone: bool = False) -> None:
        """`labels`: the task's classes. `alone`: each rank has the same rows, so its own mean is that of all."""
        super().__init__()
        self._over_ranks = (lambda value: value.unsqueeze(0)) if alone else over_ranks
        self.estimated = settings.label_marginal == "estimated"
        self.mean_C: Tensor | None
        self.target_C: Tensor | None
        self.register_buffer("mean_C", None, persistent=False)
        target_C = None if self.estimated else target_of(settings, labels)
        self.register_buffer("target_C", target_C, persistent=False)

    def forward(self, logits_UC: Tensor) -> InformationTerm:
        """The term of a micro-batch's rows without labels, from their label scores; collective."""
        log_prob_UC = logits_UC.float().log_softmax(1)
        prob_UC = log_prob_UC.exp()
        entropy_U = -(prob_UC * log_prob_UC).sum(1)
        own_C = prob_UC.mean(0)
        batch_C = self._over_ranks(own_C.detach())
        num_rows, num_classes = len(batch_C) * len(logits_UC), logits_UC.shape[1]
        mean_C = self._moved(batch_C.mean(0), min(1.0, num_rows / num_classes))
        # the value of the mean over all rows with the gradient of this rank's, since gradients are averaged over ranks
        mean_C = own_C + (mean_C - own_C.detach())
        assert self.target_C is not None, "estimated before the term starts"
        tiny = torch.finfo(mean_C.dtype).tiny
        log_mean_C = mean_C.clamp(min=tiny).log()
        divergence = (mean_C * (log_mean_C - self.target_C.log())).sum()
        entropy = entropy_U.mean()
        return InformationTerm(
            loss=entropy + divergence,
            value=(-(mean_C * log_mean_C).sum() - entropy).detach(),
            ceiling=entropy.new_tensor(min(math.log(num_classes), math.log(num_rows))),
            active_share=(entropy_U > 0).float().mean().detach(),
        )

    @torch.no_grad()
    def estimate_target(self, prob_C: Tensor) -> None:
        """Take the classes' shares that the run itself predicts as the target from now on."""
        # a class that no text is thought to have must not make the divergence infinite
        floored_C = prob_C.clamp(min=0.1 / len(prob_C)).float()
        self.target_C = floored_C / floored_C.sum()

    def state(self) -> dict[str, Tensor]:
        """See `KeepsMeans`: the running mean, and an estimated target."""
        known = {"label_mean": self.mean_C, "label_target": self.target_C if self.estimated else None}
        return {name: value for name, value in known.items() if value is not None}

    def set_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """See `KeepsMeans`."""
        if "label_mean" in state:
            self.mean_C = state["label_mean"].to(device)
        if "label_target" in state:
            self.target_C = state["label_target"].to(device)

    def _moved(self, batch_C: Tensor, share: float) -> Tensor:
        if share == 1:
            return batch_C
        self.mean_C = batch_C if self.mean_C is None else self.mean_C + share * (batch_C - self.mean_C)
        return self.mean_C


def target_of(settings: ObjectiveSettings, labels: Sequence[str]) -> Tensor:
    """The share of each class, [C], as the settings give it; raises ConfigError for classes that are not the task's."""
    marginal = settings.label_marginal
    if not isinstance(marginal, dict):
        return torch.full((len(labels),), 1 / len(labels))
    missing, unknown = [label for label in labels if label not in marginal], [*(marginal.keys() - set(labels))]
    if missing or unknown:
        raise ConfigError(
            f"objective.label_marginal gives shares of {', '.join(marginal)}, but the task's classes are "
            f"{', '.join(labels)}. Give each class's share, or use uniform or estimated."
        )
    share_C = torch.tensor([marginal[label] for label in labels])
    return share_C / share_C.sum()


class StartAnchor(nn.Module):
    """Holds class vectors to their start: |W - W_start|^2 / (2 M), of M training rows."""

    def __init__(self) -> None:
        super().__init__()
        self.start_CW: Tensor | None
        self.register_buffer("start_CW", None, persistent=False)
        self.num_rows = 1

    def start(self, vectors_CW: Tensor, num_rows: int) -> None:
        """Take class vectors as the start."""
        self.start_CW, self.num_rows = vectors_CW.detach().clone(), num_rows

    def forward(self, vectors_CW: Tensor) -> Tensor:
        """The penalty, a scalar."""
        assert self.start_CW is not None
        return (vectors_CW - self.start_CW).square().sum() / (2 * self.num_rows)
