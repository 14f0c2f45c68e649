"""Every kind of prompt: what it makes, where it starts, and what reaches it.

Shapes: B examples, E embedding width, P prompt vectors.
"""

from dataclasses import dataclass, replace

import pytest
import torch

from infoprompt.config import ConfigError, RunConfig, build_config
from infoprompt.data.batch import Batch
from infoprompt.model.prompts.ipt import first_ids
from infoprompt.model.prompts.kind import PromptContext, prompt_kind
from infoprompt.model.prompts.start import Vocabulary
from infoprompt.settings import PROMPT_KINDS
from infoprompt.settings.kinds import of_kind, sections_with_kinds

VOCABULARY, WIDTH, LAYERS, HEADS, HEAD_SIZE, LENGTH = 40, 12, 3, 2, 6, 5


class Tokenizer:
    """As much of a tokenizer as prompts read."""

    pad_token_id = 0
    mask_token_id = 4

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [5 + len(word) for word in text.split()]}

    def convert_ids_to_tokens(self, index):
        return f"token{index}"

    def get_vocab(self):
        words = {f"word{'abcdefghij'[i % 10] * (i // 10 + 1)}": i for i in range(5, VOCABULARY)}
        return {"##x": 4, **words}


@dataclass(frozen=True)
class HeldTable:
    """A `WordTable`."""

    table_VE: torch.Tensor

    @property
    def num_embeddings(self):
        return len(self.table_VE)

    @property
    def embedding_size(self):
        return self.table_VE.shape[1]

    def embedding_rows(self, ids):
        return self.table_VE[list(ids)]

    def embedding_table(self):
        return self.table_VE


@pytest.fixture
def context():
    torch.manual_seed(0)
    vocabulary = Vocabulary(HeldTable(0.05 * torch.randn(VOCABULARY, WIDTH)), Tokenizer(), ("good", "awful"))
    return PromptContext(vocabulary, WIDTH, LAYERS, HEADS, HEAD_SIZE, "first", torch.Generator().manual_seed(0))


@pytest.fixture
def batch():
    ids_BL = torch.tensor([[1, 7, 8, 9, 10, 11, 2], [1, 20, 21, 2, 0, 0, 0]])
    slot_BL = torch.full_like(ids_BL, -1)
    return Batch(
        input_ids_BL=ids_BL,
        slot_BL=slot_BL,
        real_BL=ids_BL != 0,
        position_BL=torch.arange(7).expand(2, -1),
        token_type_BL=torch.zeros_like(ids_BL),
        mask_index_B=torch.zeros(2, dtype=torch.long),
        label_B=torch.tensor([0, 1]),
        row_B=torch.tensor([0, 1]),
        summary_BD=torch.randn(2, WIDTH),
    )


def settings_of(kind, **given):
    values = {"length": LENGTH, "bottleneck": 8, "init": "random" if kind == "ipt" else "vocabulary"}
    own = of_kind(values, sections_with_kinds(RunConfig)["prompt"], kind)
    objective = {"head_weight": 0, "representation_weight": 0}
    return build_config({"prompt": {"kind": kind, **own, **given}, "objective": objective}).prompt


def build(kind, context, **given):
    torch.manual_seed(1)
    return prompt_kind(kind).build(settings_of(kind, **given), context)


VARIANTS = [(kind, {}) for kind in PROMPT_KINDS]
VARIANTS += [("ipt", {"mode": mode, "encoder": encoder}) for mode in ("prompt", "prefix") for encoder in ("cnn", "mlp")]
VARIANTS += [("ipt", {"mode": "prefix"}), ("ipt", {"encoder": "rnn"}), ("p_tuning", {"reparameterization": "mlp"})]
VARIANTS += [("instance", {"source": "constant"}), ("instance", {"static_base": False})]


