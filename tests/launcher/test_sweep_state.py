import json
import math
import os

import pytest

from launcher.sweeps.journal import JOURNAL_NAME, RunState, TrialState, load_trials, save_trial


def trial(number: int, **more) -> TrialState:
    runs = [
        RunState(0, "finished", [(2, 0.5), (4, 0.25)], {"dev": {"accuracy": 0.5}, "metric": "accuracy"}, 1, 2.5, True),
        RunState(7, "paused", [(2, 0.75)], takes_over=True),
    ]
    given = {"stage": 2, "scores": [(2, 0.625)], "reason": "why", "parent_run_id": "abc", **more}
    return TrialState(number, {"optim.lr": 0.001, "prompt.kind": "static", "data.rows": None}, runs, **given)


def test_the_journal_gives_back_what_was_written(tmp_path):
    taken = [{"step": 8, "from": 1, "values": {"optim.lr": 0.1}}]
    written = [trial(2, taken_over=taken), trial(0, status="finished", score=0.5), trial(11)]
    for one in written:
        save_trial(tmp_path, one)
    assert load_trials(tmp_path) == sorted(written, key=lambda one: one.number)
    assert load_trials(tmp_path)[1].current == {"optim.lr": 0.1}
    assert load_trials(tmp_path / "elsewhere") == []


def test_numbers_that_are_none_and_not_a_number_survive(tmp_path):
    save_trial(tmp_path, TrialState(0, {"x": 0.1}, [RunState(0, curve=[(1, math.nan)])]))
    (one,) = load_trials(tmp_path)
    assert math.isnan(one.runs[0].curve[0][1])


def test_a_journal_is_whole_or_the_one_before(tmp_path, monkeypatch):
    save_trial(tmp_path, trial(0))

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    monkeypatch.setattr("pathlib.Path.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_trial(tmp_path, trial(0, status="finished"))
    assert load_trials(tmp_path) == [trial(0)]


def test_a_journal_of_an_earlier_version_is_read(tmp_path):
    save_trial(tmp_path, trial(0))
    path = tmp_path / "trials/0000" / JOURNAL_NAME
    values = json.loads(path.read_text())
    for run in values["runs"]:
        del run["takes_over"], run["ending"]
    path.write_text(json.dumps(values))
    assert [run.takes_over for run in load_trials(tmp_path)[0].runs] == [False, False]


def test_the_best_up_to_a_step_counts_the_first_evaluation_at_or_after_it():
    run = RunState(0, curve=[(2, 0.1), (4, 0.3), (6, 0.2), (8, 0.9)])
    assert [run.best(1, step) for step in (1, 2, 3, 4, 6, 7)] == [0.1, 0.1, 0.3, 0.3, 0.3, 0.9]
    assert run.best(1) == 0.9
    assert run.best(-1) == 0.1
    assert run.best(-1, 2) == 0.1
    assert run.step == 8
    assert RunState(0).step == 0


def test_a_score_that_is_no_number_is_not_the_best_wherever_it_comes():
    assert RunState(0, curve=[(1, math.nan), (2, 0.5)]).best(1) == 0.5
    assert RunState(0, curve=[(1, 0.5), (2, math.nan)]).best(-1) == 0.5
    assert math.isnan(RunState(0, curve=[(1, math.nan)]).best(1))


def test_the_mean_takes_a_seed_that_ended_before_as_it_ended():
    one = TrialState(0, {}, [RunState(0, curve=[(2, 0.5)]), RunState(1, curve=[(2, 0.0), (4, 0.25), (6, 1.0)])])
    assert one.mean_at(4, 1) == 0.375


def test_the_final_score_is_the_chosen_metrics_or_the_named_ones():
    result = {"dev": {"accuracy": 0.5, "loss": 2.0}, "metric": "accuracy"}
    run = RunState(0, result=result)
    assert [run.final(name) for name in ("score", "accuracy", "loss", "f1")] == [0.5, 0.5, 2.0, None]
    assert RunState(0).final("score") is None


def test_folders_are_named_by_trial_and_seed():
    assert trial(3).run_name(RunState(5)) == "0003/seed_5"
    assert [trial(0, status=status).over for status in ("opening", "open", "finished", "stopped", "failed")] == [
        False,
        False,
        True,
        True,
        True,
    ]
