"""Runs of one process share a frozen backbone, and come out as they would alone."""

import json
import os
from pathlib import Path

import pytest
import torch

from infoprompt.config import BackboneSettings, ConfigError, build_config, override_config
from infoprompt.model.backbone import cache
from infoprompt.train import run

NO_TERMS = ["objective.head_weight=0", "objective.representation_weight=0"]
KINDS = {
    "instance": ["prompt.kind=instance"],
    "adaption_prompt": ["prompt.kind=adaption_prompt", *NO_TERMS],
    "lpt": ["prompt.kind=lpt", *NO_TERMS],
    "words": ["prompt.kind=static", "prompt.init=vocabulary"],
}


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """The name of every backbone that is read from disk."""
    names = []

    def load(settings, *given, **named):
        names.append(settings.name)
        return load_backbone(settings, *given, **named)

    load_backbone = cache.load_backbone
    monkeypatch.setattr(cache, "load_backbone", load)
    monkeypatch.setattr(cache, "_kept", {})
    return names


def trained(toy_settings, folder: Path, *changes: str) -> tuple[bytes, list]:
    """Prompt and history of a run of a few updates."""
    given = ["optim.max_steps=4", "evaluation.every_steps=2", f"run.output_dir={folder}"]
    run(override_config(build_config(toy_settings), [*given, *changes]))
    return (folder / "artifact/prompt.safetensors").read_bytes(), json.loads((folder / "history.json").read_text())


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # DeepSpeed's ZeRO asks for it
@pytest.mark.parametrize("engine", ["plain", "deepspeed", "deepspeed engine.zero_stage=2"])
def test_runs_after_others_end_as_alone_and_the_weights_are_read_once(engine, toy_settings, tmp_path, loads):
    changes = f"engine.kind={engine}".split()
    alone = {}
    for name, kind in KINDS.items():
        cache.forget()
        alone[name] = trained(toy_settings, tmp_path / f"alone_{name}", *changes, *kind)
    assert len(loads) == len(KINDS)
    for name in (*KINDS, "instance"):
        assert trained(toy_settings, tmp_path / f"after_{name}", *changes, *KINDS[name]) == alone[name], name
    assert len(loads) == len(KINDS)
    ((backbone, _),) = cache._kept.values()
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in backbone.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.modules())


def test_another_backbone_takes_the_place_and_a_fine_tuned_one_is_never_shared(
    toy_settings, tiny_backbones, tmp_path, loads
):
    trained(toy_settings, tmp_path / "a")
    (first,) = cache._kept
    trained(toy_settings, tmp_path / "b", "backbone.frozen=false", "prompt.kind=none", *NO_TERMS)
    assert not cache._kept
    trained(toy_settings, tmp_path / "c", f"backbone.name={tiny_backbones['roberta']}")
    assert len(cache._kept) == 1
    assert first not in cache._kept
    assert len(loads) == 3


def test_a_model_that_was_written_anew_is_read_anew(toy_settings, tiny_bert, tmp_path, loads):
    trained(toy_settings, tmp_path / "a")
    os.utime(Path(tiny_bert) / "model.safetensors")
    trained(toy_settings, tmp_path / "b")
    assert len(loads) == 2


def test_what_the_family_cannot_do_is_refused_also_of_a_kept_one(tiny_bert, loads):
    settings, device = BackboneSettings(name=tiny_bert), torch.device("cpu")
    read = cache.kept_backbone(settings, device, needs=frozenset({"label_words"}), lm_head=True)
    assert read is cache.kept_backbone(settings, device, needs=frozenset(), lm_head=True)
    with pytest.raises(ConfigError, match="cannot offer"):
        cache.kept_backbone(settings, device, needs=frozenset({"label_texts"}), lm_head=True)
    assert len(loads) == 1
