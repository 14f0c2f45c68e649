"""The end of a run: its results come first, and nothing that is merely nice to have can take them away."""

import json

import pytest

from infoprompt.config import build_config, override_config
from infoprompt.train import run


def config_of(toy_settings, folder, *changes: str):
    return override_config(build_config(toy_settings), ["optim.max_steps=2", f"run.output_dir={folder}", *changes])


def test_a_picture_that_cannot_be_drawn_costs_a_warning_and_no_result(toy_settings, tmp_path, monkeypatch, caplog):
    def broken(*arguments):
        assert (tmp_path / "run/result.json").exists(), "pictures come last"
        raise MemoryError("no room for it")

    for name in ("confusion_matrix", "learning_curves"):
        monkeypatch.setattr(f"infoprompt.train.{name}", broken)
    result = run(config_of(toy_settings, tmp_path / "run"))
    assert json.loads((tmp_path / "run/result.json").read_text())["test"] == pytest.approx(result.test)
    for name in ("confusion_matrix.png", "learning_curves.png"):
        assert f"The picture {name} could not be drawn (MemoryError: no room for it)" in caplog.text
