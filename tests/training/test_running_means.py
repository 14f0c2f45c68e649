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
