"""A run that takes seconds, for what starts runs."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from here_worker import HEAD, STATIC

REPOSITORY = Path(__file__).resolve().parents[2]

GOOD = ("the good film was great", "a great movie", "this film is good", "good movie and great film")
BAD = ("the awful film was bad", "a bad movie", "this film is awful", "bad movie and awful film")


@pytest.fixture
def tiny_config(tmp_path, tiny_bert) -> Path:
    """File of a config with 16 training rows and a model of two layers; trains in a second, records nothing."""
    rows = [{"text": text, "label": label} for texts, label in ((GOOD, "good"), (BAD, "bad")) for text in texts]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows * 2))
    values = {
        "run": {"output_dir": str(tmp_path / "run")},
        "backbone": {"name": tiny_bert},
        "data": {"train": str(data), "validation": str(data), "test": str(data)},
        "optim": {"max_steps": 4, "lr": 0.003},
        "evaluation": {"every_steps": 2},
        "engine": {"kind": "plain", "timeout_seconds": 60},
        "tracking": {"enabled": False},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def tiny_sweep(tmp_path, tiny_config) -> Path:
    """Sweep file over two seeds of `tiny_config`."""
    path = tmp_path / "sweep.yaml"
    values = {
        "base": tiny_config.name,
        "space": {"seed": {"grid": [0, 1]}},
        "workers_per_trial": 2,
        "output_dir": str(tmp_path / "sweep"),
    }
    path.write_text(yaml.safe_dump(values))
    return path


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def infoprompt(tmp_path, processes) -> Run:
    """Runs `infoprompt ...` as a process of its own, in a folder of its own."""

    def run(*arguments: object, stdin: str = "", seconds: float = 100) -> "subprocess.CompletedProcess[str]":
        return processes.run(arguments, tmp_path, os.environ, stdin, seconds)

    return run


@pytest.fixture
def study_file(tmp_path, toy_settings) -> Path:
    """Two methods on one task with 16 rows and two seeds: 4 runs of the search, 4 final ones."""
    toy_settings["optim"]["epochs"] = 2
    files = {
        "base": toy_settings,
        "head": {**HEAD, "search": {"optim.lr": [1e-2, 3e-2]}},
        "static": {**STATIC, "search": {"optim.lr": [1e-3, 1e-2]}},
        "study": {
            "base": "base.yaml",
            "methods": {"head": "head.yaml", "static": "static.yaml"},
            "tasks": {"toy": ["data.validation=null"]},
            "sizes": [{"total": 16}],
            "seeds": [0, 1],
            "search": {"budget": 2},
            "baseline": "head",
            "output_dir": str(tmp_path / "out"),
        },
    }
    for name, values in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "study.yaml"
