"""Weaknesses seen in other libraries for soft prompts, and for each the tests that fail where this project has it.

Decoder classifiers pool a padded position
    tests/infoprompt/model/test_families.py::test_padding_on_either_side_changes_nothing
    tests/infoprompt/model/test_families.py::test_pooling_finds_its_tokens_on_either_side_of_padding
Encoders pool the first prompt vector in the place of [CLS]
    tests/infoprompt/model/test_backbone_insertion.py::test_pooling_reads_real_tokens_only
    tests/infoprompt/test_peer_weaknesses.py::test_a_prompt_before_the_first_token_is_not_pooled_in_its_place
States are taken for "the second output", which other settings move
    tests/infoprompt/test_peer_weaknesses.py::test_states_are_read_by_name_whatever_else_the_model_returns
A pooler that starts random is neither trained nor saved
    tests/infoprompt/model/test_backbone_insertion.py::test_a_file_that_lacks_a_weight_is_refused
    tests/infoprompt/model/test_families.py::test_loading_again_gives_the_same_model_with_or_without_its_head
    tests/training/test_run.py::test_an_artifact_saved_again_predicts_the_same_to_the_last_bit
Labels of tokens, spans and choices do not fit the longer output
    tests/infoprompt/data/test_template.py::test_places_of_words_and_markers_are_those_of_their_tokens
    tests/infoprompt/data/test_loader.py::test_choices_of_an_example_are_neighbours_with_its_label_on_each
    tests/training/test_kinds_of_task.py::test_a_kind_of_task_is_learnt_kept_and_predicted
    (Answers are not pointed at in the text here; spans are given and classified.)
The language-model head is run on prompt positions
    tests/infoprompt/test_peer_weaknesses.py::test_the_language_model_head_reads_no_more_states_than_it_must
Prompts move the absolute positions of real tokens, and padding is counted as text
    tests/infoprompt/data/test_template.py::test_real_tokens_keep_the_positions_they_have_without_prompt
    tests/infoprompt/model/test_families.py::test_an_input_prompt_equals_embeddings_and_positions_made_by_hand
    tests/infoprompt/model/test_families.py::test_a_prefix_equals_a_cache_that_shifts_no_position
    tests/infoprompt/model/test_families.py::test_a_prefix_equals_two_attentions_told_apart
A text of full length passes the position table
    tests/infoprompt/model/test_families.py::test_a_text_of_full_length_does_not_pass_the_positions
    tests/infoprompt/test_peer_weaknesses.py::test_a_text_of_any_length_fits_beside_every_kind_of_prompt
    tests/infoprompt/data/test_template.py::test_a_prompt_that_leaves_no_room_is_refused
Position ids are dropped, so texts packed into one row see each other
    tests/infoprompt/test_peer_weaknesses.py::test_packing_is_refused
    (Rows are never packed: a row is one text, with positions of its own.)
Left padding changes outputs
    tests/infoprompt/model/test_families.py::test_padding_on_either_side_changes_nothing
    tests/infoprompt/model/test_families.py::test_a_prefix_is_each_examples_own_on_either_side_of_padding
Token types are dropped
    tests/infoprompt/model/test_families.py::test_the_mask_stays_whole_and_token_types_are_kept
    tests/infoprompt/test_peft_folder.py::test_a_pair_keeps_its_segments
The attention mask becomes a float
    tests/infoprompt/model/test_families.py::test_the_mask_stays_whole_and_token_types_are_kept
A prefix that travels in the cache of keys and values is lost under checkpointing and in models without a cache
    tests/infoprompt/model/test_families.py::test_a_prefix_equals_two_attentions_told_apart
    tests/infoprompt/model/test_families.py::test_checkpointing_changes_neither_states_nor_gradients_and_keeps_less
    tests/infoprompt/model/test_families.py::test_two_passes_before_two_backwards_do_not_mix
    tests/infoprompt/model/test_families.py::test_what_a_family_cannot_do_is_refused_before_its_weights_are_read
    tests/infoprompt/test_peer_weaknesses.py::test_checkpointing_that_others_switch_on_loses_no_prefix
Static caches do not count prompt vectors
    tests/infoprompt/test_peer_weaknesses.py::test_no_pass_reads_or_makes_a_cache
    (Nothing is generated token by token: texts are scored in one pass.)
Models that look token ids up in every layer cannot read embeddings alone
    tests/infoprompt/test_peer_weaknesses.py::test_families_that_need_token_ids_are_refused_by_name
Word embeddings of another width than the layers crash
    tests/infoprompt/model/test_families.py::test_the_table_is_what_embedding_gives_in_the_prompts_width
The word embeddings are guessed by the vocabulary's size
    tests/infoprompt/model/test_families.py::test_rows_of_the_table_need_not_be_the_configured_number
Vectors start at another scale than the embeddings that the first layer sees
    tests/infoprompt/model/test_prompts.py::test_input_vectors_start_at_the_size_of_word_embeddings
    tests/infoprompt/test_peer_weaknesses.py::test_vectors_start_at_the_size_that_the_first_layer_sees
The same prompt is copied, and its network run, for each row
    tests/infoprompt/test_peer_weaknesses.py::test_a_prompt_for_all_rows_is_made_and_kept_once
Saving under ZeRO-3 waits for ever, for the first rank alone gathers
    tests/distributed/test_engines.py::test_a_resumed_run_equals_an_uninterrupted_one_and_states_change_engine_and_ranks
    tests/distributed/test_kinds_under_engines.py::test_every_kind_has_the_curve_of_plain_torch_on_one_process
Checkpoints hold the frozen backbone
    tests/training/test_run.py::test_neither_artifact_nor_resume_state_holds_the_backbone
    tests/infoprompt/test_plain_engine.py::test_a_state_holds_what_is_trained_and_nothing_else
Different prompts in one batch are silently ignored
    tests/infoprompt/test_artifact_set.py::test_any_mixture_gives_what_each_artifact_gives_alone
    tests/infoprompt/test_artifact_set.py::test_names_must_be_known_and_as_many_as_examples
Unknown settings and values are accepted
    tests/infoprompt/test_config.py::test_errors_name_setting_value_rule_and_way_out
    tests/infoprompt/model/test_prompts.py::test_bad_settings_of_a_kind_are_refused_by_name
    tests/infoprompt/test_peft_folder.py::test_what_peft_cannot_express_is_refused_by_name
Trainers and losses that call the backbone themselves skip the prompt
    tests/infoprompt/test_peer_weaknesses.py::test_training_evaluation_and_prediction_all_see_the_prompt
    tests/infoprompt/test_peer_weaknesses.py::test_only_the_model_calls_the_backbone
"""

