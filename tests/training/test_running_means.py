"""Runs whose information terms are estimated by MINE: they train, go on where they were, and agree over ranks."""

import json
import math
from pathlib import Path

import pytest
from safetensors.torch import load_file

from infoprompt.checkpoint import newest_resume_state
from infoprompt.config import build_config, override_config
from infoprompt.train import run

BOTH = ["objective.head_estimator=mine", "objective.representation_estimator=mine"]


class Killed(Exception):
    """The run ends here, between two resume states."""


def history(folder):
    return json.loads((Path(folder) / "history.json").read_text())


@pytest.mark.parametrize("term", ["head", "representation"])
@pytest.mark.parametrize("preset", ["analytic", "paper"])
def test_either_term_trains_by_mine_beside_another(toy_settings, term, preset):
    overrides = [f"objective.preset={preset}", f"objective.{term}_estimator=mine", "optim.max_steps=6"]
    result = run(override_config(build_config(toy_settings), overrides))
    rows = [row for row in history(result.output_dir) if "train/loss" in row]
    assert len(rows) == 6
    assert all(math.isfinite(value) for row in rows for value in row.values())
    other = {"head": "representation", "representation": "head"}[term]
    assert {f"train/mi_{term}_mine_value", f"train/mi_{other}_infonce_bound"} <= rows[0].keys()
    assert not any("mine_bound" in name for name in rows[0])
    saved = newest_resume_state(Path(result.output_dir) / "checkpoints")
    assert saved.tensors["running_means"].keys() == {term}
    # the running mean is in neither the artifact nor the count of what is trained
    state = load_file(Path(result.artifact) / "prompt.safetensors")
    plain = run(override_config(build_config(toy_settings), [overrides[0], "optim.max_steps=1"]))
    assert state.keys() == load_file(Path(plain.artifact) / "prompt.safetensors").keys()
    assert result.trained_parameters == plain.trained_parameters


def test_a_run_by_mine_resumes_as_if_never_stopped(toy_settings, tmp_path):
    changes = ["checkpoint.every_steps=3", "optim.max_steps=8", "evaluation.every_steps=4", "data.micro_batch_size=4"]
    config = override_config(build_config(toy_settings), [*BOTH, *changes])
    whole, stopped = (override_config(config, [f"run.output_dir={tmp_path / name}"]) for name in ("whole", "stopped"))
    run(whole)

    def end_at_update_4(progress, scores):
        raise Killed

    with pytest.raises(Killed):
        run(stopped, report=end_at_update_4)
    run(stopped, resume="auto")
    for file in ("history.json", "artifact/prompt.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "stopped" / file).read_bytes(), file
