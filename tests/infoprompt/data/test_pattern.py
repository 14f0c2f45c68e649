"""Words around a text: where they stand, what is cut, which demonstrations come before, and what is refused."""

from dataclasses import replace

import pytest
from transformers import AutoTokenizer

from infoprompt.config import ConfigError, build_config, override_config
from infoprompt.data.encoded import EncodedTexts
from infoprompt.data.few_shot import draw_demonstrations
from infoprompt.data.infer import infer_task
from infoprompt.data.pattern import Pattern, without_content
from infoprompt.data.rows import Example, Span
from infoprompt.data.task import Task
from infoprompt.data.tasks import TASKS
from infoprompt.data.template import Template
from infoprompt.settings import DataSettings
from infoprompt.settings.template import FIELDS, parts_of

FILM = Task("film", ("bad", "good"), ("awful", "great"), ("accuracy",), "single")
PAIRS = replace(FILM, kind="pair")
CHAT = "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}<s>it\n"


@pytest.fixture
def tokenizers(tiny_backbones):
    return lambda family: AutoTokenizer.from_pretrained(tiny_backbones[family])


def laid_out(tokenizer, settings, task=FILM, rows=(), max_length=64, **layout):
    pattern = Pattern.of(DataSettings(**settings), task, tokenizer, rows)
    asked = {"num_vectors": 0, "placement": "warp", "use_mask": False, **layout}
    return Template.probe(tokenizer, max_length=max_length, pattern=pattern, **asked)


@pytest.mark.parametrize("placement", ["warp", "front", "before"])
@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_no_word_around_a_text_changes_nothing(tokenizers, placement, family):
    tokenizer = tokenizers(family)
    layout = {"num_vectors": 5, "placement": placement, "use_mask": family != "gpt2", "max_length": 24}
    texts = [Example(text="the film was great"), Example(text="the bank was a loss and the tree " * 9)]
    plain = Template.probe(tokenizer, **layout).encode(texts)
    assert laid_out(tokenizer, {"template": "{text}"}, **layout).encode(texts) == plain


@pytest.mark.parametrize("family", ["bert", "bart", "llama"])
def test_words_have_the_tokens_that_they_have_in_one_text(tokenizers, family):
    tokenizer = tokenizers(family)
    template = laid_out(tokenizer, {"template": "film: {text}\nit was"})
    whole = tokenizer("film: not a good car\nit was", add_special_tokens=False)["input_ids"]
    ids = template(Example(text="not a good car")).input_ids
    assert ids == [*template.prefix, *whole, *template.suffix]


def test_the_mask_stands_where_the_words_have_it(tokenizers):
    tokenizer = tokenizers("bert")
    template = laid_out(tokenizer, {"template": "it was {mask} . {text}"}, num_vectors=4, use_mask=True)
    encoded = template(Example(text="the car"))
    shown = tokenizer.convert_ids_to_tokens(encoded.input_ids)
    words = [f"<{slot}>" if slot >= 0 else token for token, slot in zip(shown, encoded.slots, strict=True)]
    assert " ".join(words) == "[CLS] <0> it was <1> [MASK] <2> . the car <3> [SEP]"
    assert encoded.input_ids[encoded.mask_index] == tokenizer.mask_token_id


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_what_is_too_long_is_cut_and_never_the_words(tokenizers, family):
    tokenizer = tokenizers(family)
    template = laid_out(tokenizer, {"template": "film: {text_a}, and {text_b}\nit was"}, PAIRS, max_length=40)
    long = Example(text="the bank card " * 40, pair="lost money")
    encoded = template(long)
    shown = tokenizer.decode(encoded.input_ids)
    assert len(encoded.input_ids) == 40
    assert encoded.truncated
    assert "lost money" in shown
    for words in ("film", "and lost", "it was"):
        assert words in shown.replace(" ,", ",").replace(",", ""), shown
    assert shown.count("bank") >= 2
    assert not template(Example(text="the bank", pair="lost money")).truncated


