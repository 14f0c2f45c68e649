"""LoRA in every family: what PEFT's own model computes, with padding and without."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel

from infoprompt.config import BackboneSettings, ConfigError
from infoprompt.data.batch import Batch
from infoprompt.model.backbone.cache import forget, kept_backbone
from infoprompt.model.backbone.families import FAMILIES
from infoprompt.model.backbone.load import load_backbone
from infoprompt.model.backbone.lora import start_lora

TEXTS = [[30, 41, 52, 33, 64], [35, 46], [37, 48, 39, 60, 31, 42, 53, 34, 45, 56]]


def batch_of(texts):
    longest = max(map(len, texts))
    real_BL = torch.tensor([[place < len(text) for place in range(longest)] for text in texts])
    ids_BL = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
    none = torch.zeros(len(texts), dtype=torch.long)
    positions = torch.arange(longest).expand(len(texts), -1)
    return Batch(ids_BL, torch.full_like(ids_BL, -1), real_BL, positions, torch.zeros_like(ids_BL), none, none, none)


def with_values(backbone):
    draws = torch.Generator().manual_seed(1)
    trained = {name: item for name, item in backbone.named_parameters() if item.requires_grad}
    with torch.no_grad():
        for parameter in trained.values():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draws))
    return trained


def states_and_gradients(backbone, trained):
    batch = batch_of(TEXTS)
    states_TD = backbone(backbone.embed(batch.input_ids_BL), batch)[batch.real_BL]
    weight_TD = torch.randn(states_TD.shape, generator=torch.Generator().manual_seed(2))
    return states_TD, torch.autograd.grad((weight_TD * states_TD).sum(), [*trained.values()])


def pefts_states(folder, backbone, trained):
    """PEFT's model of the same weights, each text alone."""
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    model = model.get_encoder() if backbone.kind == "encoder-decoder" else model
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in trained}
    theirs = get_peft_model(model, LoraConfig(r=3, lora_alpha=5, target_modules=sorted(layers))).eval()
    names = {name.removeprefix("model."): value for name, value in trained.items()}
    with torch.no_grad():
        for name, parameter in theirs.base_model.model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(names.pop(name))
    assert not names
    return torch.cat([theirs(input_ids=torch.tensor([text])).last_hidden_state[0] for text in TEXTS])


# PEFT's own notice of GPT-2's layers, and its call of a name that transformers gives up
@pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:.*is_gradient_checkpointing")
@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_pefts_own_model_with_padding_and_without(family, tiny_backbones):
    settings = {"name": tiny_backbones[family], "lora_rank": 3, "lora_alpha": 5}
    packed = load_backbone(BackboneSettings(**settings))
    trained = with_values(packed)
    states_TD, gradients = states_and_gradients(packed, trained)
    scale = float(states_TD.detach().abs().max())
    truth_TD = pefts_states(tiny_backbones[family], packed, trained)
    torch.testing.assert_close(states_TD, truth_TD, rtol=0, atol=5e-5 * scale)  # float32 sums in another order
    padded = load_backbone(BackboneSettings(**settings, unpadded=False))
    other_TD, others = states_and_gradients(padded, with_values(padded))
    torch.testing.assert_close(states_TD, other_TD, rtol=0, atol=5e-5 * scale)
    for ours, theirs in zip(gradients, others, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def test_what_is_read_alone_is_made_as_with_all(tiny_bert):
    backbone = load_backbone(BackboneSettings(name=tiny_bert, lora_rank=3))
    with_values(backbone)
    batch = batch_of(TEXTS)
    read_BL = torch.zeros_like(batch.real_BL)
    read_BL[:, 0] = True
    embeddings_BLE = backbone.embed(batch.input_ids_BL)
    assert backbone.skips_unread
    some, everything = (backbone(embeddings_BLE, batch, None, read)[:, 0] for read in (read_BL, None))
    torch.testing.assert_close(some, everything, rtol=1e-5, atol=1e-5)


def test_at_its_start_it_changes_nothing_and_what_is_trained_is_float32(tiny_bert):
    settings = {"name": tiny_bert, "dtype": "bfloat16"}
    plain = load_backbone(BackboneSettings(**settings))
    tuned = load_backbone(BackboneSettings(**settings, lora_rank=3))
    torch.manual_seed(0)
    start_lora(tuned)
    batch = batch_of(TEXTS)
    states = [backbone(backbone.embed(batch.input_ids_BL), batch) for backbone in (plain, tuned)]
    assert torch.equal(*states)
    trained = {name: item for name, item in tuned.named_parameters() if item.requires_grad}
    assert {item.dtype for item in trained.values()} == {torch.float32}
    assert all(("lora_A" in name) == bool(item.any()) for name, item in trained.items())
    assert {item.dtype for item in tuned.parameters() if not item.requires_grad} == {torch.bfloat16}
    assert plain.fingerprint() == tuned.fingerprint()


def test_the_backbone_that_a_process_keeps_is_never_one_with_lora(tiny_bert):
    forget()
    plain, lora = BackboneSettings(name=tiny_bert), BackboneSettings(name=tiny_bert, lora_rank=3)
    needs = {"needs": frozenset(), "lm_head": False}
    kept, _ = kept_backbone(plain, torch.device("cpu"), **needs)
    assert kept_backbone(plain, torch.device("cpu"), **needs)[0] is kept
    first, second = (kept_backbone(lora, torch.device("cpu"), **needs)[0] for _ in range(2))
    assert first is not second
    assert not any("lora" in name for name, _ in kept.named_parameters())


@pytest.mark.parametrize("targets", [["nothing"], ["word_embeddings"], ["LayerNorm"]])
def test_targets_that_are_no_linear_layers_are_refused(tiny_bert, targets):
    with pytest.raises(ConfigError, match=r"backbone\.lora_targets is .* no linear layers"):
        load_backbone(BackboneSettings(name=tiny_bert, lora_rank=3, lora_targets=targets))
