"""Which worker group does what next, and what becomes of a run at each evaluation. Knows nothing of Ray or processes.

    propose -> runs, one per seed -> ready -> a worker group asks for work -> reports -> comparison -> go, pause or stop

A worker group is workers that take one run after another. At a scheduler's steps the runs of a trial wait for each
other. The last to arrive goes on at once if the mean is worth it. The others were paused, and go on from their states
on whichever group is free. A sweep is resumed by giving the journal's trials to a new dispatcher.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from infoprompt.progress import Decision
from launcher.pool.desk import Desk
from launcher.pool.jobs import Job
from launcher.pool.worker_groups import WorkerGroup
from launcher.sweeps.budget import SweepBudget
from launcher.sweeps.events import Event
from launcher.sweeps.jobs import job_of
from launcher.sweeps.journal import RunState, TrialState, save_trial
from launcher.sweeps.plan import Sweep
from launcher.sweeps.ready import ReadyRuns
from launcher.values import show_values

if TYPE_CHECKING:  # workers import this file, and do without Optuna
    from launcher.sweeps.search import Search


class Dispatcher(Desk):
    """The state of a sweep."""

    def __init__(
        self,
        sweep: Sweep,
        search: "Search",
        past: Sequence[TrialState] = (),
        *,
        parent_run_id: str | None = None,
        group_runs: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        """A dispatcher for what is left.

        Args:
            sweep: the plan.
            search: restored with the same `past`.
            past: trials of an earlier start.
            parent_run_id: MLflow's run of the sweep.
            group_runs: whether a trial of several seeds is to have a run in MLflow, made by who calls `opened`.
            now: the clock.
        """
        super().__init__(now)
        self._sweep, self._settings, self._search = sweep, sweep.settings, search
        self._folder = Path(sweep.settings.output_dir)
        self._parent_run_id, self._group_runs = parent_run_id, group_runs
        self.trials: dict[int, TrialState] = {trial.number: trial for trial in past}
        self.events: list[Event] = []
        self._scheduler = sweep.scheduler
        self._ready = ReadyRuns(self.trials)
        self.budget = SweepBudget(sweep, self.trials, self.groups, now)
        self._num_jobs = 0
        for trial in past:
            self._take_up(trial)
        self._exchange()
        while self._scheduler.opens_all and self._propose():
            pass

    # ---- what groups say

    def report(self, token: str, step: int, scores: dict[str, float], *, last: bool) -> Decision:
        """A run has evaluated; `last`: it is about to end by itself."""
        if (group := self.groups.with_token(token)) is None:
            return "stop"
        trial, run = self._at(group)
        metric = self._settings.metric_name
        if metric not in scores:
            self._fail(trial, f"metric is dev/{metric}, but its runs report {_named(scores)}. Use one of these.")
            return "stop"
        group.heard = self._now()
        run.curve = [pair for pair in run.curve if pair[0] < step] + [(step, scores[metric])]
        run.takes_over, run.ending = False, last
        self._say("scored", trial.number, f"seed {run.seed}", step, scores[metric])
        decision: Decision = "stop" if trial.over else "go" if last else self._compare(trial, run)
        if decision == "go" and not last and self.budget.exhausted:
            decision = "pause"
        # before the run saves its state: a resume must not take it for less far than that
        save_trial(self._folder, trial)
        return decision

    def finished(self, token: str, result: dict[str, Any]) -> None:
        """A run came to its end."""
        if (found := self._release(token)) is None:
            return
        trial, run = found
        run.result, run.status, run.takes_over = result, "finished", False
        score = run.final(self._settings.metric_name)
        if score is None:
            self._fail(trial, f"metric is {self._settings.metric}, but its runs report {_named(result['dev'])}.")
        elif not run.curve:
            run.curve.append((result["steps"], score))
        if not trial.over:
            self._compare(trial, run)
        self._maybe_finish(trial)
        self._exchange()
        save_trial(self._folder, trial)

    def left_off(self, token: str, decision: Decision) -> None:
        """A run did as its report was told: it keeps its state, or has its end."""
        if (found := self._release(token)) is None:
            return
        trial, run = found
        run.status = "stopped" if trial.over or decision == "stop" else "paused"
        self._wake(trial)  # it may have been decided meanwhile
        self._exchange()
        save_trial(self._folder, trial)

    def raised(self, token: str, rank: int, text: str, *, connection: bool, ends_group: bool) -> None:
        """See `Desk`: of a run that failed by itself, the trial has failed."""
        if (group := self.groups.with_token(token)) is None:
            return
        group.raised.append((text, connection))
        if not ends_group:
            trial, run = self._at(group)
            self._release(token)
            run.status = "failed"
            self._fail(trial, text)

    # ---- what the driver says

    def opened(self, number: int, run_id: str | None) -> None:
        """MLflow's run of a trial with several seeds is there, or will not be."""
        trial = self.trials[number]
        if trial.status != "opening":
            return
        trial.parent_run_id = run_id or self._parent_run_id
        trial.status = "open"
        self._enqueue_all(trial)
        save_trial(self._folder, trial)

    @property
    def done(self) -> bool:
        """Whether nothing is left that may be done."""
        return not self.groups.busy and (not self.budget.left or self.budget.exhausted is not None)

    # ---- trials

    def _propose(self) -> bool:
        """Open the next trial, if there is one."""
        if not self.budget.may_open or self.budget.exhausted:
            return False
        proposal = self._search.propose()
        if proposal is None:
            self.budget.searched = True
            self._say("group", None, f"every point of the space was tried: the sweep has {len(self.trials)} trials")
            return False
        number, values = proposal
        trial = TrialState(number, values, [RunState(seed) for seed in self._sweep.seeds_of(values)])
        self.trials[number] = trial
        self._take_up(trial)
        return True

    def _take_up(self, trial: TrialState) -> None:
        """Make ready what is left of a trial, a new one or an earlier start's."""
        if trial.over:
            return
        for run in trial.runs:
            if run.status == "running":
                run.status = self._scheduler.after_death(trial, run)
        if len(trial.runs) > 1 and self._group_runs and trial.parent_run_id is None:
            trial.status = "opening"
            self._say("opened", trial.number, "")
        else:
            trial.parent_run_id = trial.parent_run_id or self._parent_run_id
            trial.status = "open"
            self._enqueue_all(trial)
            self._maybe_finish(trial)  # it may have failed for its score alone
        save_trial(self._folder, trial)

    def _opening(self) -> bool:
        return any(trial.status == "opening" for trial in self.trials.values())

    def _enqueue_all(self, trial: TrialState) -> None:
        for run in trial.runs:
            if run.status == "ready" or (run.status == "paused" and self._scheduler.may_go_on(trial, run)):
                self._ready.add(trial, run)

    def _at(self, group: WorkerGroup) -> tuple[TrialState, RunState]:
        """What a group is at."""
        assert group.job is not None
        trial = self.trials[group.job.number]
        return trial, trial.run(group.job.seed)

    def _take(self, name: str) -> Job | None:
        while not self._ready and not self._opening() and self._propose():
            pass
        taken = None if self.budget.exhausted else self._ready.take()
        return None if taken is None else self._start(*taken)

    def _start(self, trial: TrialState, run: RunState) -> Job:
        self._num_jobs += 1
        token = f"{trial.number}-{run.seed}-{self._num_jobs}-{self.budget.started_at:.0f}"
        job = job_of(self._sweep, trial, run, token)
        # "resumed" also if an earlier start of the sweep or a killed worker left a state
        self._say("resumed" if run.curve else "started", trial.number, f"seed {run.seed}", run.step)
        run.status = "running"
        save_trial(self._folder, trial)
        return job

    def _compare(self, trial: TrialState, run: RunState) -> Decision:
        """What becomes of a run that has evaluated or ended, and of those that waited for it."""
        num_before = len(trial.scores)
        decision = self._scheduler.compare(trial, run, self._search.keep_going)
        for compared in trial.scores[num_before:]:
            self._say("compared", trial.number, f"mean of {len(trial.runs)}", *compared)
        if decision == "stop":
            self._end(trial, "stopped", "at update {} with a mean of {:.4f}".format(*trial.scores[-1]))
        else:
            self._wake(trial)
        return decision

    def _wake(self, trial: TrialState) -> None:
        """Runs that were paused and wait for nobody any more come next."""
        for run in trial.runs:
            if run.status == "paused" and self._scheduler.may_go_on(trial, run):
                self._ready.add_begun(trial, run)

    def _maybe_finish(self, trial: TrialState) -> None:
        if trial.over or any(run.status != "finished" for run in trial.runs):
            return
        finals = {run.seed: run.final(self._settings.metric_name) for run in trial.runs}
        bad = {seed: score for seed, score in finals.items() if score is None or not math.isfinite(score)}
        if bad:
            said = ", ".join(f"{score} with seed {seed}" for seed, score in bad.items())
            self._fail(trial, f"{self._settings.metric} is {said}, which cannot be compared.")
            return
        trial.score = statistics.fmean(score for score in finals.values() if score is not None)
        self._end(trial, "finished", None)

    def _fail(self, trial: TrialState, reason: str) -> None:
        if not trial.over:
            self._end(trial, "failed", reason)
        save_trial(self._folder, trial)

    def _end(self, trial: TrialState, ending: Literal["finished", "stopped", "failed"], reason: str | None) -> None:
        trial.status, trial.reason = ending, reason
        for run in trial.runs:
            if run.status in ("ready", "paused"):
                run.status = "stopped"
        self._ready.drop(trial)
        self._search.end(trial.number, ending, trial.score)
        self._say("ended", trial.number, reason or "", score=trial.score)
        save_trial(self._folder, trial)
        self._exchange()

    def _exchange(self) -> None:
        """Where a population has come to its exchange, all go on."""
        population = [trial for trial in self.trials.values() if not trial.over]
        while (pairs := self._scheduler.exchange(population)) is not None:
            for taker, donor in pairs:
                text = f"takes over from trial {donor.number} with {show_values(taker.current)}, having"
                self._say("compared", taker.number, text, *taker.scores[-1])
            for trial in population:
                self._wake(trial)
                save_trial(self._folder, trial)

    # ---- jobs

    def _release(self, token: str) -> tuple[TrialState, RunState] | None:
        """Take the job from its group, which asks for the next one; the time it took counts for the run."""
        if (group := self.groups.with_token(token)) is None:
            return None
        trial, run = self._at(group)
        run.wall_seconds += group.release(self._now())
        self._progress_at = self._now()
        return trial, run

    def _return_job(self, group: WorkerGroup, why: str, *, counts: bool) -> None:
        """Settle the job of workers that are gone: the trial's own failure, or a run that goes on."""
        if group.job is None:
            return
        trial, run = self._at(group)
        self._release(group.job.token)
        own = [text for text, connection in group.raised if not connection]
        run.deaths += counts
        if trial.over:
            run.status = "stopped"
        elif own:
            run.status = "failed"
            self._fail(trial, own[0])
        elif run.deaths > self._settings.retries:
            run.status = "failed"
            last = f"; a rank said: {group.raised[0][0]}" if group.raised else ""
            self._fail(
                trial, f"{why} {run.deaths} times (retries is {self._settings.retries}); memory may be short{last}"
            )
        elif self._scheduler.after_death(trial, run) == "ready":
            self._ready.add_begun(trial, run)
        else:
            run.status = "paused"
        save_trial(self._folder, trial)

    def _tell_people(self, job: Job | None, text: str) -> None:
        self._say("group", None if job is None else job.number, text)

    def _say(
        self, kind: Any, trial: int | None, text: str, step: int | None = None, score: float | None = None
    ) -> None:
        self.events.append(Event(kind, trial, text, step, score))
        self._progress_at = self._now()


def _named(scores: Mapping[str, float]) -> str:
    return ", ".join(f"dev/{name}" for name in sorted(scores))
