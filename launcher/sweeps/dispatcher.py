"""Which worker group does what next, and what becomes of a run at each evaluation. Knows nothing of Ray or processes.

    propose -> runs, one per seed -> ready -> a worker group asks for work -> reports -> comparison -> go, pause or stop

A worker group is workers that take one run after another. At a scheduler's steps the runs of a trial wait for each
other. The last to arrive goes on at once if the mean is worth it. The others were paused, and go on from their states
on whichever group is free. A sweep is resumed by giving the journal's trials to a new dispatcher.
"""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from infoprompt.progress import Decision
from launcher.sweeps.journal import RunState, RunStatus, TrialState, save_trial
from launcher.sweeps.plan import Sweep
from launcher.sweeps.population import exploit, is_donor, perturbation_step
from launcher.sweeps.space import show_values
from launcher.sweeps.worker_groups import Answer, Job, WorkerGroup, WorkerGroups

MOST_IDLE_STARTS = 6
"""After so many starts of a group without coming to ask for work, it is given up."""


LOST = -1
"""The generation of a group that was taken for lost."""


class Searching(Protocol):
    """See `search.Search`."""

    def propose(self) -> tuple[int, dict[str, Any]] | None: ...

    def keep_going(self, number: int, step: int, score: float) -> bool: ...

    def end(self, number: int, ending: Literal["finished", "stopped", "failed"], score: float | None) -> None: ...


@dataclass(frozen=True)
class Event:
    """Something people, or MLflow, are told."""

    kind: Literal["opened", "started", "resumed", "scored", "compared", "ended", "group"]
    trial: int | None
    text: str
    step: int | None = None
    score: float | None = None


