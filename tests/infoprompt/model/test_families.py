"""Every family and every way in: a yes in configs/BACKBONES.md is a test here that passes, a no a refusal.

The yardsticks are transformers' own models, called with arguments worked out here; each test names a failure seen in
other tools. Texts are rows of token ids, in which "s0", "s1" stand for prompt slots.
"""

import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    DynamicCache,
)
from transformers.masking_utils import sdpa_mask
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from infoprompt.config import BackboneSettings, ConfigError
from infoprompt.data.batch import Batch
from infoprompt.model.backbone.attention import IMPLEMENTATIONS
from infoprompt.model.backbone.families import FAMILIES, NEEDS, capability_table, check_family
from infoprompt.model.backbone.load import load_backbone
from infoprompt.model.insert import insert_prompt, pool, pooled_BL
from infoprompt.model.prompts.kind import DeepPrompt

FLOAT_NOISE = 5e-5  # float32 sums of another order, through three layers of large random weights
NOT_FLOAT_NOISE = 1e-2
TEXTS = [[30, 41, "s0", 52, 33, "s1", 64], [35, "s0", "s1", 46], [37, 48, 39, 60, 31, 42, 53, "s0", 34, "s1", 45, 56]]
SLOTS = 2
EVERY = list(FAMILIES)
DECODERS = [name for name, family in FAMILIES.items() if family.kind == "decoder"]
ENCODER_DECODERS = [name for name, family in FAMILIES.items() if family.kind == "encoder-decoder"]


def able(need):
    return [name for name, family in FAMILIES.items() if need not in family.cannot]


@pytest.fixture(scope="session")
def load(tiny_backbones):
    @cache
    def loaded(family, **settings):
        lm_head = settings.pop("lm_head", False)
        return load_backbone(BackboneSettings(name=tiny_backbones[family], **settings), lm_head=lm_head)

    return loaded


def batch_of(texts, side="right"):
    """The batch of texts with slots, padded on a side."""
    longest = max(len(text) for text in texts)
    columns = {"ids": [], "slots": [], "real": [], "positions": []}
    for text in texts:
        slots = [int(item[1:]) if isinstance(item, str) else -1 for item in text]
        positions, position = [], -1
        for slot in slots:
            position += slot < 0
            positions.append(max(position, 0))
        row = {"ids": [0 if isinstance(item, str) else item for item in text], "slots": slots}
        row |= {"real": [slot < 0 for slot in slots], "positions": positions}
        for name, fill in {"ids": 0, "slots": -1, "real": False, "positions": 0}.items():
            padding = [fill] * (longest - len(text))
            columns[name].append(padding + row[name] if side == "left" else row[name] + padding)
    ids, slots, real, positions = (torch.tensor(column) for column in columns.values())
    none = torch.zeros(len(texts), dtype=torch.long)
    return Batch(ids, slots, real, positions, torch.zeros_like(ids), none, none, none)


def without_slots(texts):
    return [[item for item in text if not isinstance(item, str)] for text in texts]


def draws(*shape, seed=1, scale=1.0):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale).requires_grad_()


def input_vectors(backbone, rows=3):
    scale = backbone.embedding_table().std().item()
    return draws(rows, SLOTS, backbone.embedding_size, scale=scale)


def prefix_of(backbone, rows=1, size=3):
    shape = (rows, backbone.num_kv_heads, size, backbone.head_size)
    return tuple((draws(*shape, seed=layer), draws(*shape, seed=99 + layer)) for layer in range(backbone.num_layers))


def embedded(backbone, batch, vectors=None):
    embeddings = backbone.embed(batch.input_ids_BL)
    return embeddings if vectors is None else insert_prompt(embeddings, vectors, batch.slot_BL)


def run(backbone, batch, vectors=None, deep=None):
    """States of real tokens alone, example after example."""
    return backbone(embedded(backbone, batch, vectors), batch, deep)[batch.real_BL]


def reference(backbone, **changes):
    """transformers' own model of the same weights, and of an encoder-decoder its encoder."""
    model = AutoModel.from_pretrained(backbone.name, attn_implementation="eager", **changes).eval()
    return model.get_encoder() if backbone.kind == "encoder-decoder" else model


def reference_with_head(backbone):
    """transformers' own model of the same weights that predicts words."""
    kinds = {"encoder": AutoModelForMaskedLM, "decoder": AutoModelForCausalLM, "encoder-decoder": AutoModelForSeq2SeqLM}
    return kinds[backbone.kind].from_pretrained(backbone.name).eval()


def close(left, right, tolerance=FLOAT_NOISE):
    torch.testing.assert_close(left, right, rtol=0, atol=tolerance)


# ---- input prompts


@pytest.mark.parametrize("name", EVERY)
def test_the_plain_pass_is_the_models_own(load, name):
    backbone = load(name)
    text = without_slots(TEXTS)[2]
    with torch.no_grad():
        expected = reference(backbone)(input_ids=torch.tensor([text])).last_hidden_state[0]
        close(run(backbone, batch_of([text])), expected)


