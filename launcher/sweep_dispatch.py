"""Which worker group does what next, and what becomes of a run at each evaluation. Knows nothing of Ray or processes.

    propose -> runs, one per seed -> ready -> a crew asks for work -> reports -> comparison -> go, pause or stop

A *crew* is a group of workers that takes one run after another. At a scheduler's steps the runs of a trial wait for
each other: the last to arrive goes on at once if the mean is worth it, the others were paused and go on from their
states, on whichever crew is free. A sweep is resumed by giving the journal's trials to a new dispatcher.
"""

import logging
import math
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from infoprompt.config import ConfigError
from infoprompt.progress import Verdict
from launcher.sweep_plan import Sweep
from launcher.sweep_state import RunState, TrialState, save_trial

log = logging.getLogger(__name__)

MOST_EMPTY_STARTS = 6
"""After so many starts of a crew without a report, it is given up."""


class Searching(Protocol):
    """See `sweep_search.Search`."""

    def propose(self) -> tuple[int, dict[str, Any]] | None: ...

    def worth(self, number: int, step: int, score: float) -> bool: ...

    def end(
        self, number: int, ending: Literal["finished", "stopped", "failed"], values: dict[str, Any], score: float | None
    ) -> None: ...


@dataclass(frozen=True)
class Job:
    """What a crew is to do: start a run, or go on with it."""

    token: str
    """Names this attempt; a report with an older one is not heard."""
    trial: int
    seed: int
    config: dict[str, Any]
    """The `RunConfig` as plain values."""
    parent_run_id: str | None
    tags: dict[str, str]
    take_over: str | None = None
    """Output folder of the run whose newest state it goes on from, unless it has done so before."""


@dataclass(frozen=True)
class Event:
    """Something people, or MLflow, are told."""

    kind: Literal["opened", "started", "resumed", "scored", "compared", "ended", "crew"]
    trial: int | None
    text: str
    step: int | None = None
    score: float | None = None


Answer = Job | Literal["wait", "leave"]