def test_spans_and_choices_stand_in_the_words(tokenizers):
    tokenizer = tokenizers("bert")
    relation = Example(text="the engine of the car", head=Span(4, 10), tail=Span(18, 21))
    template = laid_out(tokenizer, {"template": "{text} : {head} {tail}"}, replace(FILM, kind="relation"))
    assert tokenizer.decode(template(relation).input_ids[1:-1]) == "the @ engine @ of the # car # : engine car"
    choice = Example(text="the car was", choices=("lost", "stolen"))
    inputs = laid_out(tokenizer, {"template": "{choice} : {text}"}, replace(FILM, kind="choice")).encode([choice])[0]
    assert [tokenizer.decode(text.input_ids[1:-1]) for text in inputs] == ["lost : the car was", "stolen : the car was"]


CHOICES = Task("copa", ("choice1", "choice2"), ("first", "second"), ("accuracy",), "choice")
ROWS_WITH_CHOICES = [
    Example(text="the bank was", choices=("lost money", "a good tree"), label="choice1"),
    Example(text="the car was", choices=("a forest", "stolen"), label="choice2"),
]


@pytest.mark.parametrize("vectors", [0, 3])
@pytest.mark.parametrize("demonstrations", [0, 2])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_tokens_of_a_choice_are_marked(tokenizers, family, demonstrations, vectors):
    tokenizer = tokenizers(family)
    settings = {"template": "so {text} : {choice}", "demonstrations": demonstrations}
    template = laid_out(tokenizer, settings, CHOICES, ROWS_WITH_CHOICES, num_vectors=vectors)
    row = Example(text="the good film was", choices=("lost", "a great wheel"))
    for encoded, choice in zip(template.encode([row])[0], row.choices, strict=True):
        first, last = encoded.marked
        assert tokenizer.decode(encoded.input_ids[first : last + 1]).strip() == choice
        behind = zip(encoded.input_ids[last + 1 :], encoded.slots[last + 1 :], strict=True)
        assert tokenizer.decode([token for token, slot in behind if slot < 0]).strip(" </s>") == ""
    moved = EncodedTexts.of(template.encode([row])[0]).without_prompt()[1]
    assert tokenizer.decode(moved.input_ids[moved.marked[0] : moved.marked[1] + 1]).strip() == "a great wheel"


@pytest.mark.parametrize("demonstrations", [0, 2])
def test_the_choices_of_a_row_have_the_same_before_them_where_all_is_too_long(tokenizers, demonstrations):
    tokenizer = tokenizers("llama")
    settings = {"template": "{text} : {choice}", "demonstrations": demonstrations}
    template = laid_out(tokenizer, settings, CHOICES, ROWS_WITH_CHOICES, max_length=24)
    long = "a good film " * 20
    for text, cut in (("the car " * 30, True), ("the car", False)):
        longer, short = template.encode([Example(text=text, choices=(long, "lost"))])[0]
        befores = [encoded.input_ids[: encoded.marked[0]] for encoded in (longer, short)]
        assert befores[0] == befores[1]
        assert (longer.truncated, short.truncated) == (True, cut)
        assert (len(longer.input_ids), longer.marked[1]) == (24, 23)
        assert tokenizer.decode(short.input_ids[short.marked[0] :]).strip() == "lost"
        kept = tokenizer.decode(longer.input_ids[longer.marked[0] :]).split()
        assert len(kept) >= 8
        assert kept == long.split()[: len(kept)]