@pytest.mark.parametrize("name", EVERY)
def test_an_input_prompt_equals_embeddings_and_positions_made_by_hand(load, name):
    backbone, batch = load(name), batch_of(TEXTS[2:])
    model, table = reference(backbone), reference(backbone).get_input_embeddings()
    vectors = input_vectors(backbone, 1)
    rows = [vectors[0, int(item[1:])] if isinstance(item, str) else table(torch.tensor(item)) for item in TEXTS[2]]
    arguments = {"inputs_embeds": torch.stack(rows)[None]}
    positions = torch.tensor([0, 1, 2, 3, 4, 5, 6, 6, 7, 7, 8, 9])  # by eye
    how = FAMILIES[name].positions
    if how in ("given", "distances"):
        arguments["position_ids"] = positions[None] + (
            model.config.pad_token_id + 1 if FAMILIES[name].after_padding else 0
        )
    if how == "learned_by_index":  # take the table's row at the index away, and put that at the position
        rows = model.embed_positions.weight[model.embed_positions.offset :]
        arguments["inputs_embeds"] = arguments["inputs_embeds"] + rows[positions] - rows[: len(positions)]
    if how == "bias_by_index":
        attention = model.block[0].layer[0].SelfAttention
        by_distance = attention.compute_bias(41, 41)[0, :, 20]  # of the distances -20 to 20
        bias = by_distance[:, (positions[None, :] - positions[:, None]) + 20]
        attention.compute_bias = lambda *args, **kwargs: bias[None]
    if how == "distances":
        away = make_log_bucket_position(positions[:, None] - positions[None, :], 8, 64).long()
        model.encoder.get_rel_pos = lambda *args: away[None]
    if FAMILIES[name].window != "none":  # their windows are counted in indices; here there are none
        model.config.sliding_window = 1000
    wide = reference_window(backbone)
    expected = model(**arguments).last_hidden_state[0][batch.real_BL[0]]
    with wide:
        close(run(backbone, batch, vectors), expected)


def reference_window(backbone):
    """Context in which the backbone's window is as wide as the yardstick's."""
    if FAMILIES[backbone.config.model_type].window == "none":
        return pytest.MonkeyPatch().context()
    patch = pytest.MonkeyPatch()
    patch.setattr(backbone.config, "sliding_window", 1000)
    for module in backbone.model.modules():
        if getattr(module, "sliding_window", None):
            patch.setattr(module, "sliding_window", 1000)

    class Wide:
        def __enter__(self):
            return patch

        def __exit__(self, *_):
            patch.undo()

    return Wide()


@pytest.mark.parametrize("name", [name for name in EVERY if FAMILIES[name].window != "none"])
def test_windows_are_the_models_own_and_slots_do_not_narrow_them(load, name):
    backbone = load(name)
    plain, gap = [*range(30, 42)], [30, 31, 32, 33, "s0", "s1", *range(34, 42)]
    with torch.no_grad():
        own = reference(backbone)(input_ids=torch.tensor([plain])).last_hidden_state[0]
        wide = reference(backbone)
        wide.config.sliding_window = 1000
        unlimited = wide(input_ids=torch.tensor([plain])).last_hidden_state[0]
        assert (own - unlimited).abs().max() > NOT_FLOAT_NOISE, "this text does not pass the window"
        unseen = DeepPrompt(first_layer=backbone.num_layers)
        close(run(backbone, batch_of([plain])), own)
        close(run(backbone, batch_of([gap]), deep=unseen), own)


@pytest.mark.parametrize("name", EVERY)
def test_padding_on_either_side_changes_nothing(load, name):
    backbone = load(name)
    vectors = input_vectors(backbone)
    rows = range(len(TEXTS))
    alone = torch.cat([run(backbone, batch_of([TEXTS[row]]), vectors[row : row + 1]) for row in rows])
    for side in ("right", "left"):
        close(run(backbone, batch_of(TEXTS, side), vectors), alone)


@pytest.mark.parametrize("name", EVERY)
def test_fused_and_written_out_attention_agree(load, name):
    fused, written = load(name), load(name, attention="eager")
    batch, vectors = batch_of(TEXTS), input_vectors(fused)
    deep = DeepPrompt(prefix=prefix_of(fused), adapter_kv=prefix_of(fused, size=2)) if name in able("prefix") else None
    close(run(fused, batch, vectors, deep), run(written, batch, vectors, deep))


@pytest.mark.parametrize("name", EVERY)
def test_the_mask_stays_whole_and_token_types_are_kept(load, name):
    backbone, seen = load(name), {}
    hook = backbone.body.register_forward_pre_hook(lambda _, args, given: seen.update(given), with_kwargs=True)
    batch = batch_of(TEXTS)
    second = replace(batch, token_type_BL=torch.ones_like(batch.token_type_BL))
    states = [run(backbone, either) for either in (batch, second)]
    hook.remove()
    masks = seen["attention_mask"]
    for mask in masks.values() if isinstance(masks, dict) else [masks]:
        assert mask.dtype in (torch.int64, torch.bool)
    reads_types = backbone.num_segments > 1
    assert ("token_type_ids" in seen) == FAMILIES[name].segments
    assert ((states[0] - states[1]).abs().max() > NOT_FLOAT_NOISE) == reads_types


