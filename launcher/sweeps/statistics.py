"""What a sweep's trials say, and how far it can be trusted. Pure functions of numbers."""

import contextlib
import json
import logging
import math
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from launcher.paired import LEVEL, ROUNDING, bounds_of, interval, paired_differences

Direction = Literal["max", "min"]
Point = tuple[int, float]

FEWEST_TRIALS = 4  # to share out variation among settings
MOST_CATEGORIES = 8  # fANOVA sums over all subsets of a setting's categories: 12 of them take seconds, 20 hours

NOT_SET = "not set"
"""Stands for the value of a setting that a condition has switched off."""


@dataclass(frozen=True)
class TrialScores:
    """A trial's settings and what each of its seeds has scored."""

    number: int
    """Its number in the sweep."""

    values: Mapping[str, Any]
    """Dotted setting to its value; settings that a condition switched off are absent."""

    status: Literal["finished", "stopped", "failed", "unfinished"]
    """`stopped`: early, by the scheduler."""

    final: Mapping[int, float]
    """Seed to the metric of the finished run; empty unless finished."""

    curve: Mapping[int, Sequence[Point]]
    """Seed to (step, dev score), as evaluated so far."""


@dataclass(frozen=True)
class Comparison:
    """Whether two trials differ by more than luck of the seed explains."""

    difference: float
    """Mean score of the first minus that of the second."""

    interval: tuple[float, float] | None
    """Where the difference lies, were there many seeds; None if too few or too equal scores say nothing about it."""

    significant: bool | None
    """Whether the interval excludes zero; None if nothing can be said."""

    sentence: str
    """The same for people."""


def group_mean(trial: TrialScores) -> float | None:
    """Mean of the metric over the trial's seeds; None unless it finished with a number for each of them."""
    scores = list(trial.final.values())
    if trial.status != "finished" or not scores or not all(map(math.isfinite, scores)):
        return None
    return statistics.fmean(scores)


def mean_curve(trial: TrialScores) -> list[Point]:
    """Mean dev score at each step that all of the trial's seeds with a curve have evaluated."""
    tables = [{step: score for step, score in points if math.isfinite(score)} for points in trial.curve.values()]
    tables = [table for table in tables if table]
    steps = sorted(set.intersection(*map(set, tables))) if tables else []
    return [(step, statistics.fmean(table[step] for table in tables)) for step in steps]


def ranking(trials: Sequence[TrialScores], direction: Direction) -> list[TrialScores]:
    """The finished trials by their mean, best first, the earlier of equals first."""
    sign = -1 if direction == "max" else 1
    scored = [(sign * mean, trial.number, trial) for trial in trials if (mean := group_mean(trial)) is not None]
    return [trial for _, _, trial in sorted(scored, key=lambda entry: entry[:2])]


def compare_best(best: TrialScores, second: TrialScores, direction: Direction, level: float = LEVEL) -> Comparison:
    """Whether one of two finished trials is better, or may have had luck with its seeds.

    Seeds that both have are compared in pairs, since a seed's data order and start are luck that both share. Without
    two such seeds, the means of all seeds are compared (Welch). Choosing the best two among many trials favours the
    lucky ones, and the interval does not know how many there were: "better" is a hint, not a test.

    Scores that differ by exactly the same on every seed have no spread to judge by. That happens on few dev rows, where
    scores are coarse, so it is not taken as certainty.
    """
    shared = best.final.keys() & second.final.keys()
    paired = len(shared) > 1
    ours, theirs = ([trial.final[s] for s in sorted(shared if paired else trial.final)] for trial in (best, second))
    assert all((ours, theirs)), "only finished trials are compared"
    means = statistics.fmean(ours), statistics.fmean(theirs)
    difference = means[0] - means[1]
    winner, loser = (best, second) if (difference if direction == "max" else -difference) >= 0 else (second, best)
    better = f"trial {winner.number} is better than trial {loser.number}"
    if min(len(ours), len(theirs)) < 2:
        single = min(best, second, key=lambda trial: len(trial.final)).number
        who = "One seed each" if len(ours) == len(theirs) else f"One seed only of trial {single}"
        return Comparison(difference, None, None, f"{who}: whether {better} cannot be said. Give `seeds`.")
    if paired:
        bounds = interval(paired_differences(best.final, second.final), level)
        over = f"{len(shared)} seeds"
        if len(best.final) > len(shared) or len(second.final) > len(shared):
            over = f"the {len(shared)} seeds that both have"
    else:
        from scipy.stats import ttest_ind

        bounds = bounds_of(ttest_ind, ours, theirs, equal_var=False, level=level)
        over = f"{len(ours)} and {len(theirs)} seeds"
    assert bounds is not None
    if bounds[1] - bounds[0] < ROUNDING <= abs(difference):
        shown = f"{_shown(*means)}, without any spread over {over} to judge by"
        return Comparison(difference, None, None, f"Whether {better} cannot be said: {shown}. Give more `seeds`.")
    significant = bounds[0] > ROUNDING or bounds[1] < -ROUNDING
    claim = better.capitalize() if significant else "The best two cannot be told apart"
    return Comparison(difference, bounds, significant, f"{claim}: {_shown(*means, bounds)} over {over}.")


