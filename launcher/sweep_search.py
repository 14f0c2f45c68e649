"""What a sweep tries next, and which trials are worth going on with. Optuna decides; the one file that imports it.

Nothing here is kept on disk: `restore` tells a fresh search what the sweep's journal knows.
"""

import json
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial, create_trial
from optuna.trial import TrialState as OptunaState

from launcher.sweep_plan import Sweep
from launcher.sweep_space import Dimension, point_of
from launcher.sweep_state import TrialState

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)

SAME_POINT_TRIES = 20
"""How often Optuna is asked again when it proposes what was tried already."""

Ending = Literal["finished", "stopped", "failed"]
_STATES = {"finished": OptunaState.COMPLETE, "stopped": OptunaState.PRUNED, "failed": OptunaState.FAIL}


class Search:
    """The sweep's trials as Optuna sees them. Numbers are the sweep's own."""

    def __init__(self, sweep: Sweep) -> None:
        """A search without any trial yet."""
        self._sweep = sweep
        settings = sweep.settings
        # several trials run at a time: those under way count as bad, so that the next is tried elsewhere
        sampler = optuna.samplers.TPESampler(seed=settings.sample_seed, constant_liar=True)
        self._study = optuna.create_study(
            sampler=sampler,
            pruner=_pruner(sweep),
            direction="maximize" if settings.direction == "max" else "minimize",
        )
        self._running: dict[int, Trial] = {}
        self._tried: dict[str, float | None] = {}
        self._proposed = 0

    @property
    def num_proposed(self) -> int:
        """Trials proposed so far."""
        return self._proposed

    def propose(self) -> tuple[int, dict[str, Any]] | None:
        """Number and values of the next trial; None when there is none left."""
        if self._proposed >= self._sweep.num_trials:
            return None
        number, points = self._proposed, self._sweep.points
        trial, values = self._ask() if points is None else (self._study.ask(), points[number])
        self._running[number] = trial
        self._proposed += 1
        return number, values

    def worth(self, number: int, step: int, score: float) -> bool:
        """Whether a trial with this mean score at this step is worth going on with."""
        trial = self._running[number]
        trial.report(score, step)
        return not trial.should_prune()

    def end(self, number: int, ending: Ending, values: dict[str, Any], score: float | None) -> None:
        """A trial has ended; `score` is that of a finished one."""
        trial = self._running.pop(number)
        self._tried[json.dumps(values)] = score
        self._study.tell(trial, score if ending == "finished" else None, state=_STATES[ending])

    def restore(self, past: Sequence[TrialState]) -> None:
        """Take over the trials of an earlier start, in the order of their numbers."""
        for one in past:
            self._proposed = max(self._proposed, one.number + 1)
            parameters, distributions = self._as_optuna(one.values)
            if one.status in _STATES:
                self._tried[json.dumps(one.values)] = one.score
                self._study.add_trial(
                    create_trial(
                        state=_STATES[one.status],
                        value=one.score if one.status == "finished" else None,
                        params=parameters,
                        distributions=distributions,
                        intermediate_values=dict(one.scores),
                    )
                )
                continue
            self._study.enqueue_trial(parameters)
            trial = self._study.ask(distributions)
            for step, score in one.scores:
                trial.report(score, step)
            self._running[one.number] = trial

    def _ask(self) -> tuple[Trial, dict[str, Any]]:
        """What Optuna proposes; a point that was tried before only tells it the score again."""
        for _ in range(SAME_POINT_TRIES):
            trial = self._study.ask()
            values = point_of(self._sweep.settings.space, lambda key, one, trial=trial: _suggest(trial, key, one))  # type: ignore[misc]
            score = self._tried.get(json.dumps(values))
            if score is None:
                return trial, values
            self._study.tell(trial, score)
        trial = self._study.ask()
        return trial, point_of(self._sweep.settings.space, lambda key, one: _suggest(trial, key, one))

    def _as_optuna(self, values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        if self._sweep.points is not None:  # nobody learns from these
            return {}, {}
        space = self._sweep.settings.space
        return (
            {key: _coded(space[key], value) for key, value in values.items()},
            {key: _distribution(space[key]) for key in values},
        )


def _pruner(sweep: Sweep) -> optuna.pruners.BasePruner:
    scheduler = sweep.settings.scheduler
    if scheduler.kind == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=sweep.grace_steps, reduction_factor=scheduler.reduction_factor
        )
    if scheduler.kind == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=scheduler.startup_trials)
    return optuna.pruners.NopPruner()


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