@pytest.mark.parametrize("name", EVERY)
def test_a_text_of_full_length_does_not_pass_the_positions(load, name):
    backbone = load(name)
    text = [30 + item % 20 for item in range(backbone.max_length - 1)]
    assert backbone.max_length == 64
    assert torch.isfinite(run(backbone, batch_of([[*text[:40], "s0", *text[40:]]]))).all()


@pytest.mark.parametrize("name", EVERY)
def test_the_table_is_what_embedding_gives_in_the_prompts_width(load, name):
    backbone = load(name)
    table = backbone.embedding_table()
    close(table, backbone.embed(torch.arange(len(table))).detach(), 1e-6)
    assert table.shape[1] == backbone.embedding_size


@pytest.mark.parametrize("name", EVERY)
def test_rows_of_the_table_need_not_be_the_configured_number(load, name, monkeypatch):
    backbone = load(name)
    before = run(backbone, batch_of(TEXTS))
    monkeypatch.setattr(backbone.config, "vocab_size", 7)
    close(run(backbone, batch_of(TEXTS)), before, 0)
    assert len(backbone.embedding_table()) > 7


@pytest.mark.parametrize("name", EVERY)
def test_there_is_a_padding_id_within_the_table(load, name):
    backbone = load(name)
    assert 0 <= backbone.tokenizer.pad_token_id < len(backbone.embedding_table())


# ---- keys and values before the text's own


def told_apart_attention(place, prefixes):
    """Attention with a prefix as a mean of two attentions, each weighted by its normaliser, or as their sum.

    Source: He et al. 2022 (arXiv:2110.04366), equation 7. The prefixes are given layer by layer as they are called.
    """
    order = iter(prefixes)

    def attend(module, query, key, value, mask, scaling=None, softcap=None, position_bias=None, **_):
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        parts = []
        for keys, values, seen, bias in ((key, value, mask, position_bias), (*next(order), None, None)):
            group = query.shape[1] // keys.shape[1]
            scores = torch.einsum(
                "bhqd,bhkd->bhqk", query, keys.repeat_interleave(group, 1).expand(len(query), -1, -1, -1)
            )
            scores = scores * scaling
            scores = (
                softcap * (scores / softcap).tanh() if softcap and (seen is not None or place == "prefix") else scores
            )
            scores = scores if bias is None else scores + bias
            scores = scores if seen is None else scores.where(seen, -torch.inf)
            mean = scores.softmax(-1) @ values.repeat_interleave(group, 1).expand(len(query), -1, -1, -1)
            parts.append((scores.logsumexp(-1, keepdim=True), mean))
        (text, of_text), (prefix, of_prefix) = parts
        if place == "adapter_kv":
            return (of_text + of_prefix).transpose(1, 2), None
        share = torch.sigmoid(prefix - text)
        return ((1 - share) * of_text + share * of_prefix).transpose(1, 2), None

    return attend


@pytest.mark.parametrize("place", ["prefix", "adapter_kv"])
@pytest.mark.parametrize("name", able("prefix"))
def test_a_prefix_equals_two_attentions_told_apart(load, name, place):
    backbone, text = load(name), without_slots(TEXTS)[2]
    prefix = prefix_of(backbone)
    AttentionInterface.register("told_apart", told_apart_attention(place, prefix))
    AttentionMaskInterface.register("told_apart", lambda **given: sdpa_mask(**{**given, "allow_is_causal_skip": False}))
    model = AutoModel.from_pretrained(
        backbone.name, attn_implementation=None if name == "deberta-v2" else "told_apart"
    ).eval()
    model = model.get_encoder() if backbone.kind == "encoder-decoder" else model
    if name == "deberta-v2":
        with_deberta_scores(model, told_apart_attention(place, prefix))
    expected = model(input_ids=torch.tensor([text])).last_hidden_state[0]
    close(run(backbone, batch_of([text]), deep=DeepPrompt(**{place: prefix})), expected)


@pytest.mark.parametrize("name", able("prefix"))
def test_keys_and_values_apart_change_nothing_while_the_values_are_zero(load, name):
    backbone, batch = load(name), batch_of(TEXTS)
    zeros = tuple((keys, torch.zeros_like(values)) for keys, values in prefix_of(backbone))
    close(run(backbone, batch, deep=DeepPrompt(adapter_kv=zeros)), run(backbone, batch))


