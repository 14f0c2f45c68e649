import io
import json

from rich.console import Console

from infoprompt.config import load_config
from launcher.sweep_outcome import SweepOutcome, TrialOutcome, best_trial, report_sweep, trial_table
from launcher.sweep_plan import SweepSettings


def sweep(folder="/elsewhere", **settings) -> SweepSettings:
    space = {"optim.lr": {"grid": [1e-3, 3e-3]}}
    return SweepSettings.model_validate({"base": "x", "space": space, "output_dir": str(folder), **settings})


def finished(number: int, accuracy: float, loss: float = 0.0) -> TrialOutcome:
    result = {
        "dev": {"accuracy": accuracy, "loss": loss},
        "test": {"accuracy": 0.5},
        "metric": "accuracy",
        "seconds": 1.0,
        "artifact": f"/elsewhere/{number}",
    }
    return TrialOutcome(number, f"id_{number}", {"optim.lr": 0.001}, "finished", None, result)


FAILED = TrialOutcome(9, "id_9", {"optim.lr": 0.003}, "failed", "rank 1: ValueError: boom", None)


def test_the_best_trial_has_the_most_and_the_first_of_equals_wins():
    assert best_trial(sweep(), [FAILED, finished(0, 0.1), finished(1, 0.3), finished(2, 0.3)]).number == 1


def test_less_may_be_better_and_another_metric_may_count():
    trials = [finished(0, 0.9, loss=2.0), finished(1, 0.1, loss=1.0)]
    assert best_trial(sweep(metric="dev/loss", direction="min"), trials).number == 1


def test_without_a_finished_trial_there_is_no_best():
    assert best_trial(sweep(), [FAILED]) is None


def test_a_failed_trial_is_in_the_table_with_its_reason():
    screen = Console(file=io.StringIO(), width=160)
    screen.print(trial_table(sweep(), [finished(0, 0.25), FAILED]))
    text = screen.file.getvalue()
    assert "0.2500" in text
    assert "failed: rank 1: ValueError: boom" in text


def test_the_record_is_kept_beside_the_trials(tmp_path, tiny_config, capsys):
    outcome = SweepOutcome([finished(0, 0.25), FAILED], None)
    report_sweep(sweep(tmp_path), outcome, load_config(tiny_config), json_output=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "sweep.json").read_text())
    assert printed["best"] == "id_0"
    assert [trial["score"] for trial in printed["trials"]] == [0.25, None]
