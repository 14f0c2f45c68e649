import math
import random

import pytest
from pydantic import ValidationError

from infoprompt.config import ConfigError
from launcher.sweeps.space import Dimension, check_conditions, corners, expand, is_point, point_of
from launcher.values import show_value, show_values

LR = Dimension(grid=[1e-3, 3e-3])
SEED = Dimension(grid=[0, 1])
KINDS = {
    "grid": Dimension(grid=[1, 2, 4]),
    "choice": Dimension(choice=["a", "b", None]),
    "uniform": Dimension(uniform=(-1, 2)),
    "log_uniform": Dimension(log_uniform=(1e-5, 1e-1)),
    "integer": Dimension(integer=(-2, 5)),
}
CONDITIONAL = {
    "objective.preset": Dimension(grid=["paper", "analytic", "none"]),
    "objective.negatives": Dimension(integer=(8, 64), when={"objective.preset": ["paper", "analytic"]}),
    "objective.clamp": Dimension(uniform=(0, 1), when={"objective.preset": ["paper"], "objective.negatives": [8]}),
    "optim.lr": Dimension(log_uniform=(1e-4, 1e-2)),
}


def test_grids_are_combined_and_the_last_runs_fastest():
    assert expand({"optim.lr": LR, "seed": SEED}) == [
        {"optim.lr": 1e-3, "seed": 0},
        {"optim.lr": 1e-3, "seed": 1},
        {"optim.lr": 3e-3, "seed": 0},
        {"optim.lr": 3e-3, "seed": 1},
    ]


def test_each_draw_is_combined_with_every_point_of_the_grids():
    space = {"optim.lr": Dimension(log_uniform=(1e-4, 1e-2)), "seed": SEED}
    points = expand(space, num_samples=3)
    assert len(points) == 6
    assert [point["seed"] for point in points] == [0, 1] * 3
    assert len({point["optim.lr"] for point in points}) == 3
    assert all(1e-4 <= point["optim.lr"] <= 1e-2 for point in points)
    assert list(points[0]) == list(space)


def test_draws_repeat_with_their_seed_and_do_not_depend_on_each_other():
    space = {"optim.lr": Dimension(uniform=(0, 1)), "prompt.length": Dimension(choice=[2, 4, 8])}
    assert expand(space, 5, seed=1) == expand(space, 5, seed=1)
    assert expand(space, 5, seed=1) != expand(space, 5, seed=2)
    alone = expand({"optim.lr": space["optim.lr"]}, 5, seed=1)
    assert [point["optim.lr"] for point in alone] == [point["optim.lr"] for point in expand(space, 5, seed=1)]
    assert expand(space, 8, seed=1)[:5] == expand(space, 5, seed=1)  # more samples may be added later


def test_log_uniform_is_even_in_the_logarithm():
    points = expand({"optim.lr": Dimension(log_uniform=(1e-4, 1e-2))}, 400)
    below = sum(math.log10(point["optim.lr"]) < -3 for point in points)
    assert 160 < below < 240  # binomial: 200 expected, deviation 10


def test_whole_numbers_include_both_ends_and_are_even():
    source = random.Random(0)
    drawn = [Dimension(integer=(1, 4)).draw(source) for _ in range(400)]
    assert {value: 70 < drawn.count(value) < 130 for value in drawn} == dict.fromkeys((1, 2, 3, 4), True)


def test_repeating_a_grid_without_draws_is_refused():
    with pytest.raises(ConfigError, match=r"num_samples is 2, but space has only grids.* Leave it out; .*seeds: \["):
        expand({"optim.lr": LR}, num_samples=2)


def test_a_point_that_is_drawn_again_is_no_trial_of_its_own():
    points = expand({"prompt.length": Dimension(choice=[2, 4])}, num_samples=20)
    assert sorted(point["prompt.length"] for point in points) == [2, 4]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "gives nothing, but must give exactly one of grid, choice, uniform, log_uniform, integer, such as"),
        ({"grid": [1], "choice": [2]}, "gives grid and choice, but must give exactly one"),
        ({"uniform": (2, 1)}, r"is uniform from 2.0 to 1.0, but the first must be the lower one. Exchange them"),
        ({"integer": (3, 3)}, "is integer from 3 to 3"),
        ({"log_uniform": (1, math.inf)}, "should be a finite number"),
        ({"log_uniform": (0, 1)}, "greater than 0"),
        ({"grid": []}, "at least 1 item"),
        ({"integer": (1, 2.5)}, "valid integer"),
    ],
)
def test_a_dimension_says_what_is_wrong_with_it(given, message):
    with pytest.raises(ValidationError, match=message):
        Dimension(**given)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_and_neighbours_stay_among_the_values(kind):
    dimension, source = KINDS[kind], random.Random(0)
    value = dimension.draw(source)
    seen = set()
    for _ in range(300):
        assert dimension.has(value)
        seen.add(value)
        value = dimension.perturb(value, source)
    assert len(seen) >= min(3, len(dimension.listed or "abc"))