def with_deberta_scores(model, attend):
    """Have DeBERTa, which knows no registered attention, use one with its own scores of distances."""
    for layer in model.encoder.layer:
        own = layer.attention.self

        def forward(states, mask, *_, own=own, relative_pos=None, rel_embeddings=None, **__):
            heads = own.num_attention_heads
            parts = [
                own.transpose_for_scores(project(states), heads)
                for project in (own.query_proj, own.key_proj, own.value_proj)
            ]
            bias = own.disentangled_attention_bias(*parts[:2], relative_pos, rel_embeddings, 3)
            query, key, value = (part.unflatten(0, (-1, heads)) for part in parts)
            scaling = (3 * query.shape[-1]) ** -0.5
            output, _ = attend(
                own, query, key, value, mask.bool(), scaling, position_bias=bias.unflatten(0, (-1, heads))
            )
            return output.flatten(2), None

        own.forward = forward


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma"])
def test_a_prefix_equals_a_cache_that_shifts_no_position(load, name):
    backbone, text = load(name), without_slots(TEXTS)[2]
    prefix = prefix_of(backbone)
    model, past = reference(backbone), DynamicCache()
    for layer, (keys, values) in enumerate(prefix):
        past.update(keys, values, layer)
    positions = torch.arange(len(text))[None]
    expected = model(input_ids=torch.tensor([text]), past_key_values=past, position_ids=positions).last_hidden_state[0]
    close(run(backbone, batch_of([text]), deep=DeepPrompt(prefix=prefix)), expected)


@pytest.mark.parametrize("place", ["prefix", "adapter_kv"])
@pytest.mark.parametrize("name", able("prefix"))
def test_a_prefix_is_each_examples_own_on_either_side_of_padding(load, name, place):
    backbone = load(name)
    prefix = prefix_of(backbone, rows=len(TEXTS))
    alone = [
        run(backbone, batch_of([text]), deep=DeepPrompt(**{place: tuple((k[i, None], v[i, None]) for k, v in prefix)}))
        for i, text in enumerate(TEXTS)
    ]
    for side in ("right", "left"):
        close(run(backbone, batch_of(TEXTS, side), deep=DeepPrompt(**{place: prefix})), torch.cat(alone))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", able("prefix"))
@pytest.mark.parametrize("place", ["prefix", "adapter_kv"])
def test_prefixes_of_different_lengths_do_as_each_alone(load, name, attention, place):
    backbone, sizes = load(name, attention=attention), [3, 1, 2]
    prefix = prefix_of(backbone)
    seen = torch.arange(3) < torch.tensor(sizes)[:, None]
    together = run(
        backbone, batch_of(TEXTS), deep=DeepPrompt(**{place: prefix, f"{place.removesuffix('_kv')}_seen_BP": seen})
    )
    alone = [
        run(
            backbone,
            batch_of([text]),
            deep=DeepPrompt(**{place: tuple((k[:, :, :size], v[:, :, :size]) for k, v in prefix)}),
        )
        for text, size in zip(TEXTS, sizes, strict=True)
    ]
    close(together, torch.cat(alone))


# ---- between the layers


@pytest.mark.parametrize("name", able("layers"))
def test_slots_that_nobody_sees_change_no_real_token(load, name):
    backbone, unseen = load(name), {}

    def keep(states, batch):
        unseen["states"] = states[batch.real_BL]
        return states.new_zeros(len(batch), SLOTS, states.shape[-1])

    last = backbone.num_layers - 1
    plain = batch_of(without_slots(TEXTS))
    given = reference(backbone)(
        inputs_embeds=reference(backbone).get_input_embeddings()(plain.input_ids_BL[:1, :5]), output_hidden_states=True
    ).hidden_states[last][0]
    for side in ("right", "left"):
        batch = batch_of(TEXTS, side)
        run(backbone, batch, input_vectors(backbone), DeepPrompt(layers={last: keep}, first_layer=last))
        close(unseen["states"][:5], given)
        never = run(backbone, batch, input_vectors(backbone), DeepPrompt(first_layer=backbone.num_layers))
        close(never, run(backbone, plain))


@pytest.mark.parametrize("name", able("layers"))
def test_the_vectors_of_a_layer_take_the_slots_places_or_are_added(load, name):
    backbone, batch, seen = load(name, unpadded=False), batch_of(TEXTS), {}
    vectors = draws(len(TEXTS), SLOTS, backbone.hidden_size)
    last = backbone.num_layers - 1
    hook = backbone.layers[-1].register_forward_hook(lambda _, args, output: seen.update(entered=args[0]))

    def entered(deep):
        run(backbone, batch, input_vectors(backbone), deep)
        return seen["entered"].detach()

    before, put, added = (
        entered(deep)
        for deep in (
            None,
            DeepPrompt(layers={last: lambda *_: vectors}),
            DeepPrompt(layers={last: lambda *_: vectors}, adds=True),
        )
    )
    hook.remove()
    assert torch.equal(put[batch.slot_BL < 0], before[batch.slot_BL < 0])
    assert torch.equal(put[0, [2, 5]], vectors[0].detach())
    close(added - before, put * (batch.slot_BL >= 0).unsqueeze(-1))


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "t5"])  # nothing happens between input and first layer
def test_vectors_at_the_first_layer_equal_vectors_at_the_input(load, name):
    backbone, batch, vectors = load(name), batch_of(TEXTS), input_vectors(load(name))
    deep = DeepPrompt(layers={0: lambda *_: vectors})
    close(run(backbone, batch, deep=deep), run(backbone, batch, vectors))


