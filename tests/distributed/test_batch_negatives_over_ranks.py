"""The contrast within the batch is over all ranks: two processes train as one does."""

import json
from pathlib import Path
from typing import Any

import pytest

from infoprompt.config import build_config
from infoprompt.engine.ranks import stop_ranks
from infoprompt.train import run

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(1200)]  # two starts, on a busy machine

ENGINES = [("plain", 0), ("deepspeed", 3)]


def run_histories(settings: dict[str, Any], folder: str) -> dict[Any, list[dict[str, float]]]:
    histories = {}
    for kind, stage in ENGINES:
        out = Path(folder) / f"{kind}{stage}"
        engine = {"kind": kind, "zero_stage": stage}
        run(build_config({**settings, "engine": engine, "run": {"output_dir": str(out)}}))
        stop_ranks()
        histories[kind, stage] = json.loads((out / "history.json").read_text())
    return histories


def test_two_processes_with_half_the_rows_each_train_as_one(run_distributed, toy_settings, tmp_path):
    objective = {"representation_negatives": "batch", "representation_weight": 1.0, "head_weight": 0.0}
    settings = {**toy_settings, "objective": objective, "optim": {"lr": 1e-3, "max_steps": 6}}
    one, two = (
        run_distributed(__file__, "run_histories", settings, str(tmp_path / f"{size}"), world_size=size)[0]
        for size in (1, 2)
    )
    truth = one["plain", 0]
    assert len(truth) >= 6
    for histories in (one, two):
        for kind, history in histories.items():
            for row, expected in zip(history, truth, strict=True):
                for name in ("train/loss", "train/representation_loss", "train/grad_norm"):
                    if name in expected:
                        # float32 sums in another order: 1e-6 at first, and AdamW's division lets it grow
                        assert row[name] == pytest.approx(expected[name], rel=2e-4, abs=2e-5), (kind, row["step"], name)
