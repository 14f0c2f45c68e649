import logging
import math
import random
import subprocess
import sys
import warnings

import numpy as np
import pytest
from scipy import stats

from launcher.sweeps.statistics import (
    TrialScores,
    as_text,
    compare_best,
    group_mean,
    importance,
    interval,
    is_log,
    is_number,
    mean_curve,
    ranking,
    searched_settings,
)


def finished(number, scores, **values):
    final = dict(enumerate(scores)) if isinstance(scores, list) else scores
    return TrialScores(number, values, "finished", final, {})


def unfinished(number, status, curve):
    return TrialScores(number, {"optim.lr": 1e-3}, status, {}, curve)


def test_the_mean_is_that_of_a_finished_trial_with_a_number_for_each_seed():
    assert group_mean(finished(0, [0.5, 0.75])) == 0.625
    assert group_mean(finished(0, [0.5, math.nan])) is None
    assert group_mean(finished(0, {})) is None
    for status in ("stopped", "failed", "unfinished"):
        assert group_mean(TrialScores(0, {}, status, {0: 0.5}, {})) is None


def test_a_mean_curve_has_the_steps_that_all_seeds_reached():
    trial = unfinished(0, "stopped", {0: [(2, 0.25), (4, 0.5), (6, 0.75)], 1: [(2, 0.75), (4, 1.0)], 2: []})
    assert mean_curve(trial) == [(2, 0.5), (4, 0.75)]
    assert mean_curve(unfinished(0, "failed", {})) == []
    assert mean_curve(unfinished(0, "failed", {0: [(2, math.nan), (4, 0.5)]})) == [(4, 0.5)]


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_the_interval_is_that_of_scipy(num_seeds, level):
    values = np.random.default_rng(num_seeds).normal(0.8, 0.01, num_seeds)
    theirs = stats.ttest_1samp(values, 0).confidence_interval(level)
    assert interval(values.tolist(), level) == pytest.approx((theirs.low, theirs.high))


def test_the_interval_is_as_wide_as_its_description_says():
    low, high = interval([-1.0, 0.0, 1.0])  # standard deviation 1
    assert (low, high) == pytest.approx((-2.484, 2.484), abs=5e-4)  # 4.303 / sqrt(3)
    assert interval([0.5, 0.5]) == (0.5, 0.5)
    assert interval([0.5]) is None
    assert interval([]) is None


def test_the_best_mean_comes_first_and_of_equals_the_earlier_trial():
    trials = [
        finished(5, [0.5]),
        finished(3, [0.25, 0.75]),
        finished(1, [0.875]),
        finished(2, [math.nan]),
        unfinished(0, "stopped", {0: [(2, 0.99)]}),
    ]
    assert [trial.number for trial in ranking(trials, "max")] == [1, 3, 5]
    assert [trial.number for trial in ranking(trials, "min")] == [3, 5, 1]
    assert ranking([], "max") == []


def test_differences_that_vary_around_zero_do_not_tell_the_best_two_apart():
    ours, theirs = [0.75, 0.80, 0.85], [0.80, 0.78, 0.79]
    comparison = compare_best(finished(4, ours), finished(2, theirs), "max")
    expected = stats.ttest_rel(ours, theirs).confidence_interval()
    assert comparison.interval == pytest.approx((expected.low, expected.high))
    assert comparison.difference == pytest.approx(0.01)
    assert comparison.significant is False
    assert comparison.sentence == (
        "The best two cannot be told apart: 0.800 and 0.790, difference +0.010 [-0.128, +0.148] over 3 seeds."
    )


def test_pairs_tell_apart_what_means_would_not():
    """Seeds differ far more than trials do; the differences are 0.010, 0.012 and 0.011."""
    best, second = finished(4, [0.610, 0.712, 0.811]), finished(2, [0.600, 0.700, 0.800])
    comparison = compare_best(best, second, "max")
    half = 4.3027 * 0.001 / math.sqrt(3)
    assert comparison.interval == pytest.approx((0.011 - half, 0.011 + half), abs=1e-6)
    assert comparison.significant is True
    assert comparison.sentence == (
        "Trial 4 is better than trial 2: 0.711 and 0.700, difference +0.011 [+0.009, +0.013] over 3 seeds."
    )


def test_the_level_is_that_of_the_interval():
    best, second = finished(4, [0.50, 0.54, 0.58]), finished(2, [0.49, 0.51, 0.53])
    assert compare_best(best, second, "max", level=0.95).significant is False
    assert compare_best(best, second, "max", level=0.8).significant is True


def test_where_less_is_better_the_lower_trial_is():
    comparison = compare_best(finished(1, [0.10, 0.21, 0.32]), finished(7, [0.20, 0.30, 0.40]), "min")
    assert comparison.difference == pytest.approx(-0.09)
    assert comparison.sentence.startswith(
        "Trial 1 is better than trial 7: 0.210 and 0.300, difference -0.090 [-0.115, -0.065]"
    )


