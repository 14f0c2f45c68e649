"""A run stops at what is not finite, whether its engine waits for the device to say so or not."""

import json
import math
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import pytest

import infoprompt.engine.engine
import infoprompt.train
from infoprompt.config import build_config, override_config
from infoprompt.engine.plain_engine import PlainEngine
from infoprompt.progress import TrainingStopped
from infoprompt.train import run


@pytest.fixture
def trained(toy_settings, monkeypatch):
    """Trains with an engine that waits or does not; what the run left, and how it ended."""

    def train(waits, *overrides):
        monkeypatch.setattr(infoprompt.engine.engine, "PlainEngine", partial(PlainEngine, waits=waits))
        folder = Path(toy_settings["run"]["output_dir"]) / str(waits)
        config = override_config(build_config(toy_settings), [*overrides, f"run.output_dir={folder}"])
        try:
            run(config)
            end = "finished"
        except TrainingStopped as stopped:
            end = str(stopped)
        return left_in(folder), end

    return train


def left_in(folder):
    """Tensors and records of a run, without its times."""
    left = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}
    lines = (path.read_text().splitlines() for path in folder.glob("metrics.jsonl"))
    records = [json.loads(line) for line in chain.from_iterable(lines)]
    for record in records:
        record["metrics"].pop("train/examples_per_second", None)
    return left | {"records": [(record["step"], record["metrics"]) for record in records]}


def poison(monkeypatch, kind, micro_batch):
    """Spoil a micro-batch, counted over the run from 0: its loss, or the slope of a loss that is finite."""
    plain, calls = infoprompt.train.information_objective, []

    def poisoned(*given):
        terms = plain(*given)
        calls.append(kind)
        if len(calls) - 1 != micro_batch:
            return terms
        slope = (terms.total - terms.total.detach()).abs().sqrt()  # 0, and infinitely steep
        return replace(terms, total=terms.total + slope if kind == "slope" else terms.total * kind)

    monkeypatch.setattr(infoprompt.train, "information_objective", poisoned)


@pytest.mark.parametrize("micro_batch_size", [4, 8])
def test_a_run_is_the_same_whether_its_engine_waits_or_not(trained, micro_batch_size):
    settings = [f"data.micro_batch_size={micro_batch_size}", "tracking.every_steps=3", "optim.epochs=2"]
    (waited, first), (not_waited, second) = (trained(waits, *settings) for waits in (True, False))
    assert first == second == "finished"
    assert sum(name.endswith(".safetensors") for name in waited) > 2
    assert waited == not_waited


@pytest.mark.parametrize("kind", [math.nan, math.inf, "slope"])
@pytest.mark.parametrize("micro_batch", [8, 9])  # both of update 5
def test_the_first_bad_update_is_named_and_what_was_saved_before_it_stays(trained, monkeypatch, kind, micro_batch):
    settings = ["data.micro_batch_size=4", "tracking.every_steps=3", "checkpoint.every_steps=2"]
    found = {}
    for waits in (True, False):
        with monkeypatch.context() as patch:
            poison(patch, kind, micro_batch)
            found[waits] = trained(waits, *settings)
    left, end = found[True]
    assert found[False] == found[True]
    assert end.startswith("The loss of update 5 is not finite")
    assert {Path(name).parent.name for name in left if "step-" in name} == {"step-00000002", "step-00000004"}
    assert [step for step, _ in left["records"]] == [3]


def test_the_first_of_several_bad_updates_is_named(trained, monkeypatch):
    poison(monkeypatch, math.inf, 4)  # which makes the parameters no numbers, and all losses after it
    left, end = trained(False, "tracking.every_steps=10", "evaluation.every_steps=10")
    assert end.startswith("The loss of update 5 is not finite on at least one rank (here: train/loss inf")
    assert left == {"records": []}