class Dispatcher:
    """The state of a sweep. Every method is quick; `now` is a clock in seconds."""

    def __init__(
        self,
        sweep: Sweep,
        search: Searching,
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
        self._sweep, self._settings, self._search = sweep, sweep.settings, search
        self._folder = Path(sweep.settings.output_dir)
        self._parent_run_id, self._group_runs, self._now = parent_run_id, group_runs, now
        self.trials: dict[int, TrialState] = {trial.number: trial for trial in past}
        self.events: list[Event] = []
        self._groups = WorkerGroups()
        self._ready: deque[tuple[int, int]] = deque()
        self._num_jobs = 0
        self._searched = False
        """Whether the search has nothing new to propose."""
        self._started_at = self._progress_at = now()
        for trial in past:
            self._take_up(trial)
        self._exploit_if_all_came()
        if sweep.settings.scheduler.kind == "pbt":  # who is compared with whom must not depend on who came first
            while self._propose():
                pass

    # ---- what groups say

    def register(self, group: str, generation: int, places: Sequence[str]) -> None:
        """A group's workers have started, for the first time or again after they were killed."""
        one = self._groups[group]
        self._return_job(one, "its workers were killed", counts=True)
        one.generation, one.places, one.heard = generation, list(places), self._now()
        one.idle_starts += 1
        if one.idle_starts > MOST_IDLE_STARTS and not one.given_up:
            one.given_up = True
            self._say(
                "group",
                None,
                f"worker group {group} started {MOST_IDLE_STARTS} times and never asked for work; given up",
            )

    def heartbeat(self, group: str, generation: int) -> None:
        """A group is alive."""
        self._groups.heartbeat(group, generation, self._now())

    def next(self, group: str, generation: int) -> Answer:
        """What a group shall do now."""
        one = self._groups[group]
        if one.generation == LOST and not self.done:
            return "re-register"
        if one.generation != generation or one.given_up or self.done:
            return "leave"
        one.heard, one.idle_starts = self._now(), 0
        while not self._ready and not self._opening() and self._propose():
            pass
        pair = None if self.exhausted else self._first_ready()
        if pair is None:
            return "wait"
        job = self._job(self.trials[pair[0]], self._run(*pair))
        one.take(job, self._now())
        return job

    def report(self, token: str, step: int, scores: dict[str, float], *, last: bool) -> Decision:
        """A run has evaluated; `last`: it is about to end by itself."""
        one = self._groups.with_token(token)
        if one is None:
            return "stop"
        trial, run = self._at(one)
        metric = self._settings.metric_name
        if metric not in scores:
            self._fail(trial, f"metric is dev/{metric}, but its runs report {_named(scores)}. Use one of these.")
            return "stop"
        one.heard = self._now()
        run.curve = [pair for pair in run.curve if pair[0] < step] + [(step, scores[metric])]
        run.takes_over, run.ending = False, last
        self._say("scored", trial.number, f"seed {run.seed}", step, scores[metric])
        decision: Decision = "stop" if trial.over else "go" if last else self._compare(trial, run)
        if decision == "go" and not last and self.exhausted:
            decision = "pause"
        # before the run saves its state: a resume must not take it for less far than that
        save_trial(self._folder, trial)
        return decision

    def finished(self, token: str, result: dict[str, Any]) -> None:
        """A run came to its end."""
        found = self._release(token)
        if found is None:
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
        self._exploit_if_all_came()
        save_trial(self._folder, trial)

    def left_off(self, token: str, decision: Decision) -> None:
        """A run did as its report was told: it keeps its state, or has its end."""
        found = self._release(token)
        if found is None:
            return
        trial, run = found
        run.status = "stopped" if trial.over or decision == "stop" else "paused"
        if run.status == "paused" and self._may_go_on(trial, run):  # it has been decided meanwhile
            self._make_ready(trial, run)
        self._exploit_if_all_came()
        save_trial(self._folder, trial)

    def raised(self, token: str, rank: int, text: str, *, connection: bool, ends_group: bool) -> None:
        """A rank raised something in the run.

        Args:
            token: of the job.
            rank: which one.
            text: what people are told.
            connection: only the connection to another rank broke; that one has the reason, or was killed.
            ends_group: the group's workers end with it, and the next `register` settles what becomes of the run.
        """
        one = self._groups.with_token(token)
        if one is None:
            return
        one.raised.append((text, connection))
        if not ends_group:
            trial, run = self._at(one)
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

    def lost(self, group: str, why: str) -> None:
        """A group's node is gone, or nothing was heard of it: others go on with its run."""
        one = self._groups[group]
        if one.job:
            self._say("group", one.job.trial, f"worker group {group} was lost ({why}); its run goes on elsewhere")
            self._return_job(one, why, counts=False)
            one.generation = LOST  # should it be alive after all, nothing it says of its run is heard

    def silent(self, seconds: float) -> list[str]:
        """Worker groups with work that nothing was heard of for so long."""
        return self._groups.silent(seconds, self._now())

    def on(self, nodes: set[str]) -> list[str]:
        """Worker groups with work that have a rank on one of these nodes."""
        return self._groups.on(nodes)

    @property
    def done(self) -> bool:
        """Whether nothing is left that may be done."""
        return not self._groups.busy and (not self._left() or self.exhausted is not None)

    @property
    def exhausted(self) -> str | None:
        """Which part of the budget is used up, where more could be done."""
        budget = self._settings.budget
        if not self._left():
            cut = budget.trials is not None and len(self.trials) < self._sweep.num_trials and not self._searched
            return f"budget.trials is {budget.trials}" if cut else None
        if budget.hours is not None and self._now() - self._started_at > budget.hours * 3600:
            return f"budget.hours is {budget.hours:g}"
        if budget.device_hours is not None and self.device_hours > budget.device_hours:
            return f"budget.device_hours is {budget.device_hours:g}"
        return None

    @property
    def device_hours(self) -> float:
        """Hours of work times workers, over all starts."""
        seconds = sum(run.wall_seconds for trial in self.trials.values() for run in trial.runs)
        seconds += sum(self._now() - one.asked for one in self._groups.busy)
        return seconds * self._settings.workers_per_trial / 3600

    @property
    def stalled_seconds(self) -> float:
        """Time since anything was reported."""
        return self._now() - self._progress_at

    def groups(self) -> dict[str, str]:
        """What each group is at."""
        return self._groups.shown()

    # ---- trials

    def _left(self) -> bool:
        """Whether anything of the sweep is still to be done, whatever the budget says."""
        return any(not trial.over for trial in self.trials.values()) or self._may_propose()

    def _may_propose(self) -> bool:
        most = self._settings.budget.trials
        num_trials = self._sweep.num_trials if most is None else min(most, self._sweep.num_trials)
        return not self._searched and len(self.trials) < num_trials

    def _propose(self) -> bool:
        """Open the next trial, if there is one."""
        if not self._may_propose() or self.exhausted:
            return False
        proposal = self._search.propose()
        if proposal is None:
            self._searched = True
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
                run.status = self._after_death(trial, run)
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
            if run.status == "ready" or (run.status == "paused" and self._may_go_on(trial, run)):
                run.status = "ready"
                if (trial.number, run.seed) not in self._ready:
                    self._ready.append((trial.number, run.seed))

    def _first_ready(self) -> tuple[int, int] | None:
        """Take the next run from those that are ready."""
        trials = list(self.trials.values())
        for pair in self._ready:
            if not is_donor(trials, self.trials[pair[0]], pair[1]):
                self._ready.remove(pair)
                return pair
        return None

    def _run(self, number: int, seed: int) -> RunState:
        return next(run for run in self.trials[number].runs if run.seed == seed)

    def _at(self, one: WorkerGroup) -> tuple[TrialState, RunState]:
        """What a group is at."""
        assert one.job is not None
        return self.trials[one.job.trial], self._run(one.job.trial, one.job.seed)

    def _job(self, trial: TrialState, run: RunState) -> Job:
        self._num_jobs += 1
        name = trial.run_name(run)
        config = self._sweep.config(trial.current, seed=run.seed, name=name)
        # "resumed" also if an earlier start of the sweep or a killed worker left a state
        self._say("resumed" if run.curve else "started", trial.number, f"seed {run.seed}", run.step)
        run.status = "running"
        save_trial(self._folder, trial)
        source = trial.taken_over[-1]["from"] if run.takes_over else None
        return Job(
            token=f"{trial.number}-{run.seed}-{self._num_jobs}-{self._started_at:.0f}",
            trial=trial.number,
            seed=run.seed,
            config=config.model_dump(mode="json"),
            parent_run_id=trial.parent_run_id,
            tags={
                "sweep": self._settings.sweep_name,
                "sweep.trial": str(trial.number),
                "sweep.kind": "seed" if len(trial.runs) > 1 else "trial",
                "recipe": Path(trial.current.get("base", self._settings.base)).stem,
            },
            copy_from=None if source is None else str(self._folder / "trials" / f"{source:04d}" / f"seed_{run.seed}"),
        )

    def _compare(self, trial: TrialState, run: RunState) -> Decision:
        """What becomes of a run that has evaluated or ended, and of those that waited for it."""
        if self._settings.scheduler.kind == "pbt":  # the exchange is when all have left off
            return "go" if self._may_go_on(trial, run) else "pause"
        decision: Decision = "go"
        while (step := self._comparison(trial)) is not None and (run.ended or run.step >= step):
            if any(not other.ended and other.step < step for other in trial.runs):
                decision = "pause"
                break
            if all(other.ended for other in trial.runs):
                break
            score = trial.mean_at(step, self._settings.sign)
            trial.scores.append((step, score))
            trial.stage += 1
            self._say("compared", trial.number, f"mean of {len(trial.runs)}", step, score)
            if not math.isfinite(score) or not self._search.keep_going(trial.number, step, score):
                self._end(trial, "stopped", f"at update {step} with a mean of {score:.4f}")
                return "stop"
        for other in trial.runs:
            if other is not run and other.status == "paused" and self._may_go_on(trial, other):
                self._make_ready(trial, other)
        return decision

    def _comparison(self, trial: TrialState) -> int | None:
        """The step of a trial's next comparison; None where there is no scheduler."""
        scheduler, grace = self._settings.scheduler, self._sweep.grace_steps
        if scheduler.kind == "asha":
            return grace * int(scheduler.reduction_factor**trial.stage)
        if scheduler.kind == "median":
            return grace * (trial.stage + 1)
        return perturbation_step(self._settings, trial) if scheduler.kind == "pbt" else None

    def _may_go_on(self, trial: TrialState, run: RunState) -> bool:
        """Whether a paused run waits for nobody."""
        step = self._comparison(trial)
        return step is None or run.step < step

    def _after_death(self, trial: TrialState, run: RunState) -> RunStatus:
        """What a run is whose workers are gone: its newest state may, or may not, be that of its last evaluation."""
        if run.ending or self._settings.scheduler.kind == "pbt" or self._may_go_on(trial, run):
            return "ready"  # `pbt` needs the state itself, at the cost of going past the exchange if it is there
        return "paused"

    def _make_ready(self, trial: TrialState, run: RunState) -> None:
        run.status = "ready"
        self._ready.appendleft((trial.number, run.seed))  # what was begun ends before something new begins

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
        self._ready = deque(pair for pair in self._ready if pair[0] != trial.number)
        self._search.end(trial.number, ending, trial.score)
        self._say("ended", trial.number, reason or "", score=trial.score)
        save_trial(self._folder, trial)
        self._exploit_if_all_came()

    def _exploit_if_all_came(self) -> None:
        """When every run of a population has come to its exchange, all go on."""
        if self._settings.scheduler.kind != "pbt":
            return
        population = [trial for trial in self.trials.values() if not trial.over]
        while (pairs := exploit(self._settings, population)) is not None:
            for taker, donor in pairs:
                text = f"takes over from trial {donor.number} with {show_values(taker.current)}, having"
                self._say("compared", taker.number, text, *taker.scores[-1])
            for trial in population:
                for run in trial.runs:
                    if run.status == "paused" and self._may_go_on(trial, run):
                        self._make_ready(trial, run)
                save_trial(self._folder, trial)

    # ---- jobs

    def _release(self, token: str) -> tuple[TrialState, RunState] | None:
        """Take the job from its group, which asks for the next one; the time it took counts for the run."""
        one = self._groups.with_token(token)
        if one is None:
            return None
        trial, run = self._at(one)
        run.wall_seconds += one.release(self._now())
        self._progress_at = self._now()
        return trial, run

    def _return_job(self, one: WorkerGroup, why: str, *, counts: bool) -> None:
        """Settle the job of workers that are gone: the trial's own failure, or a run that goes on."""
        if one.job is None:
            return
        trial, run = self._at(one)
        self._release(one.job.token)
        own = [text for text, connection in one.raised if not connection]
        run.deaths += counts
        if trial.over:
            run.status = "stopped"
        elif own:
            run.status = "failed"
            self._fail(trial, own[0])
        elif run.deaths > self._settings.retries:
            run.status = "failed"
            last = f"; a rank said: {one.raised[0][0]}" if one.raised else ""
            self._fail(
                trial, f"{why} {run.deaths} times (retries is {self._settings.retries}); memory may be short{last}"
            )
        elif self._after_death(trial, run) == "ready":
            self._make_ready(trial, run)
        else:
            run.status = "paused"
        save_trial(self._folder, trial)

    def _say(
        self, kind: Any, trial: int | None, text: str, step: int | None = None, score: float | None = None
    ) -> None:
        self.events.append(Event(kind, trial, text, step, score))
        self._progress_at = self._now()


def _named(scores: Mapping[str, float]) -> str:
    return ", ".join(f"dev/{name}" for name in sorted(scores))
