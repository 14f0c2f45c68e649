"""What of a sweep is left to do, and whether its budget allows it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from launcher.pool.worker_groups import WorkerGroups
from launcher.sweeps.journal import TrialState
from launcher.sweeps.plan import Sweep


@dataclass
class SweepBudget:
    """The budget of one start of a sweep, counted from when it is made."""

    sweep: Sweep
    trials: Mapping[int, TrialState]
    groups: WorkerGroups
    now: Callable[[], float]
    searched: bool = False
    """Whether the search has nothing new to propose."""

    def __post_init__(self) -> None:
        self.started_at = self.now()

    @property
    def left(self) -> bool:
        """Whether anything of the sweep is still to be done, however long it takes."""
        return self.may_open or any(not trial.over for trial in self.trials.values())

    @property
    def may_open(self) -> bool:
        """Whether there may be one more trial."""
        num_trials = min(self.sweep.num_trials, self.sweep.settings.budget.trials or self.sweep.num_trials)
        return not self.searched and len(self.trials) < num_trials

    @property
    def exhausted(self) -> str | None:
        """Which part of the budget is used up, where more could be done."""
        budget = self.sweep.settings.budget
        if not self.left:
            cut = budget.trials is not None and len(self.trials) < self.sweep.num_trials and not self.searched
            return f"budget.trials is {budget.trials}" if cut else None
        if budget.hours is not None and self.now() - self.started_at > budget.hours * 3600:
            return f"budget.hours is {budget.hours:g}"
        if budget.device_hours is not None and self.device_hours > budget.device_hours:
            return f"budget.device_hours is {budget.device_hours:g}"
        return None

    @property
    def device_hours(self) -> float:
        """Hours of work times workers, over all starts."""
        seconds = sum(run.wall_seconds for trial in self.trials.values() for run in trial.runs)
        seconds += sum(self.now() - group.asked for group in self.groups.busy)
        return seconds * self.sweep.settings.workers_per_trial / self.sweep.pack / 3600