def test_a_demonstration_of_choices_is_the_right_one_and_never_the_row_itself(tokenizers):
    tokenizer = tokenizers("llama")
    settings = {"template": "{text} : {choice}", "demonstrations": 2}
    template = laid_out(tokenizer, settings, CHOICES, ROWS_WITH_CHOICES)
    shown = [tokenizer.decode(text.input_ids) for text in template.encode(ROWS_WITH_CHOICES)[0]]
    for text in shown:  # also of the wrong choice
        assert text.count("the bank was :") == 1
        assert "the car was : stolen" in text
    other = Example(text="the bank was", choices=("a film", "a wheel"))  # the same words before other choices
    assert tokenizer.decode(template.encode([other])[0][0].input_ids).count("the bank was :") == 2
    bare = laid_out(tokenizer, {**settings, "template": "so : {choice}"}, CHOICES, ROWS_WITH_CHOICES)
    assert "so : stolen" in tokenizer.decode(bare.encode([other])[0][0].input_ids)


@pytest.mark.parametrize("max_length", [16, 24, 40, 200])
def test_as_many_demonstrations_as_fit_stand_before_a_text_and_never_itself(tokenizers, max_length):
    tokenizer = tokenizers("llama")
    rows = [Example(text=f"the {name} was it", label="good") for name in ("car", "tree", "bank", "wheel")]
    rows += [Example(text=f"the {name} was not it", label="bad") for name in ("car", "tree", "bank", "wheel")]
    template = laid_out(tokenizer, {"template": "{text} :", "demonstrations": 8}, rows=rows, max_length=max_length)
    own = rows[0]
    shown = tokenizer.decode(template(own).input_ids)
    assert shown.endswith("the car was it :")
    assert shown.count("the car was it :") == 1  # not among its own demonstrations
    assert "the car was it : great" in tokenizer.decode(template(Example(text="film")).input_ids) or max_length < 200
    count = shown.count(" : great") + shown.count(" : awful")
    assert len(template(own).input_ids) <= max_length
    assert not template(own).truncated
    assert count == {16: 1, 24: 3, 40: 5, 200: 7}[max_length]  # of 6 and 7 tokens, beside the text's 5


def test_demonstrations_are_of_all_classes_alike_and_a_smaller_draw_is_part_of_a_larger_one():
    labels = [0] * 30 + [1] * 5 + [2] * 3
    drawn = draw_demonstrations(labels, 9, seed=0)
    assert sorted(labels[row] for row in drawn) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert sorted(labels[row] for row in drawn[:3]) == [0, 1, 2]
    assert draw_demonstrations(labels, 4, seed=0) == drawn[:4]
    assert draw_demonstrations(labels, 4, seed=1) != drawn[:4]
    assert len(draw_demonstrations(labels, 99, seed=0)) == len(labels)


def test_a_chat_stands_around_the_words_and_special_tokens_of_a_text_stay_text(tokenizers):
    tokenizer = tokenizers("llama")
    tokenizer.chat_template = CHAT
    ids = laid_out(tokenizer, {"template": "film {text}", "chat": True})(Example(text="a </s> car")).input_ids
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert ids.count(start) == 2
    assert ids.count(end) == 1
    assert ids[-2:] == [start, *tokenizer("it", add_special_tokens=False)["input_ids"]]
    assert ids.index(end) > ids.index(tokenizer.convert_tokens_to_ids("car"))


def test_a_text_without_content_has_the_form_of_its_task():
    like = Example(text="a b", head=Span(0, 1), tail=Span(2, 3), label="good")
    assert [text.kind for text in without_content(like)] == ["relation"] * 3
    assert [text.pair for text in without_content(Example(text="a", pair="b"))] == ["N/A", "[MASK]", ""]


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.source and task.source.template])
def test_a_shipped_tasks_words_fill_in_what_its_rows_have(name):
    task = TASKS[name]
    fields = {part.field for part in parts_of(task.source.template)} - {None}
    assert fields == set(FIELDS[task.kind])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"template": "Review: {txt}"}, r"\{txt\} is no field; .* Did you mean \{text\}\?"),
        ({"template": "{text!r}"}, r"\{text\} is no field"),
        ({"template": "Review:"}, r"data.template is 'Review:', but no text is filled in. Put \{text\}"),
        ({"template": "{mask}"}, "no text is filled in"),
        ({"template": "{mask} {text} {mask}"}, "twice"),
        ({"template": "a } {text}"}, "one of its braces stands alone"),
        ({"chat": True}, "data.chat is true, but data.template is not given"),
        ({"demonstrations": 4}, "data.demonstrations is 4, but data.template is not given"),
        ({"template": "{text}", "demonstrations": [{"text": "a"}]}, "each needs its fields and a label"),
    ],
)
def test_a_template_that_cannot_be_is_refused_when_it_is_read(settings, told):
    with pytest.raises(ConfigError, match=told):
        build_config({"data": settings})


