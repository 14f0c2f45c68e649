"""The prompt in the input, against a manual construction; each test names a failure seen in other tools."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModel

from infoprompt.config import BackboneSettings, ConfigError, build_config
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.rows import Example
from infoprompt.data.tasks import Task
from infoprompt.model.backbone.load import load_backbone
from infoprompt.model.build import build_member
from infoprompt.model.inputs import make_template
from infoprompt.model.insert import insert_prompt, pool

TASK = Task("toy", ("bad", "good"), ("bad film", "good film"), ("accuracy",), "single")
TEXTS = ["the film was good", "it was a bad movie and the engine of the car was lost", "great"]
NOT_FLOAT_NOISE = 1e-2
FLOAT_NOISE = 2e-5  # float32 sums of another order in attention over a padded row


def setup(folder, **overrides):
    values = {
        "backbone": {"name": folder},
        "prompt": {"kind": "static"},
        "objective": {"representation_weight": 0, "head_weight": 0},
        "head": {"init": "random"},
    }
    config = build_config({**values, **overrides})
    backbone = load_backbone(config.backbone)
    model = build_member(config, backbone, TASK).eval()
    template = make_template(config, backbone)
    return model, EncodedDataset.encode(
        [Example(text=text, label="bad") for text in TEXTS], TASK.labels, template, "toy"
    )


@pytest.fixture(params=["bert", "roberta", "electra"])
def family(request, tiny_backbones):
    return tiny_backbones[request.param]


def test_output_equals_a_manual_construction(family):
    model, rows = setup(family)
    batch = rows.batch([1])
    plain = AutoModel.from_pretrained(family).eval()
    ids, slots = rows.texts[1].input_ids, rows.texts[1].slots
    table = plain.get_input_embeddings().weight
    vectors = model.prompt.vectors_PE
    manual = torch.stack([vectors[slot] if slot >= 0 else table[token] for token, slot in zip(ids, slots, strict=True)])
    start = plain.config.pad_token_id + 1 if plain.config.model_type == "roberta" else 0
    real = torch.tensor(slots) < 0
    position_1L = (real.cumsum(0) - 1).clamp(min=0)[None]
    states = plain(inputs_embeds=manual[None], position_ids=position_1L + start)
    expected = states.last_hidden_state[0, real].mean(0)
    torch.testing.assert_close(model(batch).pooled_BD[0], expected, rtol=0, atol=FLOAT_NOISE)


def test_the_plain_pass_is_the_models_own(family):
    model, rows = setup(family)
    rows = rows.without_prompt()
    text = rows.texts[1]
    plain = AutoModel.from_pretrained(family).eval()
    states = plain(input_ids=torch.tensor([text.input_ids]), token_type_ids=torch.tensor([text.segments]))
    batch = replace(rows.batch([1]), unprompted=True)
    encoding = model(batch)
    torch.testing.assert_close(encoding.summary_BD, states.last_hidden_state[:, 0], rtol=0, atol=FLOAT_NOISE)
    torch.testing.assert_close(encoding.pooled_BD, states.last_hidden_state.mean(1), rtol=0, atol=FLOAT_NOISE)


def test_padding_changes_nothing(family):
    model, rows = setup(family)
    together = model(rows.batch([0, 1, 2])).logits_BC
    alone = torch.cat([model(rows.batch([row])).logits_BC for row in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=FLOAT_NOISE)


def test_the_prompt_matters(family):
    model, rows = setup(family)
    before = model(rows.batch([0])).pooled_BD
    with torch.no_grad():
        model.prompt.vectors_PE.add_(torch.randn_like(model.prompt.vectors_PE))
    assert (model(rows.batch([0])).pooled_BD - before).abs().max() > NOT_FLOAT_NOISE


@pytest.mark.parametrize("pooling", ["mean", "first", "mask"])
def test_pooling_reads_real_tokens_only(family, pooling):
    _, rows = setup(family, head={"init": "random", "pooling": pooling})
    batch = rows.batch([0, 1])
    states = torch.randn(*batch.input_ids_BL.shape, 8)
    spoiled = torch.where(batch.real_BL.unsqueeze(-1), states, torch.full_like(states, 1e6))
    torch.testing.assert_close(pool(spoiled, batch, pooling), pool(states, batch, pooling))


def test_mask_pooling_reads_the_mask_token(family):
    model, rows = setup(family, head={"init": "random", "pooling": "mask"})
    batch = rows.batch([0, 1])
    read = batch.input_ids_BL[torch.arange(2), batch.mask_index_B]
    assert read.tolist() == [model.backbone.tokenizer.mask_token_id] * 2


def test_a_text_of_full_length_does_not_pass_the_position_table(family):
    model, _ = setup(family)
    config = build_config({"backbone": {"name": family}, "prompt": {"kind": "static"}})
    template = make_template(config, model.backbone)
    rows = EncodedDataset.encode([Example(text="film " * 500, label="bad")], TASK.labels, template, "toy")
    assert len(rows.texts[0].input_ids) == model.backbone.max_length == 64
    assert torch.isfinite(model(rows.batch([0])).logits_BC).all()


def test_more_positions_than_the_model_has_are_refused(family):
    model, _ = setup(family, backbone={"name": family, "max_length": 64})
    config = build_config({"backbone": {"name": family, "max_length": 65}})
    with pytest.raises(ConfigError, match=r"backbone\.max_length is 65, but .* at most 64 positions\. Use 64 or less"):
        make_template(config, model.backbone)


def test_sdpa_and_eager_attention_agree(family):
    model, rows = setup(family)
    eager, _ = setup(family, backbone={"name": family, "attention": "eager"})
    batch = rows.batch([0, 1, 2])
    torch.testing.assert_close(model(batch).logits_BC, eager(batch).logits_BC, rtol=0, atol=FLOAT_NOISE)


def test_a_bfloat16_backbone_keeps_a_float32_prompt(family):
    model, rows = setup(family, backbone={"name": family, "dtype": "bfloat16"})
    assert {p.dtype for p in model.backbone.parameters()} == {torch.bfloat16}
    assert model.prompt.vectors_PE.dtype == torch.float32
    assert model(rows.batch([0])).logits_BC.dtype == torch.float32


def test_the_backbone_is_frozen_and_in_evaluation_mode_for_good(family):
    model, rows = setup(family)
    model.train()
    assert not model.backbone.model.training
    model(rows.batch([0])).logits_BC.sum().backward()
    assert all(parameter.grad is None for parameter in model.backbone.parameters())
    assert model.prompt.vectors_PE.grad.abs().sum() > 0


def test_insertion_leaves_other_positions_alone():
    embeddings = torch.randn(1, 4, 3)
    prompt = torch.full((1, 2, 3), 7.0)
    placed = insert_prompt(embeddings, prompt, torch.tensor([[-1, 1, -1, 0]]))
    assert torch.equal(placed[0, [0, 2]], embeddings[0, [0, 2]])
    assert (placed[0, [1, 3]] == 7).all()


def test_the_fingerprint_does_not_depend_on_the_dtype_and_sees_one_changed_weight(tiny_bert):
    wide, narrow = (load_backbone(BackboneSettings(name=tiny_bert, dtype=dtype)) for dtype in ("float32", "bfloat16"))
    assert wide.fingerprint() == narrow.fingerprint()
    with torch.no_grad():
        next(iter(narrow.model.parameters()))[3, 3] += 1
    assert wide.fingerprint() != narrow.fingerprint()


def test_a_file_that_lacks_a_weight_is_refused(tiny_bert, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((__import__("pathlib").Path(tiny_bert) / file).read_bytes())
    weights = load_file(f"{tiny_bert}/model.safetensors")
    removed = sorted(weights)[5]
    del weights[removed]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="lacks 1 weights"):
        load_backbone(BackboneSettings(name=str(tmp_path)))


def test_a_model_that_is_not_there_and_a_family_that_is_not_supported_are_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"backbone.name is 'no/such-model'"):
        load_backbone(BackboneSettings(name="no/such-model"))
    (tmp_path / "config.json").write_text('{"model_type": "gpt_neo"}')
    with pytest.raises(ConfigError, match="family 'gpt_neo'"):
        load_backbone(BackboneSettings(name=str(tmp_path)))
