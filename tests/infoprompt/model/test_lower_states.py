"""Layers below the first that a prompt enters are passed once for a data set, not in every step."""

import json
from pathlib import Path

import pytest
import torch

from infoprompt.build_setup import build_setup
from infoprompt.cache_folder import cache_dir
from infoprompt.config import BackboneSettings, build_config
from infoprompt.engine.ranks import start_ranks
from infoprompt.model import lower_states
from infoprompt.model.backbone.families import FAMILIES
from infoprompt.model.backbone.load import load_backbone
from infoprompt.train import run

STARTS = [name for name, family in FAMILIES.items() if family.packs and "layers" not in family.cannot]


@pytest.fixture
def config(tiny_backbones, toy_data, tmp_path, monkeypatch):
    monkeypatch.setenv("INFOPROMPT_CACHE", str(tmp_path / "cache"))

    def made(family="bert", **backbone):
        settings = {
            "backbone": {"name": tiny_backbones[family], **backbone},
            "prompt": {"kind": "lpt", "layer": 1, "bottleneck": 8},
            "objective": {"head_weight": 0, "representation_weight": 0},
            "data": {**toy_data, "batch_size": 4},
            "optim": {"max_steps": 4, "lr": 1e-2},
            "evaluation": {"every_steps": 2},
            "engine": {"kind": "plain"},
            "tracking": {"enabled": False, "every_steps": 1},
            "run": {"output_dir": str(tmp_path / f"run-{family}-{backbone.get('kept_mib', '')}")},
        }
        return build_config(settings)

    return made


@pytest.mark.parametrize("family", STARTS)
def test_a_pass_that_starts_at_kept_states_equals_a_whole_one(config, family):
    found = []
    for kept_mib in (0, 1):
        settings = config(family, kept_mib=kept_mib)
        setup = build_setup(settings, start_ranks(settings.engine))
        (batch,) = setup.train.micro_batches(0)
        assert (batch.lower_BLD is not None) == (kept_mib > 0 and setup.member.backbone.can_start_at(1))
        passed: list[int] = []
        parts = [module for module in setup.member.backbone.layers[0].modules() if not list(module.children())]
        hooks = [module.register_forward_hook(lambda *_, passed=passed: passed.append(1)) for module in parts]
        encoding = setup.engine.forward({0: batch})[0]
        loss = encoding.logits_BC.logsumexp(1).sum()
        loss.backward()
        for hook in hooks:
            hook.remove()
        assert bool(passed) == (batch.lower_BLD is None)
        gradients = [parameter.grad.clone() for parameter in setup.member.prompt.parameters()]
        found.append([encoding.logits_BC.detach(), *gradients])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5 * max(1.0, float(theirs.abs().max())))


def test_runs_are_the_same_and_later_ones_read_the_file(config, monkeypatch):
    histories = {}
    for kept_mib in (0, 1):
        run(config(kept_mib=kept_mib))
        files = sorted((cache_dir() / "lower").glob("*.safetensors"))
        assert len(files) == (3 if kept_mib else 0)  # training, dev and test
        folder = config(kept_mib=kept_mib).run.output_dir
        histories[kept_mib] = [
            row["train/loss"] for row in json.loads(Path(folder, "history.json").read_text()) if "train/loss" in row
        ]
    assert len(histories[0]) == 4
    assert histories[1] == pytest.approx(histories[0], rel=1e-4)

    def never(*_):
        raise AssertionError("the states were kept")

    monkeypatch.setattr(lower_states, "_computed", never)
    again = build_setup(config(kept_mib=1), start_ranks(config().engine))
    assert again.train.rows.lower is not None


def test_what_takes_more_than_the_budget_is_not_kept(config, monkeypatch):
    settings = config(kept_mib=1)
    setup = build_setup(settings, start_ranks(settings.engine))
    many = lower_states.with_lower_states(
        [setup.train.rows], setup.member.backbone, 1, setup.ranks, backbone_key="", batch_size=4, most_bytes=100
    )
    assert many[0].lower is setup.train.rows.lower
    few = build_setup(config(kept_mib=0), start_ranks(settings.engine))
    assert few.train.rows.lower is None


def test_a_layer_that_stands_for_several_cannot_be_passed_over(tiny_backbones):
    assert not load_backbone(BackboneSettings(name=tiny_backbones["albert"])).can_start_at(1)
    assert not load_backbone(BackboneSettings(name=tiny_backbones["bert"], unpadded=False)).can_start_at(1)
    assert load_backbone(BackboneSettings(name=tiny_backbones["bert"])).can_start_at(1)
