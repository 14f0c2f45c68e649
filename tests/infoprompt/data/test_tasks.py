import hashlib
import json
from pathlib import Path

import pytest

from infoprompt.config import ConfigError, DataSettings
from infoprompt.data.infer import infer_task
from infoprompt.data.rows import Example, Span, read_examples
from infoprompt.data.task import Task, words_of
from infoprompt.data.task_files import BUNDLED, bundled_file
from infoprompt.data.tasks import TASKS, known_task


def labelled(*labels: str) -> list[Example]:
    return [Example(f"text {number}", label=label) for number, label in enumerate(labels)]


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_rows_are_those_described_beside_them(name: str) -> None:
    train = bundled_file(name, "train")
    assert train is not None
    meta = json.loads(Path(train).with_name("meta.json").read_text())
    task = TASKS[name]
    assert (meta["labels"], meta["metrics"], meta["kind"]) == (list(task.labels), list(task.metrics), task.kind)
    for part, expected in meta["splits"].items():
        path = bundled_file(name, part)
        assert path is not None
        assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == expected["sha256"]
        examples = read_examples(path, {})
        assert len(examples) == expected["rows"]
        assert {example.label for example in examples} == set(task.labels)
        assert {example.kind for example in examples} == {task.kind}


@pytest.mark.parametrize("name", TASKS)
def test_every_class_has_words_of_its_own(name: str) -> None:
    # As sets, since label words are averaged: "cause effect" and "effect cause" would start two classes alike.
    texts = [frozenset(text.split()) for text in TASKS[name].label_texts]
    assert len(set(texts)) == len(TASKS[name].labels)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("Refund_not_showing_up", "refund not showing up"),
        ("not-entailment", "not entailment"),
        ("RefundNotShowing", "refund not showing"),
        ("HTTPError", "http error"),
        ("person/artist", "person artist"),
        ("7", "7"),
        ("-1", "-1"),
        ("__", "__"),
    ],
)
def test_a_label_name_becomes_words(label: str, words: str) -> None:
    assert words_of(label) == words


def test_labels_are_sorted_and_as_numbers_where_all_are() -> None:
    settings = DataSettings(train="/data/reviews.train.jsonl")
    assert infer_task(labelled("10", "9", "-1", "9"), settings).labels == ("-1", "9", "10")
    task = infer_task(labelled("b", "10", "9", "a"), settings)
    assert task.labels == ("10", "9", "a", "b")
    assert (task.name, task.kind, task.metrics) == ("reviews", "single", ("accuracy", "macro_f1"))


@pytest.mark.parametrize(
    "source", ["/data/reviews.train.csv", "/data/reviews/train.csv", "reviews.csv", "owner/reviews@plain:train"]
)
def test_a_task_is_named_after_its_data(source: str) -> None:
    assert infer_task(labelled("a", "b"), DataSettings(train=source)).name == "reviews"


def test_the_kind_follows_from_the_columns() -> None:
    pairs = [Example("x", pair="y", label=label) for label in "ab"]
    relations = [Example("xyz", head=Span(0, 1), tail=Span(1, 2), label=label) for label in "ab"]
    settings = DataSettings(train="owner/name:train")
    assert infer_task(pairs, settings).kind == "pair"
    assert infer_task(relations, settings).kind == "relation"
    with pytest.raises(ConfigError, match="different kinds \\(pair and relation\\)"):
        infer_task(pairs + relations, settings)


def test_tags_begin_with_o_and_are_scored_as_entities_where_they_are() -> None:
    settings = DataSettings(train="x.jsonl")
    rows = [Example("a b c", words=("a", "b", "c"), tags=("B-x", "O", "I-x"))]
    task = infer_task(rows, settings)
    assert (task.labels, task.kind, task.metrics) == (("O", "B-x", "I-x"), "tags", ("entity_f1", "accuracy"))
    speech = infer_task([Example("a b", words=("a", "b"), tags=("NOUN", "VERB"))], settings)
    assert speech.metrics == ("accuracy", "macro_f1")


def test_choices_are_named_by_place_and_must_be_equally_many() -> None:
    settings = DataSettings(train="x.jsonl")
    two = Example("a", choices=("b", "c"), label="choice1")
    assert infer_task([two], settings).labels == ("choice1", "choice2")
    with pytest.raises(ConfigError, match="have 2 and 3 choices"):
        infer_task([two, Example("a", choices=("b", "c", "d"), label="choice1")], settings)


def test_values_run_from_the_lowest_to_the_highest_unless_the_task_says() -> None:
    rows = [Example("a", value=1.0), Example("b", value=3.0)]
    assert infer_task(rows, DataSettings(train="x.jsonl")).scale == (1.0, 3.0)
    assert infer_task(rows, DataSettings(task="stsb")).scale == (0.0, 5.0)
    with pytest.raises(ConfigError, match=r"Every row of x\.jsonl has the value 1"):
        infer_task(rows[:1], DataSettings(train="x.jsonl"))


def test_a_known_task_without_classes_has_those_of_its_rows() -> None:
    rows = [Example("ab", span=Span(0, 1), label=label) for label in ("PER", "ORG")]
    task = infer_task(rows, DataSettings(task="ace_entities", train="x.json"))
    assert (task.name, task.labels) == ("ace_entities", ("ORG", "PER"))


@pytest.mark.parametrize("name", ["sst2", "stsb", "wnut17"])
def test_a_task_is_the_same_after_it_was_kept_as_json(name: str) -> None:
    kept = Task.from_dict(json.loads(json.dumps(TASKS[name].to_dict())))
    assert kept == TASKS[name]
    assert kept.source is None


def test_ids_follow_the_order_of_labels() -> None:
    examples = [*labelled("b", "a"), Example("x")]
    assert infer_task(examples[:2], DataSettings(train="x.csv")).ids(examples) == [1, 0, -1]


def test_label_texts_replace_the_words_of_the_classes_they_name() -> None:
    settings = DataSettings(train="x.csv", label_texts={"pos": "a great film"})
    assert infer_task(labelled("pos", "neg"), settings).label_texts == ("neg", "a great film")
    banking = infer_task(labelled("card_arrival"), DataSettings(task="banking77", label_texts={"age_limit": "how old"}))
    assert banking.label_texts[12] == "how old"


def test_a_label_text_for_an_unknown_class_names_the_nearest() -> None:
    settings = DataSettings(train="x.csv", label_texts={"positiv": "great"})
    with pytest.raises(ConfigError, match=r"data\.label_texts names positiv.*Did you mean positive"):
        infer_task(labelled("positive", "negative"), settings)


def test_a_single_class_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Every row of x\.csv has the label a.*at least 2"):
        infer_task(labelled("a", "a"), DataSettings(train="x.csv"))


def test_an_unknown_task_names_the_nearest_and_the_way_for_own_data() -> None:
    with pytest.raises(ConfigError, match=r"data.task is banking.*Did you mean banking77.*give data\.train"):
        known_task("banking")


def test_rows_that_do_not_fit_a_known_task_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"semeval2010_task8, whose rows are of the kind relation, but those of x\.csv"
    ):
        infer_task(labelled("Other"), DataSettings(task="semeval2010_task8", train="x.csv"))