@pytest.mark.parametrize(
    ("settings", "task", "told"),
    [
        ({"template": "{text_a}"}, FILM, r"names \{text_a\}, but the rows of film are single texts and have \{text\}"),
        ({"template": "{text}"}, TASKS["wnut17"], "whose words are read one by one"),
        ({"template": "task"}, TASKS["stsb"], "data.template is task, but stsb has no words of its own"),
        ({"template": "{text}", "chat": True}, FILM, "data.chat is true, but this backbone's tokenizer has no chat"),
        ({"template": "{mask} {text}"}, FILM, "head.pooling reads no mask token"),
        ({"template": "the film " * 30 + "{text}"}, FILM, r"takes 60 tokens .* leaves 2 for text, and at least 8"),
        ({"template": "{text}", "demonstrations": 4}, FILM, "there are only 1 training rows"),
        (
            {"template": "{text}", "demonstrations": [{"text": "a", "label": "best"}]},
            FILM,
            "has the label best, which is not one of film",
        ),
        ({"template": "{text}"}, replace(FILM, kind="choice"), r"the same without their \{choice\}"),
        (
            {"template": "{text}", "demonstrations": [{"text_b": "a", "label": "good"}]},
            FILM,
            "has a row with text_b, but data.template fills in text",
        ),
    ],
)
def test_a_template_that_does_not_fit_its_task_or_backbone_is_refused(tokenizers, settings, task, told):
    with pytest.raises(ConfigError, match=told):
        laid_out(tokenizers("bert"), settings, task, rows=[Example(text="a", label="good")])


def test_a_row_without_what_the_words_name_is_refused_by_name(tokenizers):
    template = laid_out(tokenizers("bert"), {"template": "{text_a} {text_b}"}, replace(FILM, kind="regression"))
    with pytest.raises(ConfigError, match=r"names \{text_b\}, but line 3 of a.csv has none"):
        template(Example(text="a", where="line 3 of a.csv"))


def test_a_line_break_may_be_typed_as_two_characters():
    typed = override_config(build_config({"data": {"train": "a.csv"}}), [r"data.template=Film: {text}\nIt was"])
    assert typed.data.template == "Film: {text}\nIt was"


def test_spelled_out_settings_say_the_same_without_the_rows(tokenizers):
    tokenizer = tokenizers("gpt2")
    rows = [Example(text=f"the {name}", label=label) for name in ("car", "tree") for label in ("good", "bad")]
    settings = DataSettings(template="task", demonstrations=3)
    first = Pattern.of(settings, FILM, tokenizer, rows, seed=5)
    assert Pattern.of(first.spelled_out(settings), FILM, tokenizer) == first
    assert len(first.demonstrations) == 3


def test_a_tasks_own_template_brings_the_words_that_go_with_it():
    rows = [Example(text="a", label=label) for label in ("negative", "positive")]
    texts = {}
    for template in (None, "task", "{text}"):
        texts[template] = infer_task(rows, DataSettings(task="sst2", template=template)).label_texts
    assert texts == {None: ("terrible", "great"), "task": ("negative", "positive"), "{text}": ("terrible", "great")}
    given = infer_task(rows, DataSettings(task="sst2", template="task", label_texts={"positive": "fine"}))
    assert given.label_texts == ("negative", "fine")