import ast
import re
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from transformers import AutoModel

from infoprompt.config import BackboneSettings, ConfigError, build_config
from infoprompt.data.rows import Example
from infoprompt.engine.plain_engine import PlainEngine
from infoprompt.engine.ranks import start_ranks
from infoprompt.model.backbone import backbone as language_model
from infoprompt.model.backbone.load import load_backbone
from infoprompt.model.build import build_member
from infoprompt.model.shared import SharedModel

ROOT = Path(__file__).parents[2]
TEXTS = ["the film was good", "it was a bad movie and the engine of the car was lost", "great"]
STATIC = {"kind": "static", "init": "random", "length": 3}
PREFIX = {"kind": "prefix", "length": 3}
FLOAT_NOISE = 2e-5  # float32 sums of another order


def test_every_test_of_the_list_exists():
    listed = re.findall(r"^    (tests/\S+)::(\w+)$", __doc__, re.MULTILINE)
    weaknesses = re.findall(r"^[A-Z]", __doc__.split("\n\n", 1)[1], re.MULTILINE)
    assert len(weaknesses) == 24
    defined = {path: _functions(path) for path, _ in listed}
    assert [f"{path}::{name}" for path, name in listed if name not in defined[path]] == []


def _functions(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


# ---- outputs


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_prompt_before_the_first_token_is_not_pooled_in_its_place(family, tiny_backbones, make_artifact):
    prompt = {**STATIC, "template": "before"}
    artifact = make_artifact(tiny_backbones[family], prompt=prompt, head={"kind": "linear", "pooling": "first"})
    batch = artifact.read(TEXTS[:1]).batch([0])
    assert batch.slot_BL[0, :4].tolist() == [0, 1, 2, -1]
    vectors, backbone = artifact.model.prompt.vectors_PE, artifact.model.backbone
    embeddings = torch.cat([vectors[None], backbone.embed(batch.input_ids_BL[:, 3:])], 1)
    states = AutoModel.from_pretrained(backbone.name).eval()(inputs_embeds=embeddings).last_hidden_state
    torch.testing.assert_close(artifact.model(batch).pooled_BD, states[:, 3], rtol=0, atol=FLOAT_NOISE)


@pytest.mark.parametrize("family", ["roberta", "gpt2", "t5"])
def test_states_are_read_by_name_whatever_else_the_model_returns(family, tiny_backbones, make_artifact):
    artifact = make_artifact(tiny_backbones[family], prompt=PREFIX, head={"kind": "linear", "pooling": "mean"})
    before = artifact.probabilities([Example(text=text) for text in TEXTS])
    artifact.model.backbone.config.output_hidden_states = True
    assert torch.equal(artifact.probabilities([Example(text=text) for text in TEXTS]), before)


@pytest.mark.parametrize(("family", "head", "pooling"), [("bert", "label_words", "mask"), ("llama", "text", "last")])
def test_the_language_model_head_reads_no_more_states_than_it_must(
    family, head, pooling, tiny_backbones, make_artifact
):
    artifact = make_artifact(tiny_backbones[family], prompt=STATIC, head={"kind": head, "pooling": pooling})
    backbone, sizes = artifact.model.backbone, []
    if family == "bert":
        module = backbone.model.cls.predictions.transform
        module.register_forward_hook(lambda module, args, output: sizes.append(args[0].shape[:-1].numel()))
    head_loss = language_model.frozen_linear_cross_entropy
    with mock.patch.object(language_model, "frozen_linear_cross_entropy", wraps=head_loss) as text_head:
        artifact.predict(TEXTS)
    sizes += [len(call.args[0]) for call in text_head.call_args_list]
    tokens = 1 if family == "bert" else sum(len(ids) for ids in artifact.model.head.token_ids)
    assert sizes == [len(TEXTS) * tokens]


# ---- positions


@pytest.mark.parametrize(
    "prompt",
    [PREFIX, *({**STATIC, "template": template} for template in ("warp", "front", "before")), {"kind": "lpt"}],
    ids=str,
)
def test_a_text_of_any_length_fits_beside_every_kind_of_prompt(prompt, tiny_backbones, make_artifact):
    artifact = make_artifact(tiny_backbones["roberta"], prompt=prompt, head={"kind": "linear", "pooling": "last"})
    rows = artifact.read([" ".join(["film"] * 500)])
    assert len(rows.texts[0].input_ids) == 64
    # the last token that a text ends with is kept when the text is cut
    assert rows.texts[0].input_ids[-1] == artifact.model.backbone.tokenizer.sep_token_id
    assert torch.isfinite(artifact.model(rows.batch([0])).logits_BC).all()


@pytest.mark.parametrize("setting", ["packing", "padding_free"])
def test_packing_is_refused(setting):
    with pytest.raises(ConfigError, match=rf"data\.{setting} is not a known setting"):
        build_config({"data": {setting: True}})


# ---- what goes through the layers


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")  # since 5.23
def test_checkpointing_that_others_switch_on_loses_no_prefix(tiny_bert, make_artifact):
    artifact = make_artifact(tiny_bert, prompt=PREFIX, head={"kind": "linear", "pooling": "mean"})
    model, batch = artifact.model, artifact.read(TEXTS).batch([0, 1, 2])
    results = []
    for switched_on in (False, True):
        if switched_on:
            model.backbone.model.gradient_checkpointing_enable()
        model.train()
        model.zero_grad()
        encoding = model(batch)
        encoding.logits_BC.square().sum().backward()
        results.append((encoding.logits_BC, model.prompt.table_N2HPK.grad.clone()))
    for plain, checkpointed in zip(*results, strict=True):
        torch.testing.assert_close(checkpointed, plain)
    assert results[0][1].abs().max() > 0


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "t5", "bart"])
def test_no_pass_reads_or_makes_a_cache(family, tiny_backbones, make_artifact):
    artifact = make_artifact(tiny_backbones[family], prompt=PREFIX, head={"kind": "text", "pooling": "last"})
    backbone, calls = artifact.model.backbone, []

    def seen(module, args, given, output):
        calls.append((given.get("past_key_values"), output.get("past_key_values")))

    parts = [backbone.body] if backbone.kind == "decoder" else [backbone.body, backbone.model.get_decoder()]
    for part in parts:
        part.register_forward_hook(seen, with_kwargs=True)
    artifact.predict(TEXTS)
    assert len(calls) == (1 if backbone.kind == "decoder" else 1 + len(artifact.task.labels))
    assert set(calls) == {(None, None)}