# ---- gradients


def everything(backbone, name, batch):
    """A prompt at every place that the family offers; what is trained, and the states."""
    trained = [input_vectors(backbone)]
    parts = {}
    if name in able("prefix"):
        parts |= {"prefix": prefix_of(backbone), "adapter_kv": prefix_of(backbone, size=2)}
        trained += [tensor for pair in (*parts["prefix"], *parts["adapter_kv"]) for tensor in pair]
    if name in able("layers"):
        vectors = draws(len(TEXTS), SLOTS, backbone.hidden_size, seed=7)
        trained.append(vectors)
        parts["layers"] = {1: lambda states, batch: vectors * pool(states, batch, "mean")[:, None, :1]}
        parts["adds"] = True
    return trained, lambda: run(backbone, batch, trained[0], DeepPrompt(**parts))


# ---- without padding

PACKS = [name for name, family in FAMILIES.items() if family.packs]
SKIPS = [name for name, family in FAMILIES.items() if family.last_layer]


def deep_of(backbone, name):
    """A prompt below the input of each of the three texts, at every place that the family offers."""
    parts = {}
    if name in able("prefix"):
        parts |= {"prefix": prefix_of(backbone, rows=3), "adapter_kv": prefix_of(backbone, size=2)}
    if name in able("layers"):
        vectors = draws(3, SLOTS, backbone.hidden_size, seed=7)
        parts |= {"layers": {1: lambda states, batch: vectors + pool(states, batch, "mean")[:, None]}, "first_layer": 1}
    return DeepPrompt(**parts)


def unlike_texts(seed):
    """Three texts of 4 to 29 positions, slots at places of their own; all of one length for seed 0."""
    source = random.Random(seed)
    texts = [[source.randrange(5, 90) for _ in range(source.randrange(4, 30) if seed else 16)] for _ in range(3)]
    for text in texts:
        for slot, place in enumerate(sorted(source.sample(range(1, len(text)), SLOTS))):
            text[place] = f"s{slot}"
    return texts


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", PACKS)
def test_a_pass_without_padding_equals_one_with_it(load, name, attention):
    padded, packed = (load(name, attention=attention, unpadded=unpadded) for unpadded in (False, True))
    for seed, side in enumerate(("right", "right", "left")):
        batch, found = batch_of(unlike_texts(seed), side), []
        for backbone in (padded, packed):
            vectors, deep = input_vectors(backbone), deep_of(backbone, name)
            states = run(backbone, batch, vectors, deep)
            prefix = [tensor for pair in deep.prefix for tensor in pair]
            found.append([states, *torch.autograd.grad(loss_of(states), [vectors, *prefix])])
        for ours, theirs in zip(*found, strict=True):
            close(ours, theirs, 2e-6 * max(1.0, float(theirs.detach().abs().max())))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", PACKS)
def test_without_padding_an_example_does_not_depend_on_its_neighbours(load, name, dtype):
    backbone = load(name, dtype=dtype, unpadded=True)
    texts = unlike_texts(3)

    def of_first(texts):
        batch, vectors = batch_of(texts), input_vectors(backbone)
        keys = [keys.detach().requires_grad_() for keys, _ in prefix_of(backbone, rows=3)]
        prefix = [
            (own, values[: len(texts)]) for own, (_, values) in zip(keys, prefix_of(backbone, rows=3), strict=True)
        ]
        deep = DeepPrompt(prefix=tuple((own[: len(texts)], values) for own, values in prefix))
        states = run(backbone, batch, vectors[: len(texts)], deep)[: len(texts[0]) - SLOTS]
        gradients = torch.autograd.grad(loss_of(states.float()), [vectors, *keys])
        return [states.detach(), *(gradient[0] for gradient in gradients)]

    alone = of_first(texts[:1])
    for neighbours in (texts, [texts[0], texts[2]], [texts[0], texts[0], texts[1]]):
        assert all(torch.equal(*pair) for pair in zip(alone, of_first(neighbours), strict=True))


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("name", SKIPS)
def test_leaving_out_what_is_not_read_changes_nothing(load, name, gradient_checkpointing):
    settings = {"unpadded": True, "gradient_checkpointing": gradient_checkpointing}
    everything, some = (load(name, skip_unread=skip_unread, **settings) for skip_unread in (False, True))
    assert some.skips_unread
    batch = batch_of(unlike_texts(1), "left")
    for pooling in ("first", "last", "mean"):
        read_BL, found = pooled_BL(batch, pooling), []
        for backbone in (everything, some):
            vectors, deep = input_vectors(backbone), deep_of(backbone, name)
            states_BLD = backbone(embedded(backbone, batch, vectors), batch, deep, read_BL)
            prefix = [tensor for pair in deep.prefix for tensor in pair]
            found.append([states_BLD[read_BL], *torch.autograd.grad(loss_of(states_BLD[read_BL]), [vectors, *prefix])])
        assert not states_BLD[~read_BL].any()
        for ours, theirs in zip(*found, strict=True):
            close(ours, theirs, 2e-6 * max(1.0, float(theirs.detach().abs().max())))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SKIPS)
