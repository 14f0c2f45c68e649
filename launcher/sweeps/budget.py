"""What of a sweep is left to do, and whether its budget allows it."""

from collections.abc import Callable, Mapping

from launcher.sweeps.journal import TrialState
from launcher.sweeps.plan import Sweep
from launcher.sweeps.worker_groups import WorkerGroups


class SweepBudget:
    """The budget of one start of a sweep."""

    def __init__(
        self, sweep: Sweep, trials: Mapping[int, TrialState], groups: WorkerGroups, now: Callable[[], float]
    ) -> None:
        """What is spent is counted from now on, and from what the trials have spent already."""
        self._sweep, self._budget = sweep, sweep.settings.budget
        self._trials, self._groups, self._now = trials, groups, now
        self.started_at = now()
        self.searched = False
        """Whether the search has nothing new to propose."""

    @property
    def left(self) -> bool:
        """Whether anything of the sweep is still to be done, however long it takes."""
        return self.may_open or any(not trial.over for trial in self._trials.values())

    @property
    def may_open(self) -> bool:
        """Whether there may be one more trial."""
        num_trials = min(self._sweep.num_trials, self._budget.trials or self._sweep.num_trials)
        return not self.searched and len(self._trials) < num_trials

    @property
    def exhausted(self) -> str | None:
        """Which part of the budget is used up, where more could be done."""
        budget = self._budget
        if not self.left:
            cut = budget.trials is not None and len(self._trials) < self._sweep.num_trials and not self.searched
            return f"budget.trials is {budget.trials}" if cut else None
        if budget.hours is not None and self._now() - self.started_at > budget.hours * 3600:
            return f"budget.hours is {budget.hours:g}"
        if budget.device_hours is not None and self.device_hours > budget.device_hours:
            return f"budget.device_hours is {budget.device_hours:g}"
        return None

    @property
    def device_hours(self) -> float:
        """Hours of work times workers, over all starts."""
        seconds = sum(run.wall_seconds for trial in self._trials.values() for run in trial.runs)
        seconds += sum(self._now() - group.asked for group in self._groups.busy)
        return seconds * self._sweep.settings.workers_per_trial / 3600
