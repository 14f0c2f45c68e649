import numpy as np
import pytest
from scipy import stats

from launcher.paired import paired_differences
from launcher.studies.statistics import (
    Spread,
    Wins,
    area_under,
    bootstrap_mean,
    count_wins,
    has_collapsed,
    row_differences,
    spread,
)


def test_mean_and_sample_deviation_of_known_numbers():
    assert spread([1.0, 2.0, 3.0]) == Spread(2.0, 1.0)  # population deviation would be 0.816
    assert spread([0.5]) == Spread(0.5, None)
    assert spread([]) is None


@pytest.mark.parametrize("num_pairs", [5, 40])
def test_the_bootstrap_agrees_with_scipy(num_pairs):
    values = np.random.default_rng(num_pairs).normal(0.02, 0.03, num_pairs)
    ours = bootstrap_mean(values.tolist())
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    # two Monte Carlo quantiles: the deviation of either is about 2 % of the interval's width
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.06 * (theirs.high - theirs.low))


def test_the_bootstrap_repeats_and_stays_between_the_extremes():
    values = [0.01, -0.02, 0.03]
    assert bootstrap_mean(values) == bootstrap_mean(values)
    assert bootstrap_mean(values) == (-0.02, 0.03)  # a resample of one value has probability 1/27 > 2.5 %
    assert bootstrap_mean([0.25, 0.25]) == (0.25, 0.25)


def test_one_pair_has_no_interval():
    assert bootstrap_mean([0.1]) is None
    assert bootstrap_mean([]) is None


def test_differences_are_taken_on_shared_seeds_only():
    assert paired_differences({0: 0.5, 2: 0.75, 3: 1.0}, {2: 0.5, 0: 0.5, 1: 0.1}) == [0.0, 0.25]


def test_wins_ties_and_losses_are_counted_and_rounding_is_a_tie():
    assert count_wins([0.1, 0.2 - 0.1 - 0.1, 0.3 - 0.2 - 0.1, -0.5]) == Wins(1, 2, 1)


def test_a_run_near_or_below_the_most_frequent_class_has_collapsed():
    assert has_collapsed(0.51, 0.5, margin=0.02)
    assert has_collapsed(0.3, 0.5, margin=0.02)
    assert not has_collapsed(0.53, 0.5, margin=0.02)


def test_rows_are_averaged_over_the_seeds_before_they_are_compared():
    ours = [[True, True, False], [True, False, False]]
    theirs = [[True, False, False], [False, False, True]]
    assert row_differences(ours, theirs) == [0.5, 0.5, -0.5]


def test_the_area_is_the_mean_score_over_the_course():
    curve = [(10, 0.5), (20, 0.7), (60, 0.9)]
    steps, scores = np.array(curve).T
    assert area_under(curve) == pytest.approx(np.trapezoid(scores, steps) / 50)
    assert area_under([(4, 0.5), (8, 0.5)]) == 0.5
    assert area_under([(4, 0.25)]) == 0.25
    assert area_under([]) is None


def test_who_learns_earlier_has_the_larger_area():
    assert area_under([(1, 0.5), (2, 0.9), (3, 0.9)]) > area_under([(1, 0.5), (2, 0.5), (3, 0.9)])
