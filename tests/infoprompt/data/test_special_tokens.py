"""Special tokens, half characters and unknown ids in texts of users."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from infoprompt.config import ConfigError
from infoprompt.data.rows import Example, Span, read_examples
from infoprompt.data.task_files import bundled_file
from infoprompt.data.template import Template
from infoprompt.data.tokens import special_tokens, tokenize

FORMS = ["[SEP]", "[MASK]", "[CLS]", "<s>", "</s>", "<mask>", "<|endoftext|>", "<|im_end|>", "<pad>"]


def with_added(tokenizer):
    """A chat model's tokenizer: further special tokens in its file, beside those that have a role."""
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    return tokenizer


def pieces():
    """A tokenizer whose vocabulary of whole pieces holds its special tokens, as SentencePiece's does."""
    vocabulary = [("<unk>", 0.0), ("</s>", 0.0), ("<pad>", 0.0), ("▁", -3.0), ("▁the", -2.0), ("▁film", -2.0)]
    vocabulary += [(letter, -5.0) for letter in "abcdefghijklmnopqrstuvwxyz</>[]"]
    fast = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    fast.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=fast, unk_token="<unk>", eos_token="</s>", pad_token="<pad>")


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama", "t5", "bart", "pieces"])
def test_a_special_token_written_in_a_text_is_text(tiny_backbones, family):
    tokenizer = pieces() if family == "pieces" else with_added(AutoTokenizer.from_pretrained(tiny_backbones[family]))
    special = special_tokens(tokenizer)
    text = f"the film {' '.join(FORMS)} the{'</s>'}film"
    (tokens,) = tokenize(tokenizer, [text])
    assert special.keys().isdisjoint(tokens.ids)
    assert len(tokens.ids) > len(FORMS)
    assert tokens.ends == sorted(tokens.ends)
    assert tokens.ends[-1] == len(text)


def test_places_are_right_behind_a_special_token_that_was_taken_apart():
    (tokens,) = tokenize(pieces(), ["a</s> the film"])
    plain = pieces().convert_ids_to_tokens(tokens.ids)
    assert [plain[place] for place in tokens.at([6, 10])] == ["▁the", "▁film"]
    assert tokens.ends[-1] == len("a</s> the film")


def test_the_templates_own_tokens_stay_special(tiny_bert):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    template = Template.probe(tokenizer, num_vectors=0, placement="warp", use_mask=True, max_length=64)
    text = template(Example("the [MASK] film [SEP]"))
    assert text.input_ids.count(tokenizer.mask_token_id) == 1
    assert text.input_ids[text.mask_index] == tokenizer.mask_token_id
    assert text.input_ids.count(tokenizer.sep_token_id) == 1
    relation = template(Example("the [SEP] of it", head=Span(0, 3), tail=Span(4, 9)))
    assert relation.input_ids.count(tokenizer.sep_token_id) == 2


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_plain_texts_have_the_same_tokens_as_ever(tiny_backbones, family):
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbones[family])
    texts = [example.text for example in read_examples(bundled_file("banking77", "test") or "", {})]
    before = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert [tokens.ids for tokens in tokenize(tokenizer, texts)] == before


def test_half_a_character_is_refused_with_its_text_or_row(tiny_bert):
    template = Template.probe(
        AutoTokenizer.from_pretrained(tiny_bert), num_vectors=0, placement="warp", use_mask=False, max_length=64
    )
    with pytest.raises(ConfigError, match=r"The text 'a film.* holds half a character, \\ud83d"):
        template.encode([Example("fine"), Example("a film \ud83d")])
    with pytest.raises(ConfigError, match=r"line 7 of x\.jsonl holds half a character"):
        template.encode([Example("a film \ud83d", where="line 7 of x.jsonl")])


def test_a_token_behind_the_embedding_table_is_refused_with_its_row(tiny_bert):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    rows = len(tokenizer)
    tokenizer.add_tokens(["covid"])
    settings = {"num_vectors": 0, "placement": "warp", "use_mask": False, "max_length": 64, "num_embeddings": rows}
    template = Template.probe(tokenizer, **settings)
    assert template(Example("the film")).input_ids
    with pytest.raises(ConfigError, match=rf"line 3 of x has the token 'covid' with the id {rows}, but the backbone"):
        template(Example("the covid film", where="line 3 of x"))
    tokenizer.add_special_tokens({"mask_token": "<new mask>"})
    with pytest.raises(ConfigError, match="The input's layout has the token '<new mask>'"):
        Template.probe(tokenizer, **{**settings, "use_mask": True})
