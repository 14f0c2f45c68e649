"""Where the prompt stands in the input."""

import pytest
from transformers import AutoTokenizer

from infoprompt.config import ConfigError
from infoprompt.data.rows import Example, Span
from infoprompt.data.template import Template

SINGLE = Example(text="the film was good")
PAIR = Example(text="the film was good", pair="it was great")
RELATION = Example(text="the engine of the car", head=Span(4, 10), tail=Span(18, 21))


def laid_out(folder, example, **settings):
    """The template's positions in words: `<n>` is prompt vector n."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    defaults = {"num_vectors": 4, "placement": "warp", "use_mask": True, "max_length": 64}
    text = Template.probe(tokenizer, **{**defaults, **settings})(example)
    tokens = tokenizer.convert_ids_to_tokens(text.input_ids)
    words = [f"<{slot}>" if slot >= 0 else token for slot, token in zip(text.slots, tokens, strict=True)]
    return " ".join(words).replace("Ġ", ""), text


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (SINGLE, "[CLS] <0> the film was good <1> [MASK] <2> <3> [SEP]"),
        (PAIR, "[CLS] <0> the film was good <1> [MASK] <2> [SEP] it was great <3> [SEP]"),
        (
            RELATION,
            "[CLS] <0> the @ engine @ of the # car # <1> [SEP] engine <2> [MASK] <3> car [SEP]",
        ),
    ],
)
def test_slots_stand_around_texts_and_mask(tiny_bert, example, expected):
    assert laid_out(tiny_bert, example)[0] == expected


def test_without_mask_pooling_there_is_no_mask_token(tiny_bert):
    assert laid_out(tiny_bert, SINGLE, use_mask=False)[0] == "[CLS] <0> the film was good <1> <2> <3> [SEP]"


def test_front_puts_all_vectors_after_the_first_token(tiny_bert):
    words, _ = laid_out(tiny_bert, SINGLE, placement="front", use_mask=False)
    assert words == "[CLS] <0> <1> <2> <3> the film was good [SEP]"


@pytest.mark.parametrize("num_vectors", [1, 3, 6, 10])
def test_any_number_of_vectors_fills_the_slots_in_order(tiny_bert, num_vectors):
    _, text = laid_out(tiny_bert, PAIR, num_vectors=num_vectors)
    assert [slot for slot in text.slots if slot >= 0] == list(range(num_vectors))


def test_a_pair_of_roberta_has_two_separators(tiny_backbones):
    words, text = laid_out(tiny_backbones["roberta"], PAIR)
    assert "</s> </s>" in words
    assert set(text.segments) == {0}


def test_real_tokens_keep_the_positions_they_have_without_prompt(tiny_bert):
    _, text = laid_out(tiny_bert, PAIR)
    kept = [position for position, slot in zip(text.positions, text.slots, strict=True) if slot < 0]
    assert kept == list(range(len(kept)))
    assert text.without_prompt().positions == kept


def test_the_text_without_prompt_is_the_tokenizers_own(tiny_bert):
    _, text = laid_out(tiny_bert, PAIR, use_mask=False)
    expected = AutoTokenizer.from_pretrained(tiny_bert)(PAIR.text, PAIR.pair, return_token_type_ids=True)
    assert text.without_prompt().input_ids == expected["input_ids"]
    assert text.without_prompt().segments == expected["token_type_ids"]


def test_a_long_text_is_cut_and_the_prompt_and_the_entities_stay(tiny_bert):
    long = Example(text="the engine " + "of the car " * 40, head=Span(4, 10), tail=Span(18, 21))
    words, text = laid_out(tiny_bert, long, max_length=32)
    assert text.truncated
    assert len(text.input_ids) == 32
    assert words.endswith("[SEP] engine <2> [MASK] <3> car [SEP]")


def test_the_longer_text_of_a_pair_is_cut_first(tiny_bert):
    words, _ = laid_out(tiny_bert, Example(text="good " * 50, pair="it was great"), max_length=32)
    assert "it was great" in words


def test_a_prompt_that_leaves_no_room_is_refused(tiny_bert):
    with pytest.raises(ConfigError, match=r"prompt.length is 60, but of 64 positions"):
        laid_out(tiny_bert, SINGLE, num_vectors=60)
