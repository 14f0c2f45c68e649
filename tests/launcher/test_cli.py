import json
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from infoprompt.config import load_config
from launcher.cli import app

ROOT = Path(__file__).parents[2]
PACKAGES = (f"{ROOT}/infoprompt/", f"{ROOT}/launcher/")
HEAVY = ("torch", "transformers", "deepspeed", "ray", "mlflow", "datasets", "numpy", "sklearn", "matplotlib")


@pytest.fixture
def call():
    """Runs a command in this process; for what ends before anything heavy is loaded."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["bench", "step", "--help"],
        ["--version"],
        ["show", "--settings"],
        ["show", "--sweep-settings"],
    ],
)
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\nfrom launcher.cli import main\nsys.argv[1:] = %r\ntry:\n    main()\nexcept SystemExit as end:\n"
        "    assert not end.code\nprint('heavy:', [name for name in %r if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code % (arguments, HEAVY)], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.splitlines()[-1] == "heavy: []"


@pytest.mark.parametrize(
    "command", ["train", "pretrain", "evaluate", "predict", "show", "doctor", "sweep", "sync", "bench"]
)
def test_every_command_has_help(call, command):
    result = call(command, "--help")
    assert result.exit_code == 0
    assert command in result.output


def test_show_prints_a_config_that_loads_back_equal(call, tiny_config, tmp_path):
    result = call("show", tiny_config, "optim.lr=1e-2")
    shown = tmp_path / "shown.yaml"
    shown.write_text(result.output)
    assert load_config(shown) == load_config(tiny_config, ["optim.lr=0.01"])


def test_show_prints_json(call, tiny_config):
    assert json.loads(call("show", tiny_config, "--json").output)["optim"]["max_steps"] == 4


@pytest.mark.parametrize("words", [["optim.lr=1e-2"], ["--optim.lr=1e-2"], ["--optim.lr", "1e-2"]])
def test_an_override_may_be_written_in_three_ways(call, tiny_config, words):
    assert yaml.safe_load(call("show", tiny_config, *words).output)["optim"]["lr"] == 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optim.learning_rate=1"], "optim.learning_rate is not a known setting. Did you mean optim.lr?"),
        (["optim.lr=-1"], "optim.lr is -1, but must be greater than 0"),
        (["--optin.lr"], "'--optin.lr' is neither an option of this command"),
        (["fast"], "'fast' is neither an option of this command"),
        (["run.compare_with={other: [optim.lr=0]}"], "run.compare_with.other: optim.lr is 0"),
        (["run.compare_with={a/b: []}"], "run.compare_with names 'a/b'"),
    ],
)
def test_bad_input_is_one_message_and_code_2(call, tiny_config, arguments, message):
    result = call("train", tiny_config, *arguments)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert "Traceback" not in result.stderr


def test_the_reference_of_sweep_settings_is_up_to_date(call):
    reference = call("show", "--sweep-settings").output
    rows = [line for line in reference.splitlines() if line.startswith("| `")]
    assert all(line.rsplit("|", 2)[1].strip() for line in rows)
    path = Path(__file__).parents[2] / "configs" / "SWEEPS.md"
    assert path.read_text().endswith(reference), "configs/SWEEPS.md is old: infoprompt show --sweep-settings"


def test_a_missing_file_is_named(call, tmp_path):
    result = call("train", tmp_path / "none.yaml")
    assert result.exit_code == 2
    assert f"There is no config file {tmp_path / 'none.yaml'}" in result.stderr


def test_an_unknown_resume_mode_is_refused(call, tiny_config):
    assert call("train", tiny_config, "--resume", "always").exit_code == 2


def test_debug_shows_the_traceback(call, tiny_config):
    result = call("train", tiny_config, "optim.lr=-1", "--debug")
    assert type(result.exception).__name__ == "ConfigError"


@pytest.mark.slow
def test_train_evaluate_and_predict(infoprompt, tiny_config, tmp_path):
    trained = infoprompt("train", tiny_config, "--json", "run.compare_with={other: [seed=1]}")
    assert trained.returncode == 0, trained.stderr
    result = json.loads(trained.stdout)  # JSON, and nothing else, on standard output
    assert result.keys() >= {"test", "dev", "steps", "seconds", "trained_parameters", "artifact", "run_id", "compare"}
    assert result["steps"] == 4
    assert result["compare"]["other"]["artifact"] == str(tmp_path / "run/compare/other/artifact")
    assert "to 95 %" in trained.stderr  # the table
    assert "infoprompt predict run/artifact" in trained.stderr

    scored = infoprompt("evaluate", result["artifact"], tmp_path / "rows.jsonl", "--json")
    assert json.loads(scored.stdout) == pytest.approx(result["test"])
    assert json.loads(infoprompt("evaluate", result["artifact"], "--json").stdout) == json.loads(scored.stdout)

    predicted = infoprompt("predict", result["artifact"], "--json", stdin='a great film\n{"text": "a bad film"}\n')
    rows = [json.loads(line) for line in predicted.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["a great film", "a bad film"]
    assert all(row["label"] == max(row["probabilities"], key=row["probabilities"].get) for row in rows)
    label, probability, text = infoprompt("predict", result["artifact"], "a great film").stdout.split("\t")
    assert label == rows[0]["label"]
    assert float(probability) == pytest.approx(rows[0]["probabilities"][label], abs=6e-4)
    assert text.strip() == "a great film"

    other = f"other={result['compare']['other']['artifact']}"
    given = '{"text": "a great film", "prompt": "other"}\n{"text": "a bad film", "prompt": "run/artifact"}\n'
    routed = infoprompt("predict", "run/artifact", other, "--file", "-", "--json", stdin=given)
    found = [json.loads(line) for line in routed.stdout.splitlines()]
    assert [(row["prompt"], row["text"]) for row in found] == [
        ("other", "a great film"),
        ("run/artifact", "a bad film"),
    ]
    assert found[0]["probabilities"] != pytest.approx(rows[0]["probabilities"], abs=1e-3)
    assert found[1]["probabilities"] == pytest.approx(rows[1]["probabilities"], abs=1e-5)  # another batch


def test_a_missing_artifact_is_one_message(infoprompt, tmp_path):
    done = infoprompt("predict", tmp_path / "none", "text")
    assert done.returncode == 2
    assert "There is no artifact in" in done.stderr
    assert "Traceback" not in done.stderr


def test_sync_of_a_folder_without_runs_says_so(infoprompt, tmp_path):
    done = infoprompt("sync", tmp_path)
    assert done.returncode == 2
    assert "no run was recorded there" in done.stderr


def test_from_the_command_to_backward_are_four_calls(call, toy_settings, tmp_path, monkeypatch):
    import torch

    backward, calls = torch.Tensor.backward, []

    def noted(tensor, *arguments, **named):
        calls[:] = [frame for frame in traceback.extract_stack() if frame.filename.startswith(PACKAGES)]
        return backward(tensor, *arguments, **named)

    monkeypatch.setattr(torch.Tensor, "backward", noted)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**toy_settings, "optim": {"max_steps": 1}}))
    result = call("train", tmp_path / "run.yaml", "--quiet")
    assert result.exit_code == 0, result.output
    names = [frame.name for frame in calls]
    assert names[names.index("train_all") - 1 :] == ["train", "train_all", "run", "alone", "step"]
