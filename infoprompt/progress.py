"""How far a run is, and whether it goes on."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

Decision = Literal["go", "pause", "stop"]
"""What becomes of a run: it goes on, keeps its state and leaves its place to another, or is not worth finishing."""


@dataclass(frozen=True)
class Progress:
    """Counts updates, not micro-batches."""

    steps_per_epoch: int
    total_steps: int
    step: int = 0
    examples: int = 0

    @property
    def epoch(self) -> float:
        """Passes over the training rows so far."""
        return self.step / self.steps_per_epoch

    @property
    def done(self) -> bool:
        """Whether every planned update was made."""
        return self.step >= self.total_steps

    def after(self, num_examples: int) -> "Progress":
        """The progress after one more update on `num_examples` examples (all ranks)."""
        return replace(self, step=self.step + 1, examples=self.examples + num_examples)


def due(every: int, progress: Progress) -> bool:
    """True once every `every` updates, and at the last one."""
    return progress.step > 0 and (progress.step % every == 0 or progress.done)


Report = Callable[[Progress, dict[str, float]], Decision | None]
"""Called on every rank after an evaluation; the decision must be the same on all, None means `go`."""


class LeftOff(Exception):
    """The report's decision was not to go on. A paused run goes on with `resume="auto"`; a stopped one has its end."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(f"The run was told to {decision}.")
        self.decision = decision


class TrainingStopped(RuntimeError):
    """Training cannot go on; what was saved before stays."""


class RankLost(RuntimeError):
    """Another rank has failed or does not answer. `said` is whether people hear of it elsewhere."""

    def __init__(self, message: str, *, said: bool) -> None:
        super().__init__(message)
        self.said = said
