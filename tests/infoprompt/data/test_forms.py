"""Published rows as our examples."""

from typing import Any

import pytest

from infoprompt.config import ConfigError
from infoprompt.data.ace import entity_rows, relation_rows
from infoprompt.data.published_formats import adapter
from infoprompt.data.rows import Example, Span, example_from_mapping
from infoprompt.data.tasks import TASKS


def examples(task: str, row: dict[str, Any]) -> list[Example]:
    adapt = adapter(TASKS[task])
    assert adapt is not None
    return [example_from_mapping(part, {}, labelled=True, where="row 1") for part in adapt(row)]


def marked(example: Example, *names: str) -> list[str]:
    spans = [getattr(example, name) for name in names]
    return [example.text[span.start : span.end] for span in spans]


def test_columns_of_the_hub_and_of_glue_archives_are_found() -> None:
    expected = [Example("a", pair="b", label="equivalent")]
    assert examples("mrpc", {"sentence1": "a", "sentence2": "b", "label": "equivalent", "idx": 3}) == expected
    assert examples("mrpc", {"Quality": "1", "#1 ID": "5", "#1 String": "a", "#2 String": "b"}) == expected
    assert examples("mrpc", {"text_a": "a", "text_b": "b", "label": "equivalent"}) == expected
    assert examples("boolq", {"passage": "p", "question": "q", "label": True}) == [Example("p", pair="q", label="true")]
    assert examples("mr", {"text": "a", "label": "neg"}) == [Example("a", label="negative")]
    assert examples("sst5", {"text": "a", "label": 1, "label_text": "negative"}) == [Example("a", label="negative")]


def test_a_similarity_is_a_value() -> None:
    (example,) = examples("stsb", {"text_a": "a", "text_b": "b", "label": 2.5})
    assert (example.kind, example.value, example.label) == ("regression", 2.5, None)
    assert examples("stsb", {"sentence1": "a", "sentence2": "b", "score": "2.500"}) == [example]


def test_copa_asks_its_question_behind_the_premise() -> None:
    row = {"question": "cause", "choice1": "It rained.", "choice2": "It snowed."}
    (ours,) = examples("copa", {"text": "It is wet.", "label": "choice1", **row})
    (published,) = examples("copa", {"premise": "It is wet.", "label": 0, "idx": 1, **row})
    assert ours == published
    assert ours.text == "It is wet. What was the cause?"
    assert (ours.choices, ours.label) == (("It rained.", "It snowed."), "choice1")


def test_wic_marks_the_word_in_both_sentences() -> None:
    expected = [Example("my @ place @", pair="a @ place @ for all", label="false")]
    row = {"word": "place", "text_a": "my place", "text_b": "a place for all", "label": "false"}
    assert examples("wic", {**row, "span_a": [3, 8], "span_b": [2, 7]}) == expected
    places = {"start1": 3, "end1": 8, "start2": 2, "end2": 7}
    assert (
        examples("wic", {"sentence1": "my place", "sentence2": "a place for all", "label": False, **places}) == expected
    )


def test_wsc_counts_words_and_we_count_characters() -> None:
    spans = {"span1_index": 0, "span1_text": "Mark", "span2_index": 6, "span2_text": "he"}
    text = "Mark told  Pete many lies, which he denied."
    (flat,) = examples("wsc", {"text": text, "label": "True", **spans})
    (nested,) = examples("wsc", {"text": text, "label": True, "target": spans})
    assert flat == nested
    assert (flat.kind, flat.label, marked(flat, "head", "tail")) == ("relation", "true", ["Mark", "he"])
    with pytest.raises(ConfigError, match="'she' stands at word 6"):
        examples("wsc", {"text": text, "label": True, **spans, "span2_text": "she"})


def test_multirc_has_a_pair_for_each_answer() -> None:
    answers = [{"text": "Yes", "label": 1}, {"text": "No", "label": 0}]
    nested = {"passage": {"text": "p", "questions": [{"question": "q?", "answers": answers}]}}
    expected = [Example("p", pair="q? Yes", label="true"), Example("p", pair="q? No", label="false")]
    assert examples("multirc", nested) == expected
    assert examples("multirc", {"paragraph": "p", "question": "q?", "answer": "Yes", "label": "True"}) == expected[:1]


PASSAGE = "Ann Lee met Bob in the U.S.\n@highlight\nAnn won\n@highlight\nBob lost!"
PLACES = [{"start": 0, "end": 6}, {"start": 12, "end": 14}, {"start": 23, "end": 26}, {"start": 39, "end": 41}]
QUERIES = [
    {"idx": 7, "query": "@placeholder, who lost, met her", "answers": [{"start": 12, "end": 14, "text": "Bob"}]},
    {
        "idx": 8,
        "query": "They say @placeholder won",
        "answers": [{"start": 0, "end": 6, "text": "Ann Lee"}, {"start": 39, "end": 41, "text": "Ann"}],
    },
]