def test_what_is_read_of_an_example_does_not_depend_on_its_neighbours(load, name, dtype):
    backbone, texts = load(name, dtype=dtype, unpadded=True), unlike_texts(3)

    def of_first(texts):
        batch, vectors = batch_of(texts), input_vectors(backbone, rows=20)
        states_BLD = backbone(embedded(backbone, batch, vectors[: len(texts)]), batch, None, pooled_BL(batch, "first"))
        state_D = states_BLD[0, 0].float()
        return state_D.detach(), torch.autograd.grad(loss_of(state_D), vectors)[0][0]

    alone = of_first(texts[:1])
    for neighbours in (texts, [texts[0], texts[2]], [texts[0]] * 20):
        assert all(torch.equal(*pair) for pair in zip(alone, of_first(neighbours), strict=True))


def test_which_families_can_do_without_padding(load):
    assert set(EVERY) - set(PACKS) == {"deberta-v2", "t5", "bart"}
    assert set(PACKS) - set(SKIPS) == {"gpt2"}
    assert [name for name in EVERY if load(name, unpadded=True).packs] == PACKS
    assert not any(load(name, unpadded=False).packs for name in EVERY)


@pytest.mark.parametrize(
    ("asked", "dtype", "taken"),
    [
        ("auto", "bfloat16", "eager"),  # on a CPU, where these tests run
        ("auto", "float32", "sdpa"),
        ("sdpa", "bfloat16", "sdpa"),
        ("eager", "float32", "eager"),
    ],
)
def test_auto_takes_the_attention_that_is_faster(load, asked, dtype, taken):
    backbone = load("bert", attention=asked, dtype=dtype)
    assert backbone.config._attn_implementation == IMPLEMENTATIONS[taken]


def loss_of(states):
    return (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum()


@pytest.mark.parametrize("name", EVERY)
def test_gradients_reach_every_part_and_no_frozen_weight(load, name):
    backbone = load(name)
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    for side in ("right", "left"):
        trained, states = everything(backbone, name, batch_of(TEXTS, side))
        loss_of(states()).backward()
        for tensor in trained:
            assert torch.isfinite(tensor.grad).all()
            assert tensor.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in backbone.parameters())


@pytest.mark.parametrize("name", EVERY)
def test_a_bfloat16_backbone_keeps_float32_prompts(load, name):
    wide, narrow = load(name), load(name, dtype="bfloat16")
    trained, states = everything(narrow, name, batch_of(TEXTS))
    loss_of(states()).backward()
    assert {tensor.grad.dtype for tensor in trained} == {torch.float32}
    assert states().dtype == torch.bfloat16
    _, same = everything(wide, name, batch_of(TEXTS))
    distance = (states() - same()).norm() / same().norm()
    assert distance < 0.15  # 8 bits of precision through layers of large random weights