@pytest.mark.parametrize("family", ["gemma3n_text", "gemma4_text"])
def test_families_that_need_token_ids_are_refused_by_name(family, tmp_path):
    (tmp_path / "config.json").write_text(f'{{"model_type": "{family}"}}')  # and no weights
    with pytest.raises(ConfigError, match=rf"of the family '{family}'"):
        load_backbone(BackboneSettings(name=str(tmp_path)))


# ---- where vectors start, and how often they are made


@pytest.mark.parametrize("init", ["random", "vocabulary", "labels"])
@pytest.mark.parametrize("family", ["bert", "albert", "gemma", "gemma3_text", "bart"])  # the last three scale
def test_vectors_start_at_the_size_that_the_first_layer_sees(family, init, tiny_backbones, make_artifact):
    artifact = make_artifact(tiny_backbones[family], prompt=STATIC, head={"kind": "linear", "pooling": "mean"})
    config = build_config({**artifact.config.model_dump(), "prompt": {**STATIC, "length": 20, "init": init}})
    backbone = artifact.model.backbone
    vectors = build_member(config, backbone, artifact.task).prompt.vectors()
    seen = backbone.embed(artifact.read(TEXTS).batch([1]).input_ids_BL)
    assert 0.5 < vectors.norm(dim=-1).mean() / seen.norm(dim=-1).mean() < 2