@pytest.mark.parametrize(("kind", "given"), VARIANTS, ids=str)
def test_a_prompt_fills_the_places_it_names_and_every_parameter_is_reached(kind, given, context, batch):
    prompt = build(kind, context, **given).eval()
    with torch.no_grad():
        for parameter in prompt.parameters():  # away from the zeros of some starts
            parameter.add_(0.01 * torch.randn(parameter.shape))
    parts = prompt(batch)
    needs = prompt_kind(kind).needs(settings_of(kind, **given))
    made = []
    if prompt_kind(kind).slots(settings_of(kind, **given)):
        assert parts.input_BPE.shape == (2, LENGTH, WIDTH)
        made.append(parts.input_BPE)
    if "prefix" in needs:
        pairs = parts.deep.prefix or parts.deep.adapter_kv
        assert len(pairs) == LAYERS
        for keys, values in pairs:
            assert keys.shape == values.shape
            assert keys.shape[0] in (1, 2)
            assert keys.shape[1:] == (HEADS, LENGTH, HEAD_SIZE)
            made += [keys, values]
    if "layers" in needs:
        for make in parts.deep.layers.values():
            made.append(make(torch.randn(2, 7, WIDTH), batch))
            assert made[-1].shape == (2, LENGTH, WIDTH)
    weights = [torch.randn_like(tensor) for tensor in made]
    sum((tensor * weight).sum() for tensor, weight in zip(made, weights, strict=True)).backward()
    unreached = [name for name, p in prompt.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert unreached == []


@pytest.mark.parametrize(("kind", "given"), VARIANTS, ids=str)
def test_the_same_seed_gives_the_same_start(kind, given, context, batch):
    def start():
        context.generator.manual_seed(3)
        return build(kind, context, **given).state_dict()

    first, second = start(), start()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", ["static", "residual", "p_tuning", "instance"])
def test_input_vectors_start_at_the_size_of_word_embeddings(kind, context, batch):
    size = context.vocabulary.table.table_VE.norm(dim=1).mean()
    vectors = build(kind, context)(batch).input_BPE
    assert 0.5 * size < vectors.norm(dim=2).mean() < 2.5 * size


def test_a_control_prompt_fed_a_constant_is_the_same_for_all_examples_and_a_fed_one_is_not(context, batch):
    own, constant = build("instance", context)(batch), build("instance", context, source="constant")(batch)
    assert not torch.allclose(own.input_BPE[0], own.input_BPE[1])
    assert torch.equal(constant.input_BPE[0], constant.input_BPE[1])


def test_ipt_looks_up_the_first_real_tokens_wherever_the_padding_stands(context, batch):
    prompt = build("ipt", context)
    expected = prompt.table_VW[torch.tensor([[1, 7, 8, 9, 10], [1, 20, 21, 2, 0]])]
    assert torch.equal(prompt(batch).input_BPE, expected)
    left = batch.input_ids_BL[1].roll(3)[None]
    moved = Batch(**{**vars(batch), "input_ids_BL": left, "real_BL": left != 0})
    assert torch.equal(first_ids(moved, 5, 0), torch.tensor([[1, 20, 21, 2, 0]]))


def test_ipt_counts_only_the_rows_that_training_can_touch(context):
    prompt = build("ipt", context)
    assert sum(p.numel() for p in prompt.parameters()) == VOCABULARY * WIDTH
    # the first five ids of either text, and padding for the second
    assert prompt.touched_parameters([[1, 7, 8, 7, 9, 30, 31], [1, 20, 2]]) == len({1, 7, 8, 9, 20, 2, 0}) * WIDTH


def test_ipt_in_prefix_mode_adds_a_twentieth_of_its_rows_to_the_first_layer_alone(context, batch):
    prompt = build("ipt", context, mode="prefix")
    (keys, values), *rest = prompt(batch).deep.prefix
    base = prompt.prefix.layers()
    rows = prompt.table_VW[first_ids(batch, LENGTH, 0)]
    added = 0.05 * rows.reshape(2, LENGTH, 2, HEADS, HEAD_SIZE)
    torch.testing.assert_close(keys, base[0][0] + added[:, :, 0].transpose(1, 2))
    torch.testing.assert_close(values, base[0][1] + added[:, :, 1].transpose(1, 2))
    assert all(
        torch.equal(a, b) for pair, own in zip(rest, base[1:], strict=True) for a, b in zip(pair, own, strict=True)
    )


def test_ipt_dropout_is_off_in_evaluation(context, batch):
    prompt = build("ipt", context, encoder="mlp").eval()
    assert torch.equal(prompt(batch).input_BPE, prompt(batch).input_BPE)
    prompt.train()
    assert not torch.equal(prompt(batch).input_BPE, prompt(batch).input_BPE)


def test_no_gradient_goes_below_the_layer_of_a_late_prompt(context, batch):
    states = torch.randn(2, 7, WIDTH, requires_grad=True)
    deep = build("lpt", context)(batch).deep
    assert deep.first_layer == LAYERS // 2
    made = deep.layers[LAYERS // 2](states, batch)
    made.sum().backward()
    assert states.grad is None


def test_bad_settings_of_a_kind_are_refused_by_name(context):
    with pytest.raises(ConfigError, match=r"prompt\.layer is 3, but the backbone has 3 layers"):
        build("lpt", context, layer=3)
    with pytest.raises(ConfigError, match=r"prompt\.init is mask"):
        build("ipt", context, init="mask")
    with pytest.raises(ConfigError, match=r"prompt\.table is nowhere.*infoprompt pretrain"):
        build("ipt", context, table="nowhere")
    with pytest.raises(ValueError, match=r"prompt\.kind is lptt, but kinds are none, .*lpt"):
        settings_of("lptt")


def test_a_text_stands_for_the_mean_of_its_tokens_embeddings(context):
    table = context.vocabulary.table.table_VE
    found = context.vocabulary.mean_embeddings([[1, 3], [5]])
    assert torch.equal(found, torch.stack([(table[1] + table[3]) / 2, table[5]]))


def test_a_tokenizer_with_more_tokens_than_the_backbone_has_embeddings_is_refused_where_they_are_read(context):
    with pytest.raises(
        ConfigError, match=r"the token 'token55' with the id 55, but the backbone has embeddings for 40"
    ):
        build("static", context, init="text", text=50 * "w")
    small = replace(
        context, vocabulary=replace(context.vocabulary, table=HeldTable(context.vocabulary.table.table_VE[:20]))
    )
    build("static", small)  # from words that there are embeddings for