def test_a_neighbour_is_a_fifth_away_or_the_next_choice():
    source = random.Random(1)
    assert {Dimension(uniform=(0, 10)).perturb(5.0, source) for _ in range(30)} == {4.0, 6.0}
    assert {Dimension(uniform=(4.5, 10)).perturb(5.0, source) for _ in range(30)} == {4.5, 6.0}
    assert {KINDS["grid"].perturb(2, source) for _ in range(30)} == {1, 4}
    assert {KINDS["grid"].perturb(4, source) for _ in range(30)} == {2, 4}
    assert {Dimension(integer=(0, 99)).perturb(50, source) for _ in range(30)} == {40, 60}
    # rounding would leave these where they are for ever
    assert {Dimension(integer=(0, 9)).perturb(2, source) for _ in range(30)} == {1, 3}
    assert {Dimension(integer=(1, 9)).perturb(1, source) for _ in range(30)} == {1, 2}


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        ("grid", [1, 4], [3, "1", None]),
        ("choice", ["a", None], ["c", 0]),
        ("uniform", [-1, 0.5, 2], [2.1, "1", None]),
        ("log_uniform", [1e-5, 0.1], [0, 1]),
        ("integer", [-2, 5], [6, 1.5, None]),
    ],
)
def test_a_dimension_knows_its_values(kind, inside, outside):
    assert all(KINDS[kind].has(value) for value in inside)
    assert not any(KINDS[kind].has(value) for value in outside)


# ---- conditions


def test_a_setting_applies_only_under_its_condition_and_under_those_of_what_it_names():
    points = expand(CONDITIONAL, num_samples=40, seed=0)
    for point in points:
        assert ("objective.negatives" in point) == (point["objective.preset"] != "none")
        assert ("objective.clamp" in point) == (
            point["objective.preset"] == "paper" and point["objective.negatives"] == 8
        )
        assert is_point(CONDITIONAL, point)
    assert {point["objective.preset"] for point in points} == {"paper", "analytic", "none"}


def test_a_grid_under_a_condition_that_is_not_met_makes_one_point():
    space = {"kind": Dimension(grid=["a", "b"]), "length": Dimension(grid=[1, 2, 3], when={"kind": ["a"]})}
    assert expand(space) == [
        {"kind": "a", "length": 1},
        {"kind": "a", "length": 2},
        {"kind": "a", "length": 3},
        {"kind": "b"},
    ]


def test_a_point_of_another_space_is_told():
    point = {"objective.preset": "none", "optim.lr": 1e-3}
    assert is_point(CONDITIONAL, point)
    assert not is_point(CONDITIONAL, {**point, "objective.negatives": 8})  # its condition is not met
    assert not is_point(CONDITIONAL, {"objective.preset": "paper", "optim.lr": 1e-3})  # negatives are missing
    assert not is_point(CONDITIONAL, {**point, "seed": 1})
    assert not is_point(CONDITIONAL, {**point, "optim.lr": 1.0})


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ({"c": [1]}, r"space.b.when names c, which is no dimension before it. Name one of r, a, or put it above."),
        ({"b": [1]}, r"space.b.when names b, which is no dimension before it"),
        ({"r": [1]}, r"space.b.when names r, which has a range, but must name one with listed values. Give those of r"),
        ({"a": [1, 7]}, r"space.b.when asks for a=7, but that has only \[1, 2\]. Use one of these."),
        ({"a": []}, r"space.b.when.a is \[\], but must have a value. Give some of \[1, 2\]."),
    ],
)
def test_a_condition_that_cannot_be_met_is_refused(when, message):
    space = {
        "r": Dimension(uniform=(0, 1)),
        "a": Dimension(grid=[1, 2]),
        "b": Dimension(grid=[1], when=when),
        "c": Dimension(grid=[1]),
    }
    with pytest.raises(ConfigError, match=message):
        check_conditions(space)


def test_conditions_that_can_be_met_are_not_refused():
    check_conditions({"a": Dimension(grid=[1, 2]), "b": Dimension(integer=(1, 2), when={"a": 2})})


def test_corners_have_every_listed_value_and_both_ends_of_every_range():
    space = {
        **{key: CONDITIONAL[key] for key in ("objective.preset", "objective.negatives", "optim.lr")},
        "prompt.kind": Dimension(choice=["static", "prefix"], when={"objective.preset": ["none"]}),
        "prompt.length": Dimension(grid=[1, 9], when={"prompt.kind": ["prefix"]}),
    }
    points = corners(space)
    for key, dimension in space.items():
        assert {point[key] for point in points if key in point} == set(dimension.extremes), key
    assert all(is_point(space, point) for point in points)
    assert len(points) <= sum(len(dimension.extremes) for dimension in space.values())


def test_values_come_in_the_order_of_the_space():
    assert list(point_of(CONDITIONAL, lambda key, one: one.extremes[0])) == list(CONDITIONAL)


def test_numbers_are_shown_short():
    assert show_values({"optim.lr": 0.00123456, "seed": 0, "prompt.kind": "static"}) == (
        "optim.lr=0.001235, seed=0, prompt.kind=static"
    )
    assert show_value(1e-9) == "1e-09"
