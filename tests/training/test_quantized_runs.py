"""Runs over a backbone whose matrices are in 8 or 4 bits."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from infoprompt.artifact import Artifact
from infoprompt.config import BackboneSettings, ConfigError, build_config, override_config
from infoprompt.data.splits import load_splits
from infoprompt.model.backbone.load import load_backbone
from infoprompt.model.backbone.quantized import BYTES_PER_WEIGHT
from infoprompt.train import run

FORMS = ["int8", "nf4"]


def matrices(backbone):
    return [module.weight for module in backbone.model.modules() if isinstance(module, nn.Linear)]


@pytest.fixture(scope="module")
def plain():
    return load_backbone(BackboneSettings(dtype="bfloat16"))


@pytest.fixture(scope="module", params=FORMS)
def packed(request):
    return load_backbone(BackboneSettings(dtype="bfloat16", quantization=request.param)), request.param


def test_the_matrices_take_what_is_stated_and_nothing_else_is_changed(plain, packed):
    backbone, form = packed
    weights = matrices(backbone)
    assert len(weights) == len(matrices(plain)) == 36
    for weight, whole in zip(weights, matrices(plain), strict=True):
        assert weight.nbytes == whole.numel() * int(2 * BYTES_PER_WEIGHT[form]) // 2
    assert torch.equal(backbone.embedding_table(), plain.embedding_table())
    assert backbone.fingerprint() != plain.fingerprint()


def test_states_and_gradients_are_near_those_of_plain_weights(plain, packed):
    backbone, form = packed
    ids = torch.randint(1000, 20000, (2, 12), generator=torch.Generator().manual_seed(0))
    found = []
    for model in (plain.model, backbone.model):
        vectors = plain.embed(ids).detach().requires_grad_()
        states = model(inputs_embeds=vectors).last_hidden_state
        states.float().square().mean().backward()
        found.append((states.detach().float().flatten(), vectors.grad.float().flatten()))
    (states, gradient), (packed_states, packed_gradient) = found
    least_states, least_gradient = {"int8": (0.99, 0.97), "nf4": (0.9, 0.7)}[form]
    assert torch.cosine_similarity(states, packed_states, 0) > least_states
    assert torch.cosine_similarity(gradient, packed_gradient, 0) > least_gradient
    assert not torch.equal(states, packed_states)


def test_backward_keeps_no_whole_matrix(packed):
    backbone, _ = packed
    kept = []
    vectors = backbone.embed(torch.tensor([[2000, 3000]])).detach().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        backbone.model(inputs_embeds=vectors)
    smallest = min(weight.numel() for weight in matrices(load_backbone(BackboneSettings())))
    assert all(tensor.numel() < smallest or tensor.element_size() == 1 for tensor in kept)


@pytest.mark.parametrize("form", FORMS)
def test_a_run_learns_and_its_artifact_predicts_the_same(toy_settings, form):
    settings = override_config(
        build_config(toy_settings), [f"backbone.quantization={form}", "backbone.dtype=bfloat16", "optim.max_steps=12"]
    )
    result = run(settings)
    kept = json.loads((Path(result.output_dir) / "predictions.json").read_text())
    artifact = Artifact.from_pretrained(result.artifact)
    assert artifact.predicted(artifact.encode(load_splits(settings.data, 0).test)) == kept["predictions"]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["engine.kind=deepspeed", "engine.zero_stage=3"],
            r"backbone\.quantization is nf4, but engine\.zero_stage",
        ),
        (["backbone.frozen=false"], r"backbone\.quantization is nf4, but backbone\.frozen is false"),
        (["backbone.lora_rank=2"], r"backbone\.quantization is nf4, but backbone\.lora_rank is 2"),
    ],
)
def test_what_does_not_go_together_is_refused(toy_settings, overrides, told):
    with pytest.raises(ConfigError, match=told):
        override_config(build_config(toy_settings), ["backbone.quantization=nf4", *overrides])


def test_without_the_library_the_way_out_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"quantization is int8, but bitsandbytes.*infoprompt\[quantization\]"):
        load_backbone(BackboneSettings(quantization="int8"))
