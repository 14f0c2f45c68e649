"""What every kind of scheduler decides: which runs wait for which others, and which trials go on."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from infoprompt.config import RunConfig
from infoprompt.progress import Decision
from launcher.sweeps.journal import RunState, RunStatus, TrialState
from launcher.sweeps.settings import SchedulerSettings, SweepSettings

KeepGoing = Callable[[int, int, float], bool]
"""Whether a trial, by its number, with this mean score at this step is worth going on with."""


class Scheduler:
    """Base of all kinds; by itself it has every trial go on."""

    own: SchedulerSettings
    """The settings of its kind."""
    opens_all: ClassVar[bool] = False
    """Whether all trials are there from the start: which are compared must not depend on which came first."""

    def __init__(self, sweep: SweepSettings, first: RunConfig) -> None:
        """Made for a sweep by the first point's config. Raises ConfigError if these do not fit."""
        self.own, self.sweep = sweep.scheduler, sweep

    def next_comparison(self, trial: TrialState) -> int | None:
        """The update at which a trial's runs next wait; None if they never do."""
        return None

    def may_go_on(self, trial: TrialState, run: RunState) -> bool:
        """Whether a paused run waits for nobody."""
        step = self.next_comparison(trial)
        return step is None or run.step < step

    def compare(self, trial: TrialState, run: RunState, keep_going: KeepGoing) -> Decision:
        """What becomes of a run that has evaluated or ended. Means that it compares are added to the trial's scores."""
        return "go" if self.may_go_on(trial, run) else "pause"

    def after_death(self, trial: TrialState, run: RunState) -> RunStatus:
        """What a run is whose workers are gone: its newest state may, or may not, be that of its last evaluation."""
        return "ready" if run.ending or self.may_go_on(trial, run) else "paused"

    def exchange(self, population: Sequence[TrialState]) -> list[tuple[TrialState, TrialState]] | None:
        """Who took over from whom among trials that are not over; None if none was brought past its comparison."""
        return None

    def pruner(self) -> Any:
        """The pruner of Optuna's by which a trial is worth going on with."""
        from optuna.pruners import NopPruner  # here, since a sweep is planned and shown without Optuna

        return NopPruner()


def build_scheduler(sweep: SweepSettings, first: RunConfig) -> Scheduler:
    """The scheduler that `scheduler.kind` names: that of the file of that name in `schedulers/`."""
    kind = importlib.import_module(f"launcher.sweeps.schedulers.{sweep.scheduler.kind}").SCHEDULER
    scheduler: Scheduler = kind(sweep, first)
    return scheduler