@pytest.mark.parametrize("name", EVERY)
def test_checkpointing_changes_neither_states_nor_gradients_and_keeps_less(load, name):
    results, kept = [], []
    for checkpointed in (False, True):
        backbone = load(name, gradient_checkpointing=checkpointed)
        trained, states = everything(backbone, name, batch_of(TEXTS))
        bytes_kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, kept=bytes_kept: kept.append(tensor.nbytes) or tensor, lambda tensor: tensor
        ):
            output = states()
        loss_of(output).backward()
        results.append([output, *(tensor.grad for tensor in trained)])
        kept.append(sum(bytes_kept))
    for plain, checkpointed in zip(*results, strict=True):
        close(checkpointed, plain, 1e-5)
    assert kept[1] < kept[0] / 2


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("name", EVERY)
def test_two_passes_before_two_backwards_do_not_mix(load, name, checkpointed):
    backbone = load(name, gradient_checkpointing=checkpointed)
    batches = [batch_of(TEXTS), batch_of(TEXTS, "left")]
    apart = []
    for batch in batches:
        trained, states = everything(backbone, name, batch)
        loss_of(states()).backward()
        apart.append([tensor.grad for tensor in trained])
    pairs = [everything(backbone, name, batch) for batch in batches]
    losses = [loss_of(states()) for _, states in pairs]
    for loss in losses:
        loss.backward()
    for (trained, _), alone in zip(pairs, apart, strict=True):
        for tensor, gradient in zip(trained, alone, strict=True):
            close(tensor.grad, gradient, 1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_all_weights_of_a_backbone_that_is_not_frozen_are_trained(tiny_backbones, name):
    settings = BackboneSettings(name=tiny_backbones[name], frozen=False, gradient_checkpointing=True)
    backbone = load_backbone(settings)
    assert backbone.train().model.training
    assert not backbone.eval().model.training
    loss_of(run(backbone, batch_of(TEXTS))).backward()
    for weight, parameter in backbone.named_parameters():
        assert parameter.requires_grad
        assert parameter.grad is not None, weight


def test_fine_tuning_in_half_precision_is_refused(tiny_bert):
    with pytest.raises(ConfigError, match=r"backbone\.dtype is bfloat16, but backbone\.frozen is false"):
        load_backbone(BackboneSettings(name=tiny_bert, frozen=False, dtype="bfloat16"))


# ---- the model's own words


@pytest.mark.parametrize("name", able("label_words"))
def test_word_scores_are_the_models_own_logits(load, name):
    backbone, batch = load(name, lm_head=True), batch_of(without_slots(TEXTS))
    given = {"input_ids": batch.input_ids_BL, "attention_mask": batch.real_BL.long()}
    if FAMILIES[name].positions in ("given", "distances"):
        given["position_ids"] = batch.position_BL + backbone.position_offset
    with torch.no_grad():
        logits = reference_with_head(backbone)(**given).logits[:, 1]
        states = backbone(embedded(backbone, batch), batch)[:, 1]
        close(backbone.word_scores(states, [40, 31, 40]), logits[:, [40, 31, 40]], 2e-4)


@pytest.mark.parametrize("name", able("label_words"))
def test_the_gradient_of_word_scores_reaches_the_prompt(load, name):
    backbone, batch = load(name, lm_head=True), batch_of(TEXTS)
    vectors = input_vectors(backbone)
    states = backbone(embedded(backbone, batch, vectors), batch)
    backbone.word_scores(pool(states, batch, backbone.summary), [40, 31]).square().sum().backward()
    assert vectors.grad.abs().max() > 0


TABLE_IS_HEAD = ("gpt2", "gemma", "gemma2", "gemma3_text")
LABELS = [[40], [33, 51, 62], [33, 47]]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_scores_texts_as_if_each_stood_alone_behind_the_input(load, name, side):
    backbone, texts = load(name, lm_head=True), without_slots(TEXTS)
    batch, model = batch_of(texts, side), reference_with_head(backbone)
    with torch.no_grad():
        scores, states = backbone.score_texts(embedded(backbone, batch), batch, LABELS)
        close(states[batch.real_BL], run(backbone, batch))
        for row, text in enumerate(texts):
            for column, label in enumerate(LABELS):
                log_prob = model(input_ids=torch.tensor([text + label])).logits[0].log_softmax(-1)
                steps = [log_prob[len(text) - 1 + step, token] for step, token in enumerate(label)]
                close(scores[row, column], sum(steps), 2e-4)


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_an_encoder_decoder_scores_texts_as_labels(load, name):
    backbone, texts = load(name, lm_head=True), without_slots(TEXTS)
    batch, model = batch_of(texts), reference_with_head(backbone)
    with torch.no_grad():
        scores, states = backbone.score_texts(embedded(backbone, batch), batch, LABELS)
        close(states[batch.real_BL], run(backbone, batch))
        for row, text in enumerate(texts):
            for column, label in enumerate(LABELS):
                output = model(input_ids=torch.tensor([text]), labels=torch.tensor([label]))
                close(scores[row, column], -output.loss * len(label), 2e-4)


@pytest.mark.parametrize("name", able("label_texts"))
def test_text_scores_have_a_gradient_at_every_part_and_the_texts_are_not_seen_by_the_prompt(load, name):
    backbone, batch = load(name, lm_head=True), batch_of(TEXTS)
    vectors, prefix, seen = input_vectors(backbone), prefix_of(backbone), []

    def made(states, batch):
        seen.append(pool(states, batch, "mean"))
        return seen[-1].unsqueeze(1).expand(-1, SLOTS, -1)

    deep = DeepPrompt(prefix, layers={1: made})
    scores, states = backbone.score_texts(embedded(backbone, batch, vectors), batch, LABELS, deep)
    close(states[batch.real_BL], run(backbone, batch, vectors, deep))
    close(seen[0], seen[1])
    (scores * torch.arange(9).view(3, 3)).sum().backward()
    for tensor in (vectors, *prefix[0]):
        assert tensor.grad.abs().max() > 0
    fewer, _ = backbone.score_texts(embedded(backbone, batch, vectors), batch, LABELS[1:2], deep)
    close(fewer[:, 0], scores[:, 1])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", able("choice_texts"))
def test_a_choice_is_scored_as_transformers_scores_its_tokens(load, name, side):
    backbone, texts = load(name, lm_head=True), without_slots(TEXTS)
    batch, model = batch_of(texts, side), reference_with_head(backbone)
    choices = [(2, 4), (1, 2), (5, 9)]  # the first place, and the one behind the last
    padding = [max(map(len, texts)) - len(text) if side == "left" else 0 for text in texts]
    marked = [(start + left, end - 1 + left) for (start, end), left in zip(choices, padding, strict=True)]
    batch = replace(batch, marked_B2=torch.tensor(marked))
    with torch.no_grad():
        scores, states = backbone.score_choices(embedded(backbone, batch), batch)
        close(states[batch.real_BL], run(backbone, batch))
        for row, (text, choice) in enumerate(zip(texts, choices, strict=True)):
            log_prob = model(input_ids=torch.tensor([text])).logits[0].log_softmax(-1)
            close(scores[row], sum(log_prob[place - 1, text[place]] for place in range(*choice)), 2e-4)


def test_a_text_behind_a_full_input_is_refused(load):
    backbone = load("gpt2", lm_head=True)
    batch = batch_of([[30] * 62])
    with pytest.raises(ConfigError, match=r"Set backbone\.max_length to at most 61"):
        backbone.score_texts(embedded(backbone, batch), batch, LABELS)


@pytest.mark.parametrize("name", [name for name in able("label_words") if name not in TABLE_IS_HEAD])
def test_a_file_without_a_head_cannot_score_words(load, name, tmp_path):
    backbone = load(name)
    backbone.body.save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"has no language-model head .* Use head.kind=linear"):
        load_backbone(BackboneSettings(name=str(tmp_path)), lm_head=True)


