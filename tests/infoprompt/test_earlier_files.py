"""What an earlier version wrote still loads, and a run goes on from it."""

import importlib.util
import json
import logging
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from infoprompt.artifact import Artifact
from infoprompt.checkpoint import newest_resume_state, write_manifest
from infoprompt.config import build_config
from infoprompt.train import run

EARLIER = Path(__file__).parents[1] / "earlier"
STATE = "step-00000006"


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> dict:
    """The settings of the run that left the examples, with backbone and data made again."""
    spec = importlib.util.spec_from_file_location("earlier_make", EARLIER / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    return make.settings(tmp_path_factory.mktemp("example"))


def test_an_earlier_artifact_predicts_what_it_did(earlier):
    artifact = Artifact.from_pretrained(EARLIER / "artifact", backbone=earlier["backbone"]["name"])
    (prediction,) = artifact.predict(["the film was good"])
    # written down with the artifact; another machine's float32 sums differ in the last bits
    assert prediction.probabilities == pytest.approx({"bad": 0.39250007, "good": 0.60749990}, abs=1e-4)


def test_an_earlier_state_is_read_whole(caplog):
    state = newest_resume_state(EARLIER / "checkpoints")
    assert state.values["step"] == 6
    assert {name: len(tensors) for name, tensors in state.tensors.items()} == {"best": 3, "optimizer": 7, "trained": 3}
    assert not caplog.text


def test_a_run_goes_on_from_an_earlier_state(earlier, tmp_path, caplog):
    folder = tmp_path / "run"
    shutil.copytree(EARLIER / "checkpoints", folder / "checkpoints")
    values = (folder / "checkpoints" / STATE / "state.json").read_text()
    moved = values.replace("/tmp/example", str(Path(earlier["backbone"]["name"]).parent))
    (folder / "checkpoints" / STATE / "state.json").write_text(moved)
    write_manifest(folder / "checkpoints" / STATE)
    caplog.set_level(logging.INFO)
    result = run(build_config({**earlier, "run": {"output_dir": str(folder)}}), resume="auto")
    assert "Going on from update 6 of 12." in caplog.text
    assert (result.steps, result.best_step) == (12, 3)
    assert json.loads((folder / "history.json").read_text())[:8] == json.loads(values)["history"]
    kept = load_file(EARLIER / "artifact/prompt.safetensors")
    # the best state is that of update 3, which the earlier version saved in both
    assert {name: tensor.tolist() for name, tensor in load_file(f"{result.artifact}/prompt.safetensors").items()} == {
        name: tensor.tolist() for name, tensor in kept.items()
    }
