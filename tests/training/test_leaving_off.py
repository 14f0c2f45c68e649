"""A run that is told to pause, to stop, or to go on with another run's prompt."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from infoprompt.config import ConfigError, build_config, override_config
from infoprompt.progress import LeftOff
from infoprompt.train import run
from infoprompt.training_state import copy_state

CHANGES = ["optim.max_steps=8", "evaluation.every_steps=2"]


def config_of(toy_settings, folder: Path, *changes: str):
    return override_config(build_config(toy_settings), [*CHANGES, f"run.output_dir={folder}", *changes])


def leave_at(step: int, decision: str):
    return lambda progress, scores: decision if progress.step == step else "go"


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("step-*"))


def test_a_paused_run_goes_on_as_if_it_had_not_been(toy_settings, tmp_path):
    whole, paused = (config_of(toy_settings, tmp_path / name) for name in ("whole", "paused"))
    run(whole)
    paused = override_config(paused, ["checkpoint.enabled=false"])  # a pause keeps its state all the same
    for step in (2, 6):
        with pytest.raises(LeftOff) as left:
            run(paused, resume="auto", report=leave_at(step, "pause"))
        assert left.value.decision == "pause"
        assert steps(tmp_path / "paused")[-1] == f"step-{step:08d}"
    run(paused, resume="auto")
    for file in ("history.json", "artifact/prompt.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "paused" / file).read_bytes(), file


def test_a_stopped_run_has_no_result(toy_settings, tmp_path):
    with pytest.raises(LeftOff, match="told to stop"):
        run(config_of(toy_settings, tmp_path / "run"), report=leave_at(4, "stop"))
    assert not (tmp_path / "run/result.json").exists()


@pytest.mark.parametrize("further", [4, 6])
def test_a_run_takes_over_the_prompt_of_another_and_trains_it_with_its_own_settings(toy_settings, tmp_path, further):
    donor = config_of(toy_settings, tmp_path / "donor", "optim.lr=0.003")
    taker = config_of(toy_settings, tmp_path / "taker", "optim.lr=0.03")
    with pytest.raises(LeftOff):
        run(donor, report=leave_at(4, "pause"))
    with pytest.raises(LeftOff):
        run(taker, report=leave_at(further, "pause"))  # also if it has come further than the donor
    explored = override_config(taker, ["optim.lr=0.02"])
    copy_state(explored, tmp_path / "donor")
    assert steps(tmp_path / "taker") == ["step-00000004"]
    trained = "checkpoints/step-00000004/trained.safetensors"
    given, taken = (load_file(tmp_path / name / trained) for name in ("donor", "taker"))
    assert all(given[name].equal(taken[name]) for name in given)
    assert run(explored, resume="auto").steps == 8
    until = [row for row in json.loads((tmp_path / "taker/history.json").read_text()) if row["step"] <= 4]
    run(donor, resume="auto")
    assert until == [row for row in json.loads((tmp_path / "donor/history.json").read_text()) if row["step"] <= 4]


def test_a_run_without_a_state_cannot_be_taken_over(toy_settings, tmp_path):
    with pytest.raises(ConfigError, match="There is no resume state in"):
        copy_state(config_of(toy_settings, tmp_path / "run"), tmp_path / "nobody")
