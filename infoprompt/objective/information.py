"""What the two information terms have in common: an estimator, what it learns, and what it keeps.

Shapes: B examples.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from infoprompt.config import ObjectiveSettings
from infoprompt.kernels.estimators.registry import build_estimator
from infoprompt.kernels.estimators.scores import Estimator, RowScores, log_mean_exp
from infoprompt.objective.terms import InformationTerm


class KeepsMeans(nn.Module):
    """A term that keeps something from one update to the next, which a run that goes on needs."""

    def state(self) -> dict[str, Tensor]:
        """What it keeps, by name; nothing before the first update."""
        raise NotImplementedError

    def set_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """Set what `state` gave, among what other terms keep."""
        raise NotImplementedError


class Information(KeepsMeans):
    """A mutual-information term, with all that is its own.

    An estimator that divides by a running mean has it here, as the buffer `log_average`. It moves once for each
    micro-batch of training. A micro-batch's mean is taken over its rows on all ranks, so every rank divides by the same
    number. The gradient of two ranks with 4 rows each is that of one with 8 but for rounding. It costs a collective of
    one number. Gradient accumulation is not equal to one large micro-batch: the mean moves more often. The value that
    is recorded is of each rank's own rows.
    """

    name: str
    """`head` or `representation`, as in the settings and the records."""

    def __init__(self, estimator: str, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.settings = settings
        self.estimator: Estimator = build_estimator(estimator, dict(settings))
        self.log_average: Tensor | None
        self.register_buffer("log_average", None)

    def estimate(self, scores: RowScores) -> InformationTerm:
        """The term that the estimator makes of a micro-batch's scores; collective where it has a running mean."""
        if self.estimator.needs_average:
            log_batch = log_mean_exp(over_ranks(log_mean_exp(scores.log_mean_exp_B.detach())))
            self.log_average = self.estimator.move_average(self.log_average, log_batch)
            scores = replace(scores, log_average=self.log_average)
        return InformationTerm.from_scores(self.estimator, scores)

    def state(self) -> dict[str, Tensor]:
        """See `KeepsMeans`; the log of its running mean."""
        return {} if self.log_average is None else {self.name: self.log_average}

    def set_state(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        """See `KeepsMeans`."""
        if self.name in state:
            self.log_average = state[self.name].to(device)


def running_means(model: nn.Module) -> dict[str, Tensor]:
    """What a model's terms keep from one update to the next, by name."""
    return {name: value for term in _terms(model) for name, value in term.state().items()}


def set_running_means(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Set what `running_means` gave."""
    device = next(model.parameters()).device
    for term in _terms(model):
        term.set_state(kept, device)


def _terms(model: nn.Module) -> list[KeepsMeans]:
    return [module for module in model.modules() if isinstance(module, KeepsMeans)]


def over_ranks(value: Tensor) -> Tensor:
    """The tensors of all ranks, stacked in rank order; without gradient, and collective."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return value.unsqueeze(0)
    gathered = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, value)
    return torch.stack(gathered)
