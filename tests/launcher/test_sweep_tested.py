"""The test rows of a sweep are read once, at its end, by the best trial."""

import json
import logging
import threading
from pathlib import Path

import pytest
import yaml

from infoprompt.test_predictions import score_later
from infoprompt.train import run
from launcher.sweeps.journal import RunState, TrialState, load_trials
from launcher.sweeps.outcome import outcome_of, trial_table
from launcher.sweeps.plan import load_sweep
from launcher.sweeps.test_scores import score_best


@pytest.fixture
def sweep(tiny_config, tmp_path):
    """A sweep of two rates with two seeds."""
    path = tmp_path / "sweep.yaml"
    space = {"optim.lr": {"grid": [0.003, 0.01]}}
    values = {"base": tiny_config.name, "space": space, "seeds": [0, 1], "output_dir": str(tmp_path / "sweep")}
    path.write_text(yaml.safe_dump(values))
    return load_sweep(path)


def trials_of(sweep, *, last: str = "finished") -> list[TrialState]:
    """Two trials with made-up results, the second the better one."""
    trials = []
    for number, score in ((0, 0.5), (1, 0.75)):
        runs = [
            RunState(
                seed,
                "finished",
                [(4, score)],
                {"dev": {"accuracy": score}, "metric": "accuracy", "test": {}, "steps": 4},
            )
            for seed in (0, 1)
        ]
        trials.append(TrialState(number, {"optim.lr": [0.003, 0.01][number]}, runs, "finished", score=score))
    trials.append(TrialState(2, {"optim.lr": 0.01}, [RunState(0)], last))
    return trials


def again(sweep, *changes: str):
    return load_sweep(sweep.folder / "sweep.yaml", changes)


def test_trials_do_not_read_the_test_rows_unless_the_sweep_asks_for_it(sweep):
    values = {"optim.lr": 0.003}
    assert not sweep.config(values, seed=0, name="0000/seed_0").evaluation.test
    assert sweep.config(values).evaluation.test, "best.yaml is for a run that reports"
    for change in ("evaluation.test=true", "evaluation={test: true}"):
        assert again(sweep, change).config(values, seed=0, name="0000/seed_0").evaluation.test
    assert not again(sweep, "evaluation.test=false").config(values).evaluation.test


def test_the_best_trials_seeds_are_scored_once_and_kept(sweep):
    asked, said, together = [], [], threading.Barrier(2)

    def score(config):
        asked.append(config.run.output_dir)
        if len(asked) <= 2:
            together.wait(timeout=10)  # no seed waits for another
        return {"test": {"accuracy": 0.25 * (1 + config.seed)}, "classes": {}}

    trials = trials_of(sweep)
    assert [one.seed for one in score_best(sweep, trials, score, said.append)] == [0, 1]
    folder = Path(sweep.settings.output_dir) / "trials"
    assert sorted(asked) == [str(folder / "0001/seed_0"), str(folder / "0001/seed_1")]
    assert said == ["scoring trial 1 seeds 0, 1 on the test rows"]
    (kept,) = load_trials(Path(sweep.settings.output_dir))
    assert [one.result["test"] for one in kept.runs] == [{"accuracy": 0.25}, {"accuracy": 0.5}]
    outcome = outcome_of(sweep, trials, None)
    assert outcome.test == {"accuracy": 0.375}
    table = trial_table(outcome)
    cells = dict(zip((str(column.header) for column in table.columns), table.columns, strict=True))["test"]._cells
    assert [str(cell) for cell in cells] == ["0.3750", "-", "-"]
    assert score_best(sweep, trials, score, said.append) == [], "a resumed sweep reads them again"
    assert len(asked) == 2


def test_nothing_is_read_while_another_trial_may_become_the_best_or_where_none_is_wished(sweep):
    def score(config):
        raise AssertionError("the test rows are read")

    said: list[str] = []
    assert score_best(sweep, trials_of(sweep, last="open"), score, said.append) == []
    assert said == [
        "test rows are not read yet: trials keep their state, and the best one is scored when all have ended"
    ]
    assert score_best(again(sweep, "evaluation.test=false"), trials_of(sweep), score, said.append) == []
    assert score_best(sweep, trials_of(sweep)[2:], score, said.append) == []


def test_a_failure_is_a_warning_that_names_the_way(sweep, caplog):
    def score(config):
        raise RuntimeError("ray::_score_later()\n  File x\nOutOfMemoryError: the node ran low.")

    with caplog.at_level(logging.WARNING):
        assert score_best(sweep, trials_of(sweep), score, str) == []
    assert "trial 1 seed 0 (OutOfMemoryError: the node ran low)" in caplog.text
    assert f"infoprompt evaluate {sweep.settings.output_dir}/trials/0001/seed_0/artifact" in caplog.text


def test_scored_later_is_scored_as_at_the_end(sweep, tmp_path):
    def config_of(*changes: str):
        return again(sweep, *changes).config({"optim.lr": 0.01}, seed=0, name="0000/seed_0")

    at_end = run(config_of("evaluation.test=true"))
    predictions = json.loads((Path(at_end.output_dir) / "predictions.json").read_text())
    without = run(config_of())
    assert without.test == {}
    found = score_later(config_of(), "cpu")
    assert found["test"] == pytest.approx(at_end.test)
    assert found["classes"] == at_end.classes
    assert set(at_end.classes) == {"good", "bad"}
    folder = Path(without.output_dir)
    assert json.loads((folder / "predictions.json").read_text()) == predictions
    assert json.loads((folder / "result.json").read_text())["test"] == found["test"]
    assert (folder / "artifacts/confusion_matrix.png").is_file()


def test_a_run_without_an_artifact_cannot_be_scored_and_says_so(sweep):
    config = again(sweep, "run.save_artifact=false").config({"optim.lr": 0.01}, seed=0, name="0000/seed_0")
    run(config)
    with pytest.raises(ValueError, match=r"There is no artifact in .*save_artifact is false"):
        score_later(config, "cpu")
