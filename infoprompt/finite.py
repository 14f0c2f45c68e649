"""Stopping a run at the first update that is not finite, also where the engine has not looked at it yet."""

import math

from torch import Tensor

from infoprompt.engine.interface import NonFiniteLoss, Update
from infoprompt.objective.terms import LossTerms
from infoprompt.progress import Progress, TrainingStopped


class FiniteUpdates:
    """What was trained on since the last look, which waits for the device: look before the state is used."""

    def __init__(self) -> None:
        self._unseen: list[tuple[Progress, LossTerms, float | Tensor]] = []

    def add(self, progress: Progress, terms: LossTerms, update: Update) -> float | Tensor:
        """Note a micro-batch of the update that follows on `progress`; the norm, 0 where no update was due.

        Raises:
            TrainingStopped: the engine has seen that it is not finite.
        """
        if isinstance(update, NonFiniteLoss):
            raise _diverged(progress, terms)
        norm = 0.0 if update is None else update
        self._unseen.append((progress, terms.detached(), norm))
        return norm

    def look(self) -> None:
        """Raise `TrainingStopped`, which names the first update with a loss or norm that is not finite, if any has."""
        for progress, terms, norm in self._unseen:
            if not math.isfinite(float(terms.total)) or not math.isfinite(float(norm)):
                raise _diverged(progress, terms)
        self._unseen.clear()


def _diverged(progress: Progress, terms: LossTerms) -> TrainingStopped:
    parts = ", ".join(f"{name} {value:g}" for name, value in terms.as_metrics().items() if name.endswith("loss"))
    return TrainingStopped(
        f"The loss of update {progress.step + 1} is not finite on at least one rank (here: {parts}); nothing that "
        "came of it was saved. Lower optim.lr or the objective's weights, and start anew; what was saved before stays."
    )