def test_on_the_seeds_that_both_have_the_second_may_be_the_better_one():
    best, second = finished(4, {0: 0.50, 1: 0.51, 2: 0.9}), finished(2, {0: 0.53, 1: 0.5401, 3: 0.1})
    comparison = compare_best(best, second, "max")
    assert comparison.difference == pytest.approx(-0.03005)
    assert comparison.significant is True
    assert comparison.sentence.startswith("Trial 2 is better than trial 4: ")
    assert comparison.sentence.endswith(" over the 2 seeds that both have.")


def test_one_seed_says_nothing_and_more_are_asked_for():
    comparison = compare_best(finished(4, [0.75]), finished(2, [0.5]), "max")
    assert (comparison.difference, comparison.interval, comparison.significant) == (0.25, None, None)
    assert comparison.sentence == "One seed each: whether trial 4 is better than trial 2 cannot be said. Give `seeds`."
    comparison = compare_best(finished(4, [0.75, 0.5]), finished(2, {7: 0.5}), "max")
    assert (comparison.difference, comparison.interval, comparison.significant) == (0.125, None, None)
    assert comparison.sentence.startswith(
        "One seed only of trial 2: whether trial 4 is better than trial 2 cannot be said."
    )
    equal = compare_best(finished(4, [0.5]), finished(9, [0.5]), "max").sentence
    assert "whether trial 4 is better than trial 9" in equal


@pytest.mark.parametrize("seeds", [(3, 4, 5, 6), (2, 3, 4, 5)], ids=["none shared", "one shared"])
def test_without_two_shared_seeds_the_means_are_compared_as_welch_does(seeds):
    ours, theirs = [0.80, 0.82, 0.81], [0.70, 0.74, 0.72, 0.73]
    comparison = compare_best(finished(4, ours), finished(2, dict(zip(seeds, theirs, strict=True))), "max")
    expected = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    assert comparison.interval == pytest.approx((expected.low, expected.high))
    assert comparison.significant is True
    assert comparison.sentence.endswith(" over 3 and 4 seeds.")


def test_the_same_difference_on_every_seed_is_no_certainty():
    comparison = compare_best(finished(4, [0.1, 0.3, 0.7]), finished(2, [0.0, 0.2, 0.6]), "max")
    assert comparison.difference == pytest.approx(0.1)
    assert (comparison.interval, comparison.significant) == (None, None)
    assert comparison.sentence == (
        "Whether trial 4 is better than trial 2 cannot be said: 0.367 and 0.267, difference +0.100, without any "
        "spread over 3 seeds to judge by. Give more `seeds`."
    )
    unpaired = compare_best(finished(4, {0: 0.5, 1: 0.5}), finished(2, {2: 0.25, 3: 0.25}), "max")
    assert (unpaired.difference, unpaired.interval, unpaired.significant) == (0.25, None, None)


@pytest.mark.parametrize("first_seed", [0, 10], ids=["shared seeds", "others"])
def test_equal_scores_are_not_told_apart(first_seed):
    other = {first_seed: 0.5, first_seed + 1: 0.5}
    comparison = compare_best(finished(4, [0.5, 0.5]), finished(2, other), "max")
    assert (comparison.difference, comparison.interval, comparison.significant) == (0.0, (0.0, 0.0), False)
    assert "0.500 and 0.500, difference +0.000 [+0.000, +0.000]" in comparison.sentence


def test_small_differences_are_shown_with_the_digits_they_need():
    comparison = compare_best(finished(0, [1.00002, 2.00004]), finished(1, [1.0, 2.0]), "max")
    assert "1.50003 and 1.50000, difference +0.00003 [-0.00010, +0.00016]" in comparison.sentence


def test_searched_settings_come_in_the_order_in_which_they_are_met():
    trials = [finished(0, [0.1], b=1), finished(1, [0.1], a=1, b=2), unfinished(2, "failed", {})]
    assert searched_settings(trials) == ["b", "a", "optim.lr"]


def test_numbers_are_read_by_their_logarithm_over_more_than_a_factor_of_ten():
    assert is_log([1e-4, 1e-2])
    assert is_log([1e-4, 1e-3, 1e-2])
    assert not is_log([1, 20, 40, 60])  # even as they are
    assert not is_log([1e-3, 1e-2])
    assert not is_log([0.0, 1.0])
    assert not is_log([-1.0, 100.0])
    assert not is_log([])
    assert [is_number(value) for value in (1, 0.5, True, None, "1", [1], math.inf)] == [True, True] + [False] * 5


def test_values_are_shown_as_in_a_config():
    values = (0.00123456, 3, "cosine", True, None, [0.5, "a"])
    assert [as_text(value) for value in values] == ["0.001235", "3", "cosine", "true", "null", '[0.5, "a"]']