@pytest.mark.parametrize("kind", ["static", "residual", "p_tuning", "prefix"])
def test_a_prompt_for_all_rows_is_made_and_kept_once(kind, tiny_bert, make_artifact):
    prompt = {"kind": kind, "length": 3}
    artifact = make_artifact(tiny_bert, prompt=prompt, head={"kind": "linear", "pooling": "mean"})
    own, read = artifact.model.prompt, []
    for module in own.modules():
        module.register_forward_hook(lambda module, args, output: read.append(args[0]))
    parts = own(artifact.read(TEXTS).batch([0, 1, 2]))
    assert all(inputs.numel() <= 3 * 64 for inputs in read if isinstance(inputs, torch.Tensor))
    if kind == "prefix":
        assert {tensor.shape[0] for pair in parts.deep.prefix for tensor in pair} == {1}
    else:
        assert parts.input_BPE.shape[0] == 3
        assert parts.input_BPE.stride(0) == 0


# ---- who calls the backbone


@pytest.mark.parametrize("prompt", [STATIC, PREFIX], ids=lambda prompt: prompt["kind"])
def test_training_evaluation_and_prediction_all_see_the_prompt(prompt, tiny_bert, make_artifact):
    artifact = make_artifact(tiny_bert, prompt=prompt, head={"kind": "linear", "pooling": "mean"})
    config = build_config({**artifact.config.model_dump(), "engine": {"kind": "plain", "device": "cpu"}})
    engine = PlainEngine(SharedModel([artifact.model]), [config], start_ranks(config.engine))
    batch = replace(artifact.read(TEXTS).batch([0, 1, 2]), label_B=torch.tensor([0, 1, 2]))

    def scores() -> list[torch.Tensor]:
        found = [list(prediction.probabilities.values()) for prediction in artifact.predict(TEXTS)]
        return [engine.forward({0: batch})[0].logits_BC, engine.infer({0: batch})[0].logits_BC, torch.tensor(found)]

    before = scores()
    before[0].sum().backward()
    (vectors,) = artifact.model.prompt.parameters()
    assert vectors.grad.abs().max() > 0
    with torch.no_grad():
        vectors.add_(torch.randn_like(vectors))
    for old, new in zip(before, scores(), strict=True):
        assert (old - new).abs().max() > 1e-3


def test_only_the_model_calls_the_backbone():
    callers = set()
    for file in (ROOT / "infoprompt").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            called = getattr(node, "func", None)
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", None)
            if name == "backbone":
                callers.add(str(file.relative_to(ROOT)))
    assert callers == {"infoprompt/model/shared.py"}
