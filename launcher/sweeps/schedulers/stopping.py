"""Schedulers that stop a trial which falls behind: what they share."""

import math

from infoprompt.config import ConfigError, RunConfig
from infoprompt.progress import Decision
from launcher.sweeps.journal import RunState, TrialState
from launcher.sweeps.schedulers.kind import KeepGoing, Scheduler
from launcher.sweeps.settings import StoppingSettings, SweepSettings


class StoppingScheduler(Scheduler):
    """At its comparisons the runs of a trial wait for each other; the last to arrive has their mean compared."""

    own: StoppingSettings

    def __init__(self, sweep: SweepSettings, first: RunConfig) -> None:
        super().__init__(sweep, first)
        grace_steps = self.own.grace_steps or first.evaluation.every_steps
        if not grace_steps:
            raise ConfigError(
                f"scheduler.kind is {sweep.scheduler.kind}, but neither scheduler.grace_steps nor "
                "evaluation.every_steps says after how many updates trials are first compared. Give one of them."
            )
        self.grace_steps = grace_steps

    def compare(self, trial: TrialState, run: RunState, keep_going: KeepGoing) -> Decision:
        """As in the base; a run that is the last to arrive goes on at once, or its trial is stopped."""
        while (step := self.next_comparison(trial)) is not None and (run.ended or run.step >= step):
            if any(not other.ended and other.step < step for other in trial.runs):
                return "pause"
            if all(other.ended for other in trial.runs):
                break
            score = trial.mean_at(step, self.sweep.sign)
            trial.scores.append((step, score))
            trial.stage += 1
            if not math.isfinite(score) or not keep_going(trial.number, step, score):
                return "stop"
        return "go"
