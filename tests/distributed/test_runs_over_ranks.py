"""Whole runs: two processes train as one does, under every engine, and with terms that look at all ranks."""

import json
from pathlib import Path
from typing import Any

import pytest

from infoprompt.config import build_config
from infoprompt.engine.ranks import stop_ranks
from infoprompt.train import run

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(1200)]  # two starts, on a busy machine

ENGINES = [("plain", 0), *(("deepspeed", stage) for stage in range(4))]
TERMS = {
    # MINE's running means, at a high rate and with heavy terms, so that those of each rank's own rows would be far off
    "mine": {
        **{"head_estimator": "mine", "representation_estimator": "mine", "mine_rate": 0.5},
        **{"head_weight": 1.0, "representation_weight": 1.0},
    },
    "batch": {"representation_negatives": "batch", "representation_weight": 1.0, "head_weight": 0.0},
    "label": {"label_form": "guarded"},
}


def run_histories(
    settings: dict[str, Any], terms: dict[str, Any], engines: list[tuple[str, int]], folder: str
) -> dict[Any, list[dict[str, float]]]:
    histories = {}
    for name, objective in terms.items():
        for kind, stage in engines:
            out = Path(folder) / f"{name}{kind}{stage}"
            engine = {"kind": kind, "zero_stage": stage}
            changes = {"engine": engine, "objective": objective, "run": {"output_dir": str(out)}}
            run(build_config({**settings, **changes}))
            stop_ranks()
            histories[name, kind, stage] = json.loads((out / "history.json").read_text())
    return histories


def test_two_processes_with_half_the_rows_each_train_as_one(run_distributed, toy_settings, toy_data, tmp_path):
    data = {**toy_settings["data"], "unlabelled": toy_data["unlabelled"], "unlabelled_batch": 12}
    settings = {**toy_settings, "data": data, "optim": {"lr": 1e-3, "max_steps": 8}}
    given = settings, TERMS, [ENGINES[0], ENGINES[-1]]
    one, two = (
        run_distributed(__file__, "run_histories", *given, str(tmp_path / f"{size}"), world_size=size)[0]
        for size in (1, 2)
    )
    for histories in (one, two):
        for (name, *engine), history in histories.items():
            truth = one[name, "plain", 0]
            assert len(truth) >= 8
            for row, expected in zip(history, truth, strict=True):
                for key in (
                    "train/loss",
                    "train/head_loss",
                    "train/representation_loss",
                    "train/label_loss",
                    "train/grad_norm",
                ):
                    if key in expected:
                        # float32 sums in another order: 1e-6 at first, and AdamW's division lets it grow
                        place = (name, engine, row["step"], key)
                        assert row[key] == pytest.approx(expected[key], rel=2e-4, abs=2e-5), place


def test_plain_and_every_zero_stage_on_one_and_two_processes_give_the_same_curve(
    run_distributed, toy_settings, tmp_path
):
    settings = {**toy_settings, "optim": {"lr": 1e-3, "epochs": 1}}
    settings["data"] = {**settings["data"], "few_shot": {"per_class": 20}}
    given = settings, {"paper": {"preset": "paper"}}, ENGINES
    one, two = (
        run_distributed(__file__, "run_histories", *given, str(tmp_path / f"{size}"), world_size=size)[0]
        for size in (1, 2)
    )
    truth = one["paper", "plain", 0]
    assert len(truth) >= 5
    for key, history in [*one.items(), *two.items()]:
        assert [row["step"] for row in history] == [row["step"] for row in truth], key
        for row, expected in zip(history, truth, strict=True):
            for name, value in expected.items():
                # float32 sums in another order: 1e-6 at first, and AdamW's division lets it grow over the updates
                assert row[name] == pytest.approx(value, rel=2e-3, abs=2e-4), (key, row["step"], name)