def test_record_has_a_row_for_each_entity_at_the_placeholder() -> None:
    entities = ["Ann Lee", "Bob", "U.S.", "Ann"]
    bob_again = {"start": 58, "end": 60}
    archive = {"source": "s", "idx": 3, "passage": {"text": PASSAGE, "entities": [*PLACES, bob_again]}, "qas": QUERIES}
    found = examples("record", archive)
    assert [found[row].pair for row in (0, 1, 4)] == [
        "Ann Lee, who lost, met her",
        "Bob, who lost, met her",
        "They say Ann Lee won",
    ]
    assert {example.text for example in found} == {"Ann Lee met Bob in the U.S. Ann won. Bob lost!"}
    asked = [example.candidate for example in found if example.candidate is not None]
    assert [candidate.text for candidate in asked] == entities * 2
    assert [example.label for example in found] == [
        *("false", "true", "false", "false"),
        *("true", "false", "false", "true"),
    ]
    assert [asked[0].right, asked[4].right] == [("Bob",), ("Ann Lee", "Ann")]
    assert len({candidate.question for candidate in asked}) == 2
    hub = [
        {
            "passage": PASSAGE,
            "query": query["query"],
            "entities": entities,
            "entity_spans": {},
            "idx": {"query": number},
        }
        | {"answers": [answer["text"] for answer in query["answers"]]}
        for number, query in enumerate(QUERIES)
    ]
    of_hub = [example for row in hub for example in examples("record", row)]
    assert [(e.text, e.pair, e.label) for e in of_hub] == [(e.text, e.pair, e.label) for e in found]


def test_record_without_answers_is_not_labelled() -> None:
    hidden = {"passage": {"text": PASSAGE, "entities": PLACES}, "qas": [{"idx": 7, "query": "@placeholder lost"}]}
    adapt = adapter(TASKS["record"])
    assert adapt is not None
    assert [sorted(row) for row in adapt(hidden)] == [["text_a", "text_b"]] * 4
    with pytest.raises(ConfigError, match="row 1 has no column label"):
        examples("record", hidden)


def test_each_entity_of_tagged_words_is_a_span() -> None:
    tokens = ["Empire", "State", "in", "Rome", "Paris", "x"]
    tags = ["B-location", "I-location", "O", "B-person", "B-person", "I-group"]
    found = examples("wnut17_spans", {"tokens": tokens, "tags": tags})
    assert [marked(example, "span")[0] for example in found] == ["Empire State", "Rome", "Paris", "x"]
    assert [example.label for example in found] == ["location", "person", "person", "group"]
    assert found[0] == Example(" ".join(tokens), span=Span(0, 12), label="location")


DOCUMENT = {
    "doc_key": "d",
    "sentences": [["It", "rains"], ["Jane", "Doe", "runs", "Acme"]],
    "ner": [[], [[2, 3, "PER"], [5, 5, "ORG"]]],
    "relations": [[], [[2, 3, 5, 5, "ORG-AFF"]]],
}
SENTENCE = {
    "words": ["Jane", "Doe", "runs", "Acme"],
    "golden-entity-mentions": [
        {"text": "Jane Doe", "start": 0, "end": 2, "entity-type": "PER:Individual"},
        {"text": "Acme", "start": 3, "end": 4, "entity-type": "ORG:Commercial"},
    ],
    "golden-relation-mentions": [
        {
            "relation-type": "ORG-AFF:Employment",
            "arguments": [{"start": 3, "end": 4, "role": "Arg-2"}, {"start": 0, "end": 2, "role": "Arg-1"}],
        }
    ],
}
LINE = {"tokens": SENTENCE["words"], "ner": [[0, 1, "PER"], [3, 3, "ORG"]], "relations": [[0, 1, 3, 3, "ORG-AFF"]]}
UNDERSCORED = {name.replace("-", "_"): value for name, value in SENTENCE.items()}


@pytest.mark.parametrize("row", [DOCUMENT, SENTENCE, LINE, UNDERSCORED])
def test_both_forms_of_ace_give_the_same_entities_and_relations(row: dict[str, Any]) -> None:
    entities = examples("ace_entities", row)
    assert [(marked(example, "span")[0], example.label) for example in entities] == [
        ("Jane Doe", "PER"),
        ("Acme", "ORG"),
    ]
    (relation,) = examples("ace_relations", row)
    assert (marked(relation, "head", "tail"), relation.label) == (["Jane Doe", "Acme"], "ORG-AFF")
    assert relation.text == "Jane Doe runs Acme"


def test_rows_in_our_form_pass_unchanged() -> None:
    span = {"text": "Jane", "span": {"start": 0, "end": 4}, "label": "PER"}
    assert list(entity_rows(span)) == [span]
    relation = {"text": "Jane", "head": {"start": 0, "end": 1}, "tail": {"start": 1, "end": 2}, "label": "x"}
    assert list(relation_rows(relation)) == [relation]


def test_ace_places_outside_the_sentence_and_unknown_forms_are_refused() -> None:
    with pytest.raises(ConfigError, match="from token 2 to 9, but its sentence has 4 tokens"):
        list(entity_rows({"sentences": DOCUMENT["sentences"][1:], "ner": [[[2, 9, "PER"]]]}))
    with pytest.raises(ConfigError, match=r"needs sentences, tokens or golden-entity-mentions, but has: text"):
        list(entity_rows({"text": "x"}))