def sweep(num_trials, score, **draws):
    """Trials whose settings are drawn and whose score is a function of them."""
    source = random.Random(0)
    trials = []
    for number in range(num_trials):
        values = {name: draw(source) for name, draw in draws.items()}
        trials.append(finished(number, [score(values)], **{k: v for k, v in values.items() if v != "off"}))
    return trials


def test_a_setting_that_decides_the_score_has_nearly_all_the_importance():
    trials = sweep(
        24,
        lambda values: values["width"] ** 2 + 0.01 * values["dropout"],
        dropout=lambda source: source.uniform(0, 0.5),
        width=lambda source: source.randint(1, 8),
        fixed=lambda source: "same",
    )
    for direction in ("max", "min"):
        shares = importance(trials, direction)
        assert list(shares) == ["width", "dropout", "fixed"]
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["width"] > 0.9
        assert shares["fixed"] == 0


def test_a_learning_rate_counts_by_its_logarithm():
    """On a linear scale the half of the draws below 1e-3 would be a hundredth of the space, and the coin the rest."""
    trials = sweep(
        24,
        lambda values: (values["lr"] > 1e-3) + 0.3 * values["coin"],
        lr=lambda source: 10 ** source.uniform(-5, -1),
        coin=lambda source: source.random() < 0.5,
    )
    shares = importance(trials, "max")
    # variances of the two on the space: 0.25 and 0.0225
    assert shares["lr"] == pytest.approx(0.25 / 0.2725, abs=0.07)


@pytest.mark.parametrize("choices", [["a", "b", "c"], [True, False], [None, "on"], [[1, 2], [3]], [None, 0.1, 0.5]])
def test_categories_may_be_anything_that_a_config_holds(choices):
    trials = sweep(
        16,
        lambda values: choices.index(values["kind"]) + 0.01 * values["x"],
        kind=lambda source: source.choice(choices),
        x=lambda source: source.random(),
    )
    shares = importance(trials, "max")
    assert list(shares) == ["kind", "x"]
    assert shares["kind"] > 0.8


@pytest.mark.parametrize("draw", [lambda s: s.uniform(0, 1), lambda s: s.choice([1, 2])], ids=["many", "two numbers"])
def test_a_setting_that_is_switched_off_in_some_trials_takes_part(draw):
    trials = sweep(
        32,
        lambda values: 0.0 if values["momentum"] == "off" else 1 + values["momentum"],
        momentum=lambda source: "off" if source.random() < 0.5 else draw(source),
        noise=lambda source: source.random(),
    )
    shares = importance(trials, "max")
    assert list(shares) == ["momentum", "noise"]
    assert shares["momentum"] > 0.8


def test_many_categories_are_weighed_in_seconds():
    names = [f"model_{index}" for index in range(20)]
    trials = sweep(
        60,
        lambda values: float(values["model"] in names[:3]),
        model=lambda source: source.choice(names),
        x=lambda source: source.random(),
    )
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        shares = importance(trials, "max")
    assert sorted(shares) == ["model", "x"]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["model"] > 0.5
    assert not seen


def test_importance_needs_four_trials_and_something_that_varies():
    varied = [finished(number, [0.1 * number], x=number) for number in range(4)]
    assert importance(varied, "max") == {"x": 1.0}
    assert importance(varied[:3], "max") == {}
    assert importance([*varied[:3], unfinished(3, "stopped", {0: [(1, 0.5)]})], "max") == {}
    assert importance([finished(number, [0.5], x=number) for number in range(4)], "max") == {}
    assert importance([finished(number, [0.1 * number], x=1) for number in range(4)], "max") == {}
    assert importance([finished(number, [0.1 * number]) for number in range(4)], "max") == {}
    tiny = [finished(number, [0.5 + 1e-9 * number], x=number) for number in range(4)]
    assert importance(tiny, "max") == {"x": 1.0}


def test_importance_leaves_nothing_behind_and_does_not_depend_on_the_order(capfd):
    trials = sweep(8, lambda v: v["x"] + v["y"], x=lambda s: s.random(), y=lambda s: s.random())
    importance(trials, "max")  # imports Optuna, which sets up its logger
    logger, numpy_state = logging.getLogger("optuna"), np.random.get_state()[1].tolist()
    before, state = logger.level, random.getstate()
    try:
        logger.setLevel(logging.DEBUG)
        assert importance(trials, "max") == importance(trials[::-1], "max")
        assert logger.level == logging.DEBUG
    finally:
        logger.setLevel(before)
    assert random.getstate() == state
    assert np.random.get_state()[1].tolist() == numpy_state
    assert capfd.readouterr() == ("", "")


def test_importing_the_module_loads_neither_optuna_scipy_nor_numpy():
    code = "import sys, launcher.sweeps.statistics; print(*{'optuna', 'scipy', 'numpy'}.intersection(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
