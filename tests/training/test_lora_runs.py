"""Runs that train LoRA: what is saved, read again, gone on with and refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from infoprompt.artifact import Artifact
from infoprompt.artifact_files import ArtifactError
from infoprompt.artifact_set import ArtifactSet
from infoprompt.config import ConfigError, build_config, override_config
from infoprompt.data.splits import load_splits
from infoprompt.progress import LeftOff
from infoprompt.train import run

ALONE = ["prompt.kind=none", "objective.head_weight=0", "objective.representation_weight=0"]


def config(toy_settings, *overrides):
    given = [*ALONE, "backbone.lora_rank=3", "backbone.dtype=bfloat16", "optim.max_steps=12", *overrides]
    return override_config(build_config(toy_settings), given)


def test_an_artifact_holds_lora_and_head_alone_and_predicts_as_the_run_did(toy_settings):
    settings = config(toy_settings)
    result = run(settings)
    saved = load_file(Path(result.artifact) / "prompt.safetensors")
    assert all(".lora_" in name or name.startswith("head.") for name in saved)
    assert sum(tensor.numel() for tensor in saved.values()) == result.trained_parameters
    assert any(tensor.any() for name, tensor in saved.items() if ".lora_B." in name)
    kept = json.loads((Path(result.output_dir) / "predictions.json").read_text())
    artifact = Artifact.from_pretrained(result.artifact)
    rows = artifact.encode(load_splits(settings.data, 0).test)
    assert artifact.predicted(rows) == kept["predictions"]
    artifact.save_pretrained(Path(result.output_dir) / "copy")
    copied = load_file(Path(result.output_dir) / "copy" / "prompt.safetensors")
    assert all(torch.equal(copied[name], tensor) for name, tensor in saved.items())
    with pytest.raises(ArtifactError, match=r"backbone\.lora_rank is 3.*cannot share"):
        ArtifactSet.from_pretrained({"one": result.artifact})


def test_a_run_left_off_and_gone_on_with_ends_as_one_never_left(toy_settings, tmp_path):
    whole = run(config(toy_settings, "evaluation.every_steps=4", f"run.output_dir={tmp_path / 'whole'}"))
    parted = config(toy_settings, "evaluation.every_steps=4", f"run.output_dir={tmp_path / 'parted'}")
    with pytest.raises(LeftOff):
        run(parted, report=lambda progress, scores: "pause")
    resumed = run(parted, resume="auto")
    tensors = [load_file(Path(result.artifact) / "prompt.safetensors") for result in (whole, resumed)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["engine.kind=deepspeed", "engine.zero_stage=3"], r"backbone\.lora_rank is 3, but engine\.zero_stage is 3"),
        (["backbone.frozen=false"], r"backbone\.lora_rank is 3, but backbone\.frozen is false"),
        (["backbone.lora_rank=null", "backbone.lora_alpha=4"], r"backbone\.lora_alpha is 4, but"),
        (["prompt.kind=instance"], r"backbone\.lora_rank is 3, but the prompt"),
        (["head.fit=start"], r"head\.fit is start, but backbone\.lora_rank is 3"),
    ],
)
def test_what_does_not_go_with_it_is_refused(toy_settings, overrides, told):
    with pytest.raises(ConfigError, match=told):
        run(config(toy_settings, *overrides))
