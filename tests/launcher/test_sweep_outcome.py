import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from launcher.sweeps.journal import RunState, TrialState
from launcher.sweeps.outcome import MOST_ROWS, SweepOutcome, outcome_of, report_sweep, trial_table, write_files
from launcher.sweeps.plan import Sweep, load_sweep


@pytest.fixture
def sweep(tmp_path) -> Sweep:
    """A sweep that is only read, never run."""
    (tmp_path / "base.yaml").write_text("data: {train: rows.jsonl, batch_size: 8}\ntracking: {enabled: false}\n")
    space = {"optim.lr": {"grid": [1e-3, 3e-3, 1e-2]}, "prompt.length": {"grid": [2, 4]}}
    values = {"base": "base.yaml", "space": space, "output_dir": str(tmp_path / "out"), "name": "mine"}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "out").mkdir()
    return load_sweep(tmp_path / "sweep.yaml")


def run(seed: int, accuracy: float, steps: int = 16) -> RunState:
    result = {
        "dev": {"accuracy": accuracy, "loss": 1 - accuracy},
        "metric": "accuracy",
        "seconds": 3.0,
        "artifact": f"/elsewhere/seed_{seed}",
        "run_id": None,
    }
    curve = [(steps // 2, accuracy / 2), (steps, accuracy)]
    return RunState(seed, "finished", curve, result, wall_seconds=5.5)


def finished(number: int, *accuracies: float) -> TrialState:
    runs = [run(seed, accuracy) for seed, accuracy in enumerate(accuracies)]
    mean = sum(accuracies) / len(accuracies)
    values = {"optim.lr": 1e-3 * (1 + number), "prompt.length": 2}
    return TrialState(number, values, runs, "finished", score=mean)


FAILED = TrialState(9, {"optim.lr": 0.003}, [RunState(0, "failed")], "failed", "rank 1: ValueError: boom [bold]")
STOPPED = TrialState(
    8, {"optim.lr": 0.01, "prompt.length": 4}, [RunState(0, "stopped", [(8, 0.9)])], "stopped", "at update 8"
)


def outcome(sweep: Sweep, *trials: TrialState, **settings) -> SweepOutcome:
    changed = sweep.settings.model_copy(update=settings)
    return outcome_of(replace(sweep, settings=changed), trials, None, None)


def table(one: SweepOutcome) -> str:
    screen = Console(file=io.StringIO(), width=180)
    screen.print(trial_table(one))
    return screen.file.getvalue()


def test_the_best_trial_has_the_best_mean_and_the_first_of_equals_wins(sweep):
    trials = [FAILED, STOPPED, finished(0, 0.1, 0.9), finished(1, 0.6, 0.6), finished(2, 0.7, 0.5)]
    one = outcome(sweep, *trials)
    assert one.best.number == 1
    assert [score.number for score in one.ranked] == [1, 2, 0]


def test_less_may_be_better_and_another_metric_may_count(sweep):
    trials = [finished(0, 0.9), finished(1, 0.1)]
    assert outcome(sweep, *trials, metric="dev/loss", direction="min").best.number == 0
    seeds = finished(0, 0.8, 0.9, 0.7)
    assert outcome(sweep, seeds).best_run.seed == 1
    assert outcome(sweep, seeds, metric="dev/loss", direction="min").best_run.seed == 1
    assert outcome(sweep, seeds, direction="min").best_run.seed == 2
    assert outcome(sweep, *trials, metric="dev/loss").best.number == 1


def test_without_a_finished_trial_there_is_no_best(sweep):
    one = outcome(sweep, FAILED, STOPPED)
    assert one.best is None
    assert one.sentence is None


def test_the_table_has_every_trial_the_best_first_with_its_reason(sweep):
    text = table(outcome(sweep, finished(0, 0.25), FAILED, finished(1, 0.5), STOPPED))
    assert text.index("0.5000") < text.index("0.2500") < text.index("boom")
    assert "failed: rank 1: ValueError: boom" in text
    assert "stopped: at update 8" in text
    assert "95 % interval" not in text  # one seed says nothing of it


def test_seeds_have_a_mean_and_an_interval(sweep):
    text = table(outcome(sweep, finished(0, 0.4, 0.6), FAILED))
    assert "95 % interval" in text
    assert "0.5000" in text
    assert "-0.7706 .. 1.7706" in text  # 12.706, of Student's t with 1 degree of freedom, times the error of 0.1


def test_a_long_table_is_cut_and_says_so(sweep):
    text = table(outcome(sweep, *(finished(number, number / 100) for number in range(60))))
    assert f"{MOST_ROWS} of 60 trials" in text
    assert "0.5900" in text
    assert "0.1900" not in text


def test_files_keep_everything_and_the_best_config_loads_back(sweep, tmp_path):
    trials = [finished(0, 0.25, 0.5), finished(1, 0.75, 0.5), FAILED, STOPPED]
    files = write_files(sweep, outcome(sweep, *trials))
    folder = tmp_path / "out"
    assert {str(path.relative_to(folder)) for path in files} >= {
        "sweep.json",
        "sweep.yaml",
        "best.yaml",
        "figures/parallel_coordinates.png",
        "figures/learning_curves.png",
        "figures/score_by_setting.png",
    }
    assert all(path.stat().st_size for path in files)
    record = json.loads((folder / "sweep.json").read_text())
    assert record["best"] == 1
    assert [trial["score"] for trial in record["trials"]] == [0.375, 0.625, None, None]
    assert record["trials"][1]["seeds"]["0"]["score"] == 0.75
    assert record["examples"] == 8 * (4 * 16 + 8)
    assert record["overhead_seconds"] == 2.5
    from infoprompt.config import load_config

    best = load_config(folder / "best.yaml")
    assert (best.optim.lr, best.prompt.length) == (0.002, 2)
    again = load_sweep(folder / "sweep.yaml", [f"base={tmp_path / 'base.yaml'}"])
    assert again.points == sweep.points


def test_the_report_ends_with_one_json_object_and_names_what_to_use_next(sweep, capsys):
    report_sweep(sweep, outcome(sweep, finished(0, 0.25, 0.75), finished(1, 0.9, 0.8)), json_output=True)
    printed = capsys.readouterr()
    assert json.loads(printed.out)["best"] == 1
    assert "best      trial 1: optim.lr=0.002, prompt.length=2" in printed.err
    assert f"artifact  {Path('/elsewhere/seed_0')} (seed 0, the best of 2)" in printed.err
    assert "2.5 s a run beside" in printed.err


def test_a_budget_that_ended_it_is_told_with_what_is_left(sweep, capsys):
    left = TrialState(3, {"optim.lr": 0.1}, [RunState(0, "ready", [(8, 0.5)])])
    one = outcome(sweep, finished(0, 0.25), left)
    one.exhausted = "budget.hours is 1"
    report_sweep(sweep, one, json_output=False)
    text = capsys.readouterr().out
    assert "budget.hours is 1" in text
    assert "1 trial" in text
    assert "--resume" in text
    assert "unfinished" in text


def test_a_picture_that_fails_leaves_record_and_the_other_pictures(sweep, tmp_path, monkeypatch, caplog):
    def broken(*arguments, **named):
        raise ValueError("ParseException")

    monkeypatch.setattr("launcher.sweeps.figures.parallel_coordinates", broken)
    files = write_files(sweep, outcome(sweep, finished(0, 0.25), finished(1, 0.75)))
    names = {path.name for path in files}
    assert {"sweep.json", "best.yaml", "learning_curves.png", "score_by_setting.png"} <= names
    assert "parallel_coordinates.png" not in names
    assert "The picture parallel_coordinates.png could not be drawn (ValueError: ParseException)" in caplog.text
