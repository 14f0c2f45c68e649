"""Where the prompt stands in the input."""

import numpy as np
import pytest
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from infoprompt.config import ConfigError
from infoprompt.data.encoded import EncodedTexts
from infoprompt.data.rows import Example, Span
from infoprompt.data.template import Template

SINGLE = Example(text="the film was good")
PAIR = Example(text="the film was good", pair="it was great")
RELATION = Example(text="the engine of the car", head=Span(4, 10), tail=Span(18, 21))
SPAN = Example(text="the engine of the car", span=Span(4, 10))
CHOICE = Example(text="the film", choices=("was good", "was bad"))
TAGS = Example(text="the engine film", words=("the", "engine", "film"))


def laid_out(folder, example, **settings):
    """The template's positions in words: `<n>` is prompt vector n."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    defaults = {"num_vectors": 4, "placement": "warp", "use_mask": True, "max_length": 64}
    text = Template.probe(tokenizer, **{**defaults, **settings})(example)
    tokens = tokenizer.convert_ids_to_tokens(text.input_ids)
    words = [f"<{slot}>" if slot >= 0 else token for slot, token in zip(text.slots, tokens, strict=True)]
    return " ".join(words).replace("Ġ", ""), text


def without_prompt(text):
    return EncodedTexts.of([text]).without_prompt()[0]


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (SINGLE, "[CLS] <0> the film was good <1> [MASK] <2> <3> [SEP]"),
        (PAIR, "[CLS] <0> the film was good <1> [MASK] <2> [SEP] it was great <3> [SEP]"),
        (
            RELATION,
            "[CLS] <0> the @ engine @ of the # car # <1> [SEP] engine <2> [MASK] <3> car [SEP]",
        ),
        (SPAN, "[CLS] <0> the @ engine @ of the car <1> [SEP] engine <2> [MASK] <3> [SEP]"),
        (TAGS, "[CLS] <0> the engine film <1> [MASK] <2> <3> [SEP]"),
    ],
)
def test_slots_stand_around_texts_and_mask(tiny_bert, example, expected):
    assert laid_out(tiny_bert, example)[0] == expected


def test_without_mask_pooling_there_is_no_mask_token(tiny_bert):
    assert laid_out(tiny_bert, SINGLE, use_mask=False)[0] == "[CLS] <0> the film was good <1> <2> <3> [SEP]"


def test_front_puts_all_vectors_after_the_first_token(tiny_bert):
    words, _ = laid_out(tiny_bert, SINGLE, placement="front", use_mask=False)
    assert words == "[CLS] <0> <1> <2> <3> the film was good [SEP]"


def probed(folder, **settings):
    defaults = {"num_vectors": 4, "placement": "warp", "use_mask": False, "max_length": 64}
    return Template.probe(AutoTokenizer.from_pretrained(folder), **{**defaults, **settings})


def test_each_choice_is_an_input_laid_out_as_a_pair(tiny_bert):
    template = probed(tiny_bert, use_mask=True)
    (inputs, pair) = template.encode([CHOICE, PAIR])
    assert inputs == [template(Example("the film", pair="was good")), template(Example("the film", pair="was bad"))]
    assert pair == [template(PAIR)]


def test_prefixes_take_no_slot(tiny_bert):
    assert laid_out(tiny_bert, SINGLE, num_vectors=0)[0] == "[CLS] the film was good [MASK] [SEP]"


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama", "t5", "bart"])
def test_places_of_words_and_markers_are_those_of_their_tokens(tiny_backbones, family):
    template = probed(tiny_backbones[family])

    def words_at(text, places):
        return [template.tokenizer.decode([text.input_ids[place]]).strip() for place in places]

    text = template(RELATION)
    assert words_at(text, text.marked) == ["@", "#"]
    turned = template(Example(RELATION.text, head=RELATION.tail, tail=RELATION.head))
    assert words_at(turned, turned.marked) == ["@", "#"]
    assert turned.marked[0] > turned.marked[1]
    tags = template(TAGS)
    assert words_at(tags, tags.words) == ["the", "engine", "film"]
    plain = without_prompt(tags)
    assert words_at(plain, plain.words) == ["the", "engine", "film"]
    plain = without_prompt(text)
    assert words_at(plain, plain.marked) == ["@", "#"]


def test_a_word_of_several_tokens_stands_at_its_first(tiny_bert):
    text = probed(tiny_bert)(Example("xyz film", words=("xyz", "film")))
    first, second = text.words
    assert second - first == 3  # x ##y ##z


def test_words_that_are_cut_off_have_no_place(tiny_bert):
    words = ("film",) * 50
    text = probed(tiny_bert, max_length=16)(Example(" ".join(words), words=words))
    assert text.truncated
    assert len(text.words) == 16 - 4 - 2


def test_an_entity_whose_marker_is_cut_off_is_found_behind_the_text(tiny_bert):
    long = Example("the engine " + "of it " * 40 + "car", head=Span(4, 10), tail=Span(251, 254))
    assert long.text[251:] == "car"
    template = probed(tiny_bert, max_length=32)
    text = template(long)
    words = template.tokenizer.convert_ids_to_tokens([text.input_ids[place] for place in text.marked])
    assert words == ["@", "car"]


def test_spans_within_each_other_are_both_marked(tiny_bert):
    inner = Example("the red car wheel", head=Span(4, 17), tail=Span(8, 11))
    words, _ = laid_out(tiny_bert, Example("the good car wheel", head=Span(4, 18), tail=Span(9, 12)))
    assert words.startswith("[CLS] <0> the @ good # car # wheel @ <1>")
    assert laid_out(tiny_bert, inner)[1].marked is not None


@pytest.fixture(scope="module")
def bytes_without_special_tokens():
    """A tokenizer like GPT-2's: no token but the end's has a meaning, and none is added to a text."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(["the film was good it great"], vocab_size=300, show_progress=False)
    trained.add_special_tokens(["<|endoftext|>"])
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, eos_token="<|endoftext|>")


