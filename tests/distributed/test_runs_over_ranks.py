"""Whole runs: two processes train as one does, under every engine, and with terms that look at all ranks."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from infoprompt.config import build_config
from infoprompt.data.batch import Batch
from infoprompt.data.loader import TrainLoader
from infoprompt.engine.ranks import stop_ranks
from infoprompt.progress import LeftOff
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


def run_part(settings: dict[str, Any], engine: tuple[str, int], folder: str, until: int) -> list[tuple[int, int]]:
    """On a rank: go on with the run in the folder, up to an update; update and number of each row trained on."""
    read: list[tuple[int, int]] = []
    micro_batches = TrainLoader.micro_batches

    def noted(self: TrainLoader, step: int) -> Iterator[Batch]:
        for batch in micro_batches(self, step):
            read.extend((step, row) for row in batch.row_B.tolist())
            yield batch

    kind, stage = engine
    config = build_config({**settings, "engine": {"kind": kind, "zero_stage": stage}, "run": {"output_dir": folder}})
    with pytest.MonkeyPatch.context() as patch, suppress(LeftOff):
        patch.setattr(TrainLoader, "micro_batches", noted)
        run(config, resume="auto", report=lambda progress, _: "pause" if progress.step == until else "go")
    stop_ranks()
    return read


def test_a_run_that_goes_on_with_other_ranks_and_stages_sees_each_row_once_and_ends_as_one_never_stopped(
    run_distributed, toy_settings, tmp_path
):
    settings = {**toy_settings, "optim": {"lr": 1e-3, "epochs": 2}, "evaluation": {"every_steps": 4}}
    settings["data"] = {**settings["data"], "few_shot": {"per_class": 20}}
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    expected = run_distributed(__file__, "run_part", settings, ("plain", 0), str(whole), 0, world_size=1)[0]
    read = []
    for world_size, stage, until in ((2, 3, 4), (1, 0, 8), (4, 2, 0)):
        part = settings, ("deepspeed", stage), str(parted), until
        read += [row for rank in run_distributed(__file__, "run_part", *part, world_size=world_size) for row in rank]
    results = [json.loads((folder / "result.json").read_text()) for folder in (whole, parted)]
    steps = results[0]["steps"]
    assert steps > 9  # the parts of the run stop within an epoch, and the last one has updates of its own
    assert sorted(read) == sorted(expected)
    for epoch in (range(steps // 2), range(steps // 2, steps)):
        seen = [row for step, row in read if step in epoch]
        assert sorted(set(seen)) == list(range(results[0]["rows"]["train"]))
        assert len(seen) - len(set(seen)) < 8, "more rows twice than fill up the last update of an epoch"
    assert results[1]["dev"] == pytest.approx(results[0]["dev"], rel=2e-3, abs=2e-4)
    assert results[1]["test"] == pytest.approx(results[0]["test"], rel=2e-3, abs=2e-4)
    histories = [json.loads((folder / "history.json").read_text()) for folder in (whole, parted)]
    assert [row["step"] for row in histories[1]] == [row["step"] for row in histories[0]]
    for row, truth in zip(histories[1], histories[0], strict=True):
        # float32 sums in another order: 1e-6 at first, and AdamW's division lets it grow over the updates
        assert row == pytest.approx(truth, rel=2e-3, abs=2e-4), row["step"]
