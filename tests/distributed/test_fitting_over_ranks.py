"""What is found at once, or by pairs of rows, is the same on one rank and on two, under both engines."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from infoprompt.config import build_config
from infoprompt.engine.ranks import stop_ranks
from infoprompt.train import run

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(1200)]

ENGINES = ("plain", "deepspeed")
WAYS = {"logistic_regression": {"prompt": {"kind": "none"}, "head": {"fit": "logistic_regression"}}}


def run_ways(settings: dict[str, Any], ways: dict[str, Any], engines: Sequence[str], folder: str) -> None:
    for name, changes in ways.items():
        for engine in engines:
            place = {"engine": {"kind": engine}, "run": {"output_dir": str(Path(folder) / f"{name}-{engine}")}}
            run(build_config({**settings, **changes, **place}))
            stop_ranks()


def test_one_rank_and_two_give_the_same_model(run_distributed, toy_settings, tmp_path):
    settings = {**toy_settings, "objective": {"head_weight": 0, "representation_weight": 0}}
    run_ways(settings, WAYS, ("plain",), str(tmp_path / "alone"))
    run_distributed(__file__, "run_ways", settings, WAYS, ENGINES, str(tmp_path / "two"))
    for name in WAYS:
        truth = load_file(tmp_path / "alone" / f"{name}-plain" / "artifact" / "prompt.safetensors")
        for engine in ENGINES:
            found = load_file(tmp_path / "two" / f"{name}-{engine}" / "artifact" / "prompt.safetensors")
            for part, tensor in truth.items():
                # float32 sums in another order
                torch.testing.assert_close(found[part], tensor, rtol=2e-3, atol=2e-4, msg=f"{name} {engine} {part}")