def test_a_line_break_parts_texts_where_no_token_does(bytes_without_special_tokens):
    tokenizer = bytes_without_special_tokens
    template = Template.probe(tokenizer, num_vectors=2, placement="warp", use_mask=False, max_length=64)
    text = template(PAIR)
    assert tokenizer.decode(without_prompt(text).input_ids) == f"{PAIR.text}\n{PAIR.pair}"
    assert set(text.segments) == {0}
    assert template.pad_id == tokenizer.eos_token_id
    assert text.slots[0] == 0  # nothing stands before the first slot
    assert EncodedTexts.of([text]).padded(np.array([0]), 0)["position_BL"].min() == 0


def test_the_end_token_parts_texts_where_a_line_break_has_no_token(tiny_backbones):
    template = probed(tiny_backbones["gpt2"])
    assert template.middle == (template.tokenizer.eos_token_id,)


def test_a_mask_is_refused_where_the_tokenizer_has_none(bytes_without_special_tokens):
    with pytest.raises(ConfigError, match=r"head\.pooling is mask, but .* no mask token.*head\.pooling=last"):
        Template.probe(bytes_without_special_tokens, num_vectors=2, placement="warp", use_mask=True, max_length=64)


def test_a_mask_token_in_the_text_is_not_taken_for_the_templates(tiny_bert):
    _, text = laid_out(tiny_bert, Example("the [MASK] was good"))
    assert text.mask_index == 12  # behind the five tokens that "[MASK]" is as text


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
    texts = EncodedTexts.of([text])
    fields, plain = texts.padded(np.array([0]), 0), texts.without_prompt().padded(np.array([0]), 0)
    kept_L = fields["position_BL"][fields["real_BL"]]
    assert kept_L.tolist() == list(range(len(kept_L))) == plain["position_BL"][0].tolist()


def test_the_text_without_prompt_is_the_tokenizers_own(tiny_bert):
    _, text = laid_out(tiny_bert, PAIR, use_mask=False)
    expected = AutoTokenizer.from_pretrained(tiny_bert)(PAIR.text, PAIR.pair, return_token_type_ids=True)
    assert without_prompt(text).input_ids == expected["input_ids"]
    assert without_prompt(text).segments == expected["token_type_ids"]


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
