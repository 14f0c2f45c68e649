"""How far a run is."""

from dataclasses import dataclass, replace


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
