"""What a sweep tries next, and which trials are worth going on with. Optuna decides; a scheduler says by which pruner.

Nothing here is kept on disk: `restore` tells a fresh search what the sweep's journal knows.
"""

import json
import math
import random
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, cast

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial
from optuna.trial import TrialState as OptunaState

from launcher.sweeps.journal import TrialState
from launcher.sweeps.plan import Sweep
from launcher.sweeps.space import Dimension, point_of

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

SAME_POINT_TRIES = 20
"""How often Optuna is asked again when it proposes what was tried already."""
DRAWS = 200
"""After that, so many points are drawn evenly; where none of them is new, the space counts as searched."""

Ending = Literal["finished", "stopped", "failed"]
_STATES = {"finished": OptunaState.COMPLETE, "stopped": OptunaState.PRUNED, "failed": OptunaState.FAIL}


class Search:
    """The sweep's trials as Optuna sees them. Numbers are the sweep's own."""

    def __init__(self, sweep: Sweep) -> None:
        """A search without any trial yet."""
        self._sweep = sweep
        self._study = optuna.create_study(
            sampler=self._sampler(0),
            pruner=sweep.scheduler.pruner(),
            direction="maximize" if sweep.settings.direction == "max" else "minimize",
        )
        self._running: dict[int, Trial] = {}
        self._tried: set[str] = set()
        self._proposed = 0

    def propose(self) -> tuple[int, dict[str, Any]] | None:
        """Number and values of the next trial; None when there is none left, or every point was tried."""
        if self._proposed >= self._sweep.num_trials:
            return None
        number, points = self._proposed, self._sweep.points
        asked = self._ask() if points is None else (self._study.ask(), points[number])
        if asked is None:
            return None
        self._running[number], values = asked
        self._tried.add(json.dumps(values))
        self._proposed += 1
        return number, values

    def keep_going(self, number: int, step: int, score: float) -> bool:
        """Whether a trial with this mean score at this step is worth going on with."""
        trial = self._running[number]
        trial.report(score, step)
        return not trial.should_prune()

    def end(self, number: int, ending: Ending, score: float | None) -> None:
        """A trial has ended; `score` is that of a finished one."""
        if ending == "finished" and (score is None or not math.isfinite(score)):
            ending = "failed"  # nothing is learnt from it
        self._study.tell(self._running.pop(number), score if ending == "finished" else None, state=_STATES[ending])

    def restore(self, past: Sequence[TrialState]) -> None:
        """Take over the trials of an earlier start, in the order of their numbers."""
        for trial in past:
            self._proposed = max(self._proposed, trial.number + 1)
            self._tried.add(json.dumps(trial.values))
            self._running[trial.number] = self._again(trial.values)
            for step, score in trial.scores:
                if math.isfinite(score):  # the others never came to `keep_going`
                    # the answer is known, but a pruner keeps what it compared
                    self.keep_going(trial.number, step, score)
            if trial.over:
                self.end(trial.number, cast(Ending, trial.status), trial.score)

    def _sampler(self, *key: int) -> optuna.samplers.BaseSampler:
        """Proposes from the trials so far and its key alone, so that a resumed sweep is proposed the same."""
        seed = random.Random(f"{self._sweep.settings.sample_seed} {key}").getrandbits(32)
        # several trials run at a time: those under way count as bad, so that the next is tried elsewhere
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)

    def _ask(self) -> tuple[Trial, dict[str, Any]] | None:
        """What Optuna proposes, but no point twice: a run repeats exactly."""
        space = self._sweep.settings.space
        for attempt in range(SAME_POINT_TRIES):
            self._study.sampler = self._sampler(self._proposed, attempt)
            trial = self._study.ask()
            values = point_of(space, partial(_suggest, trial))
            if json.dumps(values) not in self._tried:
                return trial, values
            self._study.tell(trial, state=OptunaState.FAIL)
        source = random.Random(f"{self._sweep.settings.sample_seed} {self._proposed}")
        for _ in range(DRAWS):
            values = point_of(space, lambda _, dimension: dimension.draw(source))
            if json.dumps(values) not in self._tried:
                return self._again(values), values
        return None

    def _again(self, values: dict[str, Any]) -> Trial:
        """A trial of Optuna's with given values."""
        if self._sweep.points is not None:  # nobody learns from these
            return self._study.ask()
        space = self._sweep.settings.space
        self._study.enqueue_trial({key: _coded(space[key], value) for key, value in values.items()})
        return self._study.ask({key: _distribution(space[key]) for key in values})


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.listed is not None:
        return CategoricalDistribution([json.dumps(value) for value in dimension.listed])
    if dimension.integer is not None:
        return IntDistribution(*dimension.integer)
    if dimension.log_uniform is not None:
        return FloatDistribution(*dimension.log_uniform, log=True)
    assert dimension.uniform is not None
    return FloatDistribution(*dimension.uniform)


def _suggest(trial: Trial, key: str, dimension: Dimension) -> Any:
    if dimension.listed is not None:
        return json.loads(trial.suggest_categorical(key, [json.dumps(value) for value in dimension.listed]))
    if dimension.integer is not None:
        return trial.suggest_int(key, *dimension.integer)
    if dimension.log_uniform is not None:
        return trial.suggest_float(key, *dimension.log_uniform, log=True)
    assert dimension.uniform is not None
    return trial.suggest_float(key, *dimension.uniform)


def _coded(dimension: Dimension, value: Any) -> Any:
    """A value as its distribution has it."""
    return json.dumps(value) if dimension.listed is not None else value