@dataclass
class _Crew:
    """A group of workers."""

    incarnation: int = 0
    job: Job | None = None
    asked: float = 0.0
    """When it asked for its work; the time until the run ends counts for the run."""
    heard: float = 0.0
    empty_starts: int = 0
    raised: list[tuple[int, str, bool]] = field(default_factory=list)
    """What ranks raised in the job: rank, text, and whether only a connection to another rank broke."""
    places: list[str] = field(default_factory=list)
    """Nodes of its ranks."""
    given_up: bool = False


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
        self._sign = 1 if sweep.settings.direction == "max" else -1
        self._parent_run_id, self._group_runs, self._now = parent_run_id, group_runs, now
        self.trials: dict[int, TrialState] = {trial.number: trial for trial in past}
        self.events: list[Event] = []
        self._crews: dict[str, _Crew] = {}
        self._ready: deque[tuple[int, int]] = deque()
        self._num_jobs = 0
        self._num_started = 0
        self._started_at = self._progress_at = now()
        self._exhausted: str | None = None
        for trial in past:
            self._take_up(trial)
        self._exchange_if_all_came()
        if sweep.settings.scheduler.kind == "pbt":  # who is compared with whom must not depend on who came first
            while self._propose():
                pass

    # ---- what crews say

    def hello(self, crew: str, incarnation: int, places: Sequence[str]) -> None:
        """A crew's workers have started, for the first time or again after they were killed."""
        one = self._crews.setdefault(crew, _Crew())
        self._return_job(one, "its workers were killed", counts=True)
        one.incarnation, one.places, one.heard = incarnation, list(places), self._now()
        one.empty_starts += 1
        if one.empty_starts > MOST_EMPTY_STARTS:
            one.given_up = True
            self._say("crew", None, f"crew {crew} started {MOST_EMPTY_STARTS} times and never came to report; given up")

    def beat(self, crew: str, incarnation: int) -> None:
        """A crew is alive."""
        one = self._crews.get(crew)
        if one and one.incarnation == incarnation:
            one.heard = self._now()

    def next(self, crew: str, incarnation: int) -> Answer:
        """What a crew shall do now."""
        one = self._crews[crew]
        if one.incarnation != incarnation or one.given_up or self.done:
            return "leave"
        one.heard = one.asked = self._now()
        while not self._ready and not self._opening() and self._propose():
            pass
        if not self._ready or self._exhausted:
            return "wait"
        number, seed = self._ready.popleft()
        one.job = self._job(self.trials[number], self._run(number, seed))
        return one.job

    def report(self, token: str, step: int, scores: dict[str, float], *, last: bool) -> Verdict:
        """A run has evaluated; `last`: it is about to end by itself."""
        found = self._by_token(token)
        if found is None:
            return "stop"
        one, trial, run = found
        metric = self._settings.metric_name
        if metric not in scores:
            self._fail(trial, f"metric is dev/{metric}, but its runs report {', '.join(sorted(scores))}.")
            return "stop"
        one.heard, one.empty_starts = self._now(), 0
        run.curve = [pair for pair in run.curve if pair[0] < step] + [(step, scores[metric])]
        self._say("scored", trial.number, f"seed {run.seed}", step, scores[metric])
        if trial.over:
            return "stop"
        if last:
            return "go"
        verdict = self._compare(trial, run)
        if verdict == "go" and self.exhausted:
            verdict = "pause"
        if verdict == "go":
            save_trial(self._folder, trial)
        return verdict

    def finished(self, token: str, result: dict[str, Any]) -> None:
        """A run came to its end."""
        found = self._release(token)
        if found is None:
            return
        trial, run = found
        run.result, run.status = result, "finished"
        metric = self._settings.metric_name
        score = float(result["dev"][result["metric"] if metric == "score" else metric])
        if not run.curve:
            run.curve.append((result["steps"], score))
        if not trial.over:
            self._compare(trial, run)
        if not trial.over:
            self._maybe_finish(trial)
        self._exchange_if_all_came()
        save_trial(self._folder, trial)

    def left_off(self, token: str, verdict: Verdict) -> None:
        """A run did as its report was told: it keeps its state, or has its end."""
        found = self._release(token)
        if found is None:
            return
        trial, run = found
        if run.status == "running":  # else the comparison has been decided meanwhile
            run.status = "stopped" if trial.over or verdict == "stop" else "paused"
        if run.status == "paused" and self._may_go_on(trial, run):
            self._make_ready(trial, run)
        self._exchange_if_all_came()
        save_trial(self._folder, trial)

    def raised(self, token: str, rank: int, text: str, *, connection: bool, ends_group: bool) -> None:
        """A rank raised something in the run.

        Args:
            token: of the job.
            rank: which one.
            text: what people are told.
            connection: only the connection to another rank broke; that one has the reason, or was killed.
            ends_group: the crew's workers end with it, and the next `hello` settles what becomes of the run.
        """
        found = self._by_token(token)
        if found is None:
            return
        one, trial, _ = found
        one.raised.append((rank, text, connection))
        if not ends_group:
            self._release(token)
            self._fail(trial, text)

    # ---- what the driver says

    def opened(self, number: int, run_id: str | None) -> None:
        """MLflow's run of a trial with several seeds is there, or will not be."""
        trial = self.trials[number]
        trial.parent_run_id = run_id or self._parent_run_id
        trial.status = "open"
        self._enqueue_all(trial)

    def lost(self, crew: str, why: str) -> None:
        """A crew's node is gone, or nothing was heard of it: others go on with its run."""
        one = self._crews.get(crew)
        if one and one.job:
            self._say("crew", one.job.trial, f"crew {crew} was lost ({why}); its run goes on elsewhere")
            self._return_job(one, why, counts=False)
            one.incarnation = -1  # should it be alive after all, nothing it says is heard

    def silent(self, seconds: float) -> list[str]:
        """Crews with work that nothing was heard of for so long."""
        return [name for name, one in self._crews.items() if one.job and self._now() - one.heard > seconds]

    def on(self, nodes: set[str]) -> list[str]:
        """Crews with work that have a rank on one of these nodes."""
        return [name for name, one in self._crews.items() if one.job and nodes.intersection(one.places)]

    @property
    def done(self) -> bool:
        """Whether nothing is left that may be done."""
        busy = any(one.job for one in self._crews.values())
        if self.exhausted:
            return not busy
        left = self._ready or any(not trial.over for trial in self.trials.values())
        return not busy and not left and not self._may_propose()

    @property
    def exhausted(self) -> str | None:
        """Which part of the budget is used up."""
        budget = self._settings.budget
        if budget.hours is not None and self._now() - self._started_at > budget.hours * 3600:
            self._exhausted = f"budget.hours is {budget.hours:g}"
        if budget.device_hours is not None and self.device_hours > budget.device_hours:
            self._exhausted = f"budget.device_hours is {budget.device_hours:g}"
        return self._exhausted

    @property
    def device_hours(self) -> float:
        """Hours of work times workers, over all starts."""
        seconds = sum(run.wall_seconds for trial in self.trials.values() for run in trial.runs)
        seconds += sum(self._now() - one.asked for one in self._crews.values() if one.job)
        return seconds * self._settings.workers_per_trial / 3600

    @property
    def stalled_seconds(self) -> float:
        """Time since anything was reported."""
        return self._now() - self._progress_at

    def crews(self) -> dict[str, str]:
        """What each crew is at."""
        return {
            name: f"trial {one.job.trial} seed {one.job.seed}" if one.job else "idle"
            for name, one in self._crews.items()
            if not one.given_up
        }

    # ---- trials

    def _may_propose(self) -> bool:
        most = self._settings.budget.trials
        return len(self.trials) < (self._sweep.num_trials if most is None else min(most, self._sweep.num_trials))

    def _propose(self) -> bool:
        """Open the next trial, if there is one."""
        proposal = self._search.propose() if self._may_propose() and not self.exhausted else None
        if proposal is None:
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
                run.status = "ready"
        if len(trial.runs) > 1 and self._group_runs and trial.parent_run_id is None:
            trial.status = "opening"
            self._say("opened", trial.number, "")
        else:
            trial.parent_run_id = trial.parent_run_id or self._parent_run_id
            trial.status = "open"
            self._enqueue_all(trial)
        save_trial(self._folder, trial)

    def _opening(self) -> bool:
        return any(trial.status == "opening" for trial in self.trials.values())

    def _enqueue_all(self, trial: TrialState) -> None:
        for run in trial.runs:
            if run.status == "ready" or (run.status == "paused" and self._may_go_on(trial, run)):
                run.status = "ready"
                self._ready.append((trial.number, run.seed))

    def _run(self, number: int, seed: int) -> RunState:
        return next(run for run in self.trials[number].runs if run.seed == seed)

    def _job(self, trial: TrialState, run: RunState) -> Job:
        self._num_jobs += 1
        name = trial.run_name(run)
        config = self._sweep.config(trial.current, seed=run.seed, name=name)
        # "resumed" also if an earlier start of the sweep or a killed worker left a state
        self._say("resumed" if run.curve else "started", trial.number, f"seed {run.seed}", run.step)
        run.status = "running"
        save_trial(self._folder, trial)
        source = trial.taken_over[-1]["from"] if trial.taken_over else None
        return Job(
            token=f"{trial.number}-{run.seed}-{self._num_jobs}-{self._started_at:.0f}",
            trial=trial.number,
            seed=run.seed,
            config=config.model_dump(mode="json"),
            parent_run_id=trial.parent_run_id,
            tags={"sweep": self._settings.sweep_name, "sweep.trial": str(trial.number)},
            take_over=None if source is None else str(self._folder / "trials" / f"{source:04d}" / f"seed_{run.seed}"),
        )

    def _compare(self, trial: TrialState, run: RunState) -> Verdict:
        """What becomes of a run that has evaluated or ended, and of those that waited for it."""
        if self._settings.scheduler.kind == "pbt":  # the exchange is when all have left off
            return "go" if self._may_go_on(trial, run) else "pause"
        while (step := self._comparison(trial)) is not None and (run.status == "finished" or run.step >= step):
            if any(other.status != "finished" and other.step < step for other in trial.runs):
                return "pause"
            if all(other.status == "finished" for other in trial.runs):
                return "go"
            score = trial.mean_at(step, self._sign)
            trial.scores.append((step, score))
            trial.stage += 1
            self._say("compared", trial.number, f"mean of {len(trial.runs)}", step, score)
            if not math.isfinite(score) or not self._search.worth(trial.number, step, score):
                self._end(trial, "stopped", f"stopped at update {step} with a mean of {score:.4f}")
                return "stop"
        for other in trial.runs:
            if other is not run and other.status == "paused":
                self._make_ready(trial, other)
        return "go"

    def _comparison(self, trial: TrialState) -> int | None:
        """The step of a trial's next comparison; None where there is no scheduler."""
        scheduler, grace = self._settings.scheduler, self._sweep.grace_steps
        if scheduler.kind == "asha":
            return grace * int(scheduler.reduction_factor**trial.stage)
        if scheduler.kind == "median":
            return grace * (trial.stage + 1)
        if scheduler.kind == "pbt":
            return int(scheduler.interval_steps or 1) * (trial.stage + 1)
        return None

    def _may_go_on(self, trial: TrialState, run: RunState) -> bool:
        """Whether a paused run waits for nobody."""
        step = self._comparison(trial)
        return step is None or run.step < step

    def _make_ready(self, trial: TrialState, run: RunState) -> None:
        run.status = "ready"
        self._ready.appendleft((trial.number, run.seed))  # what was begun ends before something new begins

    def _maybe_finish(self, trial: TrialState) -> None:
        if all(run.status == "finished" for run in trial.runs):
            metric = self._settings.metric_name
            scores = [
                run.result["dev"][run.result["metric"] if metric == "score" else metric]
                for run in trial.runs
                if run.result
            ]
            trial.score = statistics.fmean(scores)
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
        self._search.end(trial.number, ending, trial.values, trial.score)
        self._say("ended", trial.number, reason or "", score=trial.score)
        save_trial(self._folder, trial)

    # ---- population based training

    def _exchange_if_all_came(self) -> None:
        """When every run of every trial has come to the exchange: the worst take over from the best, all go on."""
        population = [trial for trial in self.trials.values() if not trial.over]
        if self._settings.scheduler.kind != "pbt" or not population:
            return
        step = self._comparison(population[0])
        assert step is not None
        runs = [run for trial in population for run in trial.runs]
        if any(run.status != "finished" and (run.status != "paused" or run.step < step) for run in runs):
            return
        for trial in population:
            trial.scores.append((step, trial.mean_at(step, self._sign)))
            trial.stage += 1
        order = sorted(population, key=lambda trial: self._sign * trial.scores[-1][1])
        num = int(len(order) * self._settings.scheduler.quantile)
        for place, trial in enumerate(order[:num]):
            donor = order[-1 - place]
            source = random.Random(f"{self._settings.sample_seed} {step} {trial.number}")
            trial.taken_over.append({"step": step, "from": donor.number, "values": self._explored(donor, source)})
            for run, other in zip(trial.runs, donor.runs, strict=True):
                run.curve = list(other.curve)
            self._say("compared", trial.number, f"takes over from trial {donor.number}", step, trial.scores[-1][1])
        for trial in population:
            for run in trial.runs:
                if run.status == "paused":
                    self._make_ready(trial, run)
            save_trial(self._folder, trial)

    def _explored(self, donor: TrialState, source: random.Random) -> dict[str, Any]:
        resample = self._settings.scheduler.resample
        return {
            key: dimension.draw(source) if source.random() < resample else dimension.perturb(donor.current[key], source)
            for key, dimension in self._settings.space.items()
            if key in donor.current
        }

    # ---- jobs

    def _by_token(self, token: str) -> tuple[_Crew, TrialState, RunState] | None:
        for one in self._crews.values():
            if one.job and one.job.token == token:
                trial = self.trials[one.job.trial]
                return one, trial, self._run(trial.number, one.job.seed)
        return None

    def _release(self, token: str) -> tuple[TrialState, RunState] | None:
        """Take the job from its crew, which asks for the next one; the time it took counts for the run."""
        found = self._by_token(token)
        if found is None:
            return None
        one, trial, run = found
        self._account(one, run)
        return trial, run

    def _account(self, one: _Crew, run: RunState) -> None:
        now = self._now()
        run.wall_seconds += now - one.asked
        one.job, one.heard, one.empty_starts, one.raised = None, now, 0, []
        self._progress_at = now

    def _return_job(self, one: _Crew, why: str, *, counts: bool) -> None:
        """Settle the job of workers that are gone: the trial's own failure, or a run that goes on."""
        if one.job is None:
            return
        trial, raised = self.trials[one.job.trial], one.raised
        run = self._run(trial.number, one.job.seed)
        empty_starts = one.empty_starts
        self._account(one, run)
        one.empty_starts = empty_starts
        own = [text for _, text, connection in raised if not connection]
        run.deaths += counts
        if trial.over:
            run.status = "stopped"
        elif own:
            run.status = "failed"
            self._fail(trial, own[0])
        elif run.deaths > self._settings.retries:
            run.status = "failed"
            last = f"; a rank said: {raised[0][1]}" if raised else ""
            self._fail(
                trial, f"{why} {run.deaths} times (retries is {self._settings.retries}); memory may be short{last}"
            )
        else:
            self._make_ready(trial, run)
            save_trial(self._folder, trial)

    def _say(
        self, kind: Any, trial: int | None, text: str, step: int | None = None, score: float | None = None
    ) -> None:
        self.events.append(Event(kind, trial, text, step, score))
        self._progress_at = self._now()


def check_same_sweep(past: Sequence[TrialState], sweep: Sweep) -> None:
    """Raise ConfigError if the trials of an earlier start are not those of this plan."""
    for trial in past:
        planned = trial.number < sweep.num_trials if sweep.points is None else trial.number < len(sweep.points)
        values = sweep.points[trial.number] if sweep.points is not None and planned else trial.values
        if values != trial.values or [run.seed for run in trial.runs] != sweep.seeds_of(trial.values):
            raise ConfigError(
                f"Trial {trial.number} of the sweep in {sweep.settings.output_dir} was {trial.values} with seeds "
                f"{[run.seed for run in trial.runs]}, which is not what this file plans. Go on with the same space, "
                "samples and seeds, or give another output_dir."
            )