def searched_settings(trials: Sequence[TrialScores]) -> list[str]:
    """Every setting that some trial was given, in the order in which they are met."""
    return list(dict.fromkeys(name for trial in trials for name in trial.values))


def is_number(value: Any) -> bool:
    """Whether a value has a place on a scale; true and false have none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_log(numbers: Sequence[float]) -> bool:
    """Whether numbers are read by their logarithm.

    They are all positive and spread over more than a factor of ten, and their median is no nearer to the middle of the
    linear scale. Even draws from 0 to 0.5 spread over more than a factor of ten, too.
    """
    if not numbers or min(numbers) <= 0 or max(numbers) <= 10 * min(numbers):
        return False
    off_middle = []
    for values in (sorted(map(math.log, numbers)), sorted(numbers)):
        off_middle.append(abs((statistics.median(values) - values[0]) / (values[-1] - values[0]) - 0.5))
    return off_middle[0] <= off_middle[1] + ROUNDING


def importance(trials: Sequence[TrialScores], direction: Direction) -> dict[str, float]:
    """Share of the variation of the mean score that each searched setting explains by itself, the largest first.

    A forest is fitted to the finished trials, and the variance of its prediction over the space is divided among the
    settings (Optuna's fANOVA). What only settings together explain is left out, and the rest sums to one: the shares
    rank the settings, they do not say that any of them matters. With few trials they follow luck of the seed.

    - Numbers enter by their logarithm where that is their scale (`is_log`).
    - Text, true and false, null and lists are categories.
    - A setting that a condition switched off in some trials has the category "not set" there; its numbers, if more than
      four, become quarters of them. It shares the credit of its condition, which trials cannot tell from it.
    - Beyond eight categories of one setting fANOVA takes too long, and PED-ANOVA takes its place: the shares then say
      what sets the best tenth of the trials apart.

    Returns:
        Empty for fewer than four finished trials, equal scores, or settings that do not vary.
    Source: Hutter et al. 2014, An Efficient Approach for Assessing Hyperparameter Importance; for PED-ANOVA Watanabe
        et al. 2023, arXiv:2304.10255.
    """
    finished = ranking(trials, direction)
    scores = [mean for trial in finished if (mean := group_mean(trial)) is not None]
    if len(finished) < FEWEST_TRIALS or max(scores) - min(scores) < ROUNDING:
        return {}
    columns = {
        name: _column([trial.values.get(name, NOT_SET) for trial in finished]) for name in searched_settings(finished)
    }
    if all(len(set(column)) == 1 for column in columns.values()):
        return {}
    deviation = statistics.pstdev(scores)  # a forest splits no variance below 1e-16
    return _by_optuna(columns, [score / deviation for score in scores], direction)


def as_text(value: Any) -> str:
    """A value as in a config: numbers with four digits, `true`, `null`, `[1, 2]`, text without quotes."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _shown(ours: float, theirs: float, bounds: tuple[float, float] | None = None) -> str:
    """With three decimals, or as many more as the difference and its interval need to be seen."""
    sizes = [abs(number) for number in (ours - theirs, *(bounds or ())) if abs(number) >= ROUNDING]
    decimals = min(max([3, *(-math.floor(math.log10(size)) for size in sizes)]), 6)
    text = f"{ours:.{decimals}f} and {theirs:.{decimals}f}, difference {ours - theirs:+z.{decimals}f}"
    return text if bounds is None else f"{text} [{bounds[0]:+z.{decimals}f}, {bounds[1]:+z.{decimals}f}]"


def _column(values: Sequence[Any]) -> list[float] | list[str]:
    """A setting's values as numbers where all are, otherwise as names of categories."""
    numbers = sorted(value for value in values if is_number(value))
    if len(numbers) == len(values):
        # fANOVA weighs by the linear scale, also where a distribution is declared logarithmic
        return [math.log(value) for value in values] if is_log(numbers) else list(values)
    if len(set(numbers)) > 4:
        edges = statistics.quantiles(numbers, n=4, method="inclusive")
        return [str(sum(v > edge for edge in edges)) if is_number(v) else json.dumps(v, default=str) for v in values]
    return [json.dumps(value, default=str) for value in values]


def _by_optuna(columns: Mapping[str, Sequence[Any]], scores: Sequence[float], direction: Direction) -> dict[str, float]:
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    evaluator: Any = optuna.importance.FanovaImportanceEvaluator(seed=0)
    distributions: dict[str, Any] = {}
    for name, column in columns.items():
        values = sorted(set(column))
        if isinstance(values[0], str):
            distributions[name] = CategoricalDistribution(values)
            if len(values) > MOST_CATEGORIES:
                evaluator = None
        else:
            whole = all(isinstance(value, int) for value in values)
            distributions[name] = (IntDistribution if whole else FloatDistribution)(values[0], values[-1])
    with _quiet_optuna():
        study = optuna.create_study(direction="maximize" if direction == "max" else "minimize")
        for row, score in enumerate(scores):
            params = {name: column[row] for name, column in columns.items()}
            trial = optuna.trial.create_trial(params=params, distributions=distributions, value=score)
            study.add_trial(trial)
        evaluator = evaluator or optuna.importance.PedAnovaImportanceEvaluator()
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))}


@contextlib.contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Neither log lines nor warnings (of few trials, of what is experimental) for the time of the body."""
    logger = logging.getLogger("optuna")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
