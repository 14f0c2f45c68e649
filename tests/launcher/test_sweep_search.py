"""What Optuna is asked and told; whole sweeps with it are in `test_sweep_dispatch.py`."""

import json
import math

import pytest
from sweep_simulator import toy_sweep

from launcher.sweeps.journal import RunState, TrialState
from launcher.sweeps.search import Search
from launcher.sweeps.space import is_point

SPACE = {
    "objective.preset": {"grid": ["paper", "analytic", None]},
    "objective.negatives": {"integer": [8, 64], "when": {"objective.preset": ["paper", "analytic"]}},
    "optim.lr": {"log_uniform": [1e-4, 1e-2]},
    "prompt.dropout": {"uniform": [0, 0.5]},
    "prompt.places": {"choice": [[0], [0, 1], "all"], "when": {"objective.preset": "paper"}},
}


def sweep(folder, num_samples=30, space=SPACE, **settings):
    return toy_sweep(folder, space, searcher="optuna", num_samples=num_samples, **settings)


def score_of(values) -> float:
    return -abs(math.log(values["optim.lr"] / 1e-3)) - values["prompt.dropout"]


def follow(search: Search, number: int) -> list[TrialState]:
    """Trials one after the other, each finished with its score."""
    trials = []
    for _ in range(number):
        proposed = search.propose()
        assert proposed is not None
        one = TrialState(*proposed, [RunState(0)], status="finished", score=score_of(proposed[1]))
        search.end(one.number, "finished", one.score)
        trials.append(one)
    return trials


def test_proposals_stay_in_the_space_with_its_conditions(tmp_path):
    plan = sweep(tmp_path)
    trials = follow(Search(plan), 30)
    assert [trial.number for trial in trials] == list(range(30))
    assert all(is_point(plan.settings.space, trial.values) for trial in trials)
    assert {json.dumps(trial.values["objective.preset"]) for trial in trials} == {'"paper"', '"analytic"', "null"}
    assert [0, 1] in [trial.values.get("prompt.places") for trial in trials]


def test_the_same_seed_proposes_the_same_and_another_something_else(tmp_path):
    first, again, other = (follow(Search(sweep(tmp_path, sample_seed=seed)), 15) for seed in (0, 0, 1))
    assert first == again
    assert first[0].values != other[0].values


def test_it_learns_from_what_it_is_told(tmp_path):
    trials = follow(Search(sweep(tmp_path, 60)), 60)
    scores = [trial.score for trial in trials]
    assert sum(scores[-20:]) / 20 > sum(scores[:10]) / 10 + 0.3


@pytest.mark.parametrize("known", [1, 9, 14])
def test_a_restored_search_goes_on_as_if_it_had_never_stopped(tmp_path, known):
    plan = sweep(tmp_path)
    whole = follow(Search(plan), 25)
    restored = Search(plan)
    restored.restore(whole[:known])
    assert follow(restored, 25 - known) == whole[known:]


def test_trials_under_way_are_restored_too_and_end_later(tmp_path):
    plan = sweep(tmp_path, scheduler={"kind": "asha", "grace_steps": 2})
    search = Search(plan)
    under_way = TrialState(*search.propose(), [RunState(0)], scores=[(2, 0.5)])
    search.keep_going(0, 2, 0.5)
    rest = follow(search, 12)
    again = Search(plan)
    again.restore([under_way, *rest])
    assert again.propose() == search.propose()
    for one in (search, again):
        assert one.keep_going(0, 6, 0.5)
        one.end(0, "stopped", None)
    assert again.propose() == search.propose()


def test_no_point_is_proposed_twice_not_even_while_it_is_trained(tmp_path):
    space = {"a": {"choice": [1, 2, 3]}, "b": {"integer": [1, 2]}, "c": {"grid": ["x"], "when": {"a": [1]}}}
    search = Search(sweep(tmp_path, 100, space))
    seen = []
    while (proposed := search.propose()) is not None:
        number, values = proposed
        assert values not in seen
        seen.append(values)
        if number % 2:
            search.end(number, "failed" if number % 3 else "finished", 0.5)
    assert len(seen) == 6  # and every one of them is found


def test_a_restored_search_does_not_propose_what_was_tried(tmp_path):
    space = {"a": {"choice": [1, 2, 3, 4]}}
    plan = sweep(tmp_path, 100, space)
    search = Search(plan)
    search.restore([TrialState(n, {"a": n + 1}, [RunState(0)], status=s) for n, s in enumerate(("failed", "open"))])
    assert sorted(search.propose()[1]["a"] for _ in range(2)) == [3, 4]
    assert search.propose() is None


def test_asha_remembers_after_a_restart_what_came_to_a_rung(tmp_path):
    plan = toy_sweep(
        tmp_path,
        {"x": {"grid": list(range(8))}},
        scheduler={"kind": "asha", "grace_steps": 2, "reduction_factor": 2},
    )
    search = Search(plan)
    past = []
    for score in (0.9, 0.8, 0.7, 0.6):
        number, values = search.propose()
        worth = search.keep_going(number, 2, score)
        assert worth == (score >= 0.8 and number == 0)
        search.end(number, "finished" if worth else "stopped", score if worth else None)
        status = "finished" if worth else "stopped"
        past.append(TrialState(number, values, [RunState(0)], status=status, scores=[(2, score)], score=score))
    again = Search(plan)
    again.restore(past)
    for one in (search, again):
        number, values = one.propose()
        assert (number, values) == (4, {"x": 4})
        assert not one.keep_going(4, 2, 0.75)  # above two of them, but the best half is 0.9 and 0.8


def test_median_remembers_after_a_restart_what_others_had_at_a_step(tmp_path):
    plan = toy_sweep(tmp_path, {"x": {"grid": [1, 2, 3]}}, scheduler={"kind": "median", "startup_trials": 2})
    past = [
        TrialState(n, {"x": n + 1}, [RunState(0)], status="finished", scores=[(2, s), (4, s)], score=s)
        for n, s in enumerate((0.8, 0.6))
    ]
    for score, worth in ((0.75, True), (0.65, False)):  # the median is 0.7
        search = Search(plan)
        search.restore(past)
        assert search.propose() == (2, {"x": 3})
        assert search.keep_going(2, 2, score) == worth


def test_a_planned_sweep_is_proposed_in_its_order_and_ends(tmp_path):
    search = Search(toy_sweep(tmp_path, {"x": {"grid": [3, 1, 2]}}))
    assert [search.propose() for _ in range(4)] == [(0, {"x": 3}), (1, {"x": 1}), (2, {"x": 2}), None]


def test_a_score_that_is_no_number_teaches_nothing_and_breaks_nothing(tmp_path):
    search = Search(sweep(tmp_path))
    for score in (math.nan, math.inf, None):
        number, _ = search.propose()
        search.end(number, "finished", score)
    assert search.propose()[0] == 3