def test_a_head_of_the_newer_deberta_form_is_found_though_the_config_does_not_say_so(load, tmp_path):
    config = DebertaV2Config.from_pretrained(load("deberta-v2").name, legacy=False)
    torch.manual_seed(0)
    model = DebertaV2ForMaskedLM(config).eval()
    model.save_pretrained(tmp_path)
    load("deberta-v2").tokenizer.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"legacy": false,', ""))
    backbone = load_backbone(BackboneSettings(name=str(tmp_path)), lm_head=True)
    states = draws(3, backbone.hidden_size)
    expected = model.lm_predictions(states, model.deberta.embeddings.word_embeddings)[:, [40, 31]]
    close(backbone.word_scores(states, [40, 31]), expected)


# ---- loading, and what is refused


@pytest.mark.parametrize("name", EVERY)
def test_loading_again_gives_the_same_model_with_or_without_its_head(load, name, tmp_path):
    backbone, headed, batch = load(name), load(name, lm_head=True), batch_of(TEXTS)
    headed.model.save_pretrained(tmp_path)
    headed.tokenizer.save_pretrained(tmp_path)
    again = load_backbone(BackboneSettings(name=str(tmp_path)))
    assert again.fingerprint() == backbone.fingerprint() == headed.fingerprint()
    assert torch.equal(run(again, batch), run(backbone, batch))
    close(run(headed, batch), run(backbone, batch), 0)


@pytest.mark.parametrize(
    ("name", "need"), [(name, need) for name, family in FAMILIES.items() for need in family.cannot]
)
def test_what_a_family_cannot_do_is_refused_before_its_weights_are_read(name, need, tmp_path):
    (tmp_path / "config.json").write_text(f'{{"model_type": "{name}"}}')  # and no weights
    setting = NEEDS[need][0]
    with pytest.raises(ConfigError, match=rf"{setting} needs .* of the family {name}, cannot offer: ") as refusal:
        load_backbone(BackboneSettings(name=str(tmp_path)), needs=frozenset({need}))
    assert FAMILIES[name].cannot[need] in str(refusal.value)


def test_a_family_is_asked_only_for_what_is_needed():
    for name in EVERY:
        check_family("x", name, frozenset(set(NEEDS) - set(FAMILIES[name].cannot)))
    with pytest.raises(ConfigError, match="family 'gpt_neo'"):
        check_family("x", "gpt_neo")


def test_a_decoder_that_is_turned_into_an_encoder_is_refused(tiny_backbones, tmp_path):
    text = (Path(tiny_backbones["gemma3_text"]) / "config.json").read_text()
    turned = text.replace('"use_bidirectional_attention": false', '"use_bidirectional_attention": true')
    assert turned != text
    (tmp_path / "config.json").write_text(turned)
    with pytest.raises(ConfigError, match="use_bidirectional_attention"):
        load_backbone(BackboneSettings(name=str(tmp_path)))


def test_layer_prompts_are_refused_where_a_convolution_mixes_neighbours(tiny_backbones, tmp_path):
    text = (Path(tiny_backbones["deberta-v2"]) / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"hidden_act"', '"conv_kernel_size": 3, "hidden_act"'))
    with pytest.raises(ConfigError, match="conv_kernel_size"):
        load_backbone(BackboneSettings(name=str(tmp_path)), needs=frozenset({"layers"}))


def test_the_table_of_backbones_is_kept_true():
    file = Path(__file__).parents[3] / "configs" / "BACKBONES.md"
    assert file.read_text() == capability_table(), "write it with capability_table()"


# ---- pooling


@pytest.mark.parametrize("side", ["right", "left"])
def test_pooling_finds_its_tokens_on_either_side_of_padding(side):
    batch = batch_of(TEXTS, side)
    states = torch.where(batch.real_BL, batch.input_ids_BL, 1000).unsqueeze(-1).float()
    assert pool(states, batch, "first").flatten().tolist() == [30, 35, 37]
    assert pool(states, batch, "last").flatten().tolist() == [64, 46, 56]
    close(pool(states, batch, "mean")[1, 0], torch.tensor(40.5))
    marked = replace(batch, marked_B2=torch.tensor([[1, 3]] * 3))
    assert pool(states, marked, "entities").tolist() == states[:, [1, 3], 0].tolist()
