"""The fast paths of the information losses train as the plain formulas do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from infoprompt.config import ConfigError, build_config, dump_config, override_config
from infoprompt.train import run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(toy_settings, tmp_path):
    """The settings of a run of so many updates with one implementation."""

    def make(kernels: str, preset: str, steps: int):
        changes = [f"objective.kernels={kernels}", f"objective.preset={preset}", f"optim.max_steps={steps}"]
        changes += ["head.init=random", "run.save_artifact=false", f"run.output_dir={tmp_path / kernels}"]
        return override_config(build_config(toy_settings), changes)

    return make


def curve(output_dir: str) -> list[dict[str, float]]:
    """The records of a run's updates."""
    history = json.loads((Path(output_dir) / "history.json").read_text())
    return [row for row in history if "train/loss" in row]


def assert_same_curve(ours, plain, rel):
    assert [row["step"] for row in ours] == [row["step"] for row in plain]
    for mine, theirs in zip(ours, plain, strict=True):
        assert mine == pytest.approx(theirs, rel=rel, abs=1e-6)


# `paper` draws tokens and latents, `analytic` takes all tokens and the expectation over latents.
@pytest.mark.parametrize("preset", ["paper", "analytic"])
def test_torch_in_parts_gives_the_curve_of_the_plain_formula(start, preset):
    ours, plain = (curve(run(start(kernels, preset, 50)).output_dir) for kernels in ("chunked", "reference"))
    assert len(ours) == 50
    assert ours != plain  # sums in another order, so it was another implementation
    for name in ("train/head_loss", "train/representation_loss"):
        assert abs(ours[-1][name] - ours[0][name]) > 0.1, f"{name} was not trained"
    # 50 updates let a difference in the last of seven digits grow a hundredfold
    assert_same_curve(ours, plain, rel=1e-4)


@pytest.mark.slow
def test_triton_gives_the_curve_of_the_plain_formula(start):
    plain = curve(run(start("reference", "paper", 3)).output_dir)
    config = start("triton", "paper", 3)
    # Triton settles whether it interprets when it is first imported, so this takes a process of its own
    environment = {**os.environ} if torch.cuda.is_available() else {**os.environ, "TRITON_INTERPRET": "1"}
    file = Path(config.run.output_dir).with_suffix(".yaml")
    file.write_text(dump_config(config))
    command = [sys.executable, str(ROOT / "launcher" / "train.py"), str(file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert_same_curve(curve(config.run.output_dir), plain, rel=1e-5)


def test_triton_where_it_cannot_run_is_refused_before_training(toy_settings, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("it can run here")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ConfigError, match=r"objective\.kernels is triton, but .*Use auto or chunked"):
        run(override_config(build_config(toy_settings), ["objective.kernels=triton"]))
