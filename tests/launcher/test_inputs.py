import io
import json

import pytest

from infoprompt.config import ConfigError
from infoprompt.data.columns import ColumnNames
from infoprompt.data.rows import Example, Span
from launcher.predict.inputs import parse_given, parse_line, read_given


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def read_inputs(texts, file, stdin, kind, columns):
    names = ColumnNames(columns)
    given = read_given(texts, file, stdin)
    return [example for where, one in given for example in parse_given(one, kind, names, where)]


def test_texts_come_before_standard_input():
    assert read_inputs(["a", "b"], None, io.StringIO("c\n"), "single", {}) == [Example("a"), Example("b")]


def test_lines_of_standard_input_may_be_json():
    given = io.StringIO('plain\n{"text": "row"}\n{not json\n')
    assert [example.text for example in read_inputs([], None, given, "single", {})] == ["plain", "row", "{not json"]


def test_a_text_file_is_read_by_lines(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("one\ntwo\n")
    assert [example.text for example in read_inputs([], str(file), Terminal(), "single", {})] == ["one", "two"]
    file.write_text("one\n\n")
    with pytest.raises(ConfigError, match=r"line 2 of .*texts.txt is empty"):
        read_inputs([], str(file), Terminal(), "single", {})


def test_a_data_file_is_read_by_rows_and_needs_no_label(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"sentence": "one"}) + "\n")
    assert read_inputs([], str(file), Terminal(), "single", {"text": "sentence"}) == [Example("one")]


def test_a_pair_has_a_tab_between_its_texts():
    assert parse_line("one\ttwo", "pair", "line 1") == Example("one", pair="two")


def test_markers_become_places_in_the_text_without_them():
    example = parse_line("The <e1>fire</e1> came from <e2>there</e2>.", "relation", "line 1")
    assert example == Example("The fire came from there.", head=Span(4, 8), tail=Span(19, 24))


def test_the_second_entity_may_come_first():
    example = parse_line("<e2>there</e2> burnt the <e1>fire</e1>", "relation", "line 1")
    assert example.text[example.head.start : example.head.end] == "fire"
    assert example.text[example.tail.start : example.tail.end] == "there"


@pytest.mark.parametrize(
    ("line", "kind", "expected"),
    [
        ("The <e>fire</e> is out.", "span", Example("The fire is out.", span=Span(4, 8))),
        ("The  fire", "tags", Example("The fire", words=("The", "fire"))),
        ("wet\tIt rained.\tIt snowed.", "choice", Example("wet", choices=("It rained.", "It snowed."))),
        ("one\ttwo", "regression", Example("one", pair="two")),
        ("one", "regression", Example("one")),
        ('{"tokens": ["The", "fire"]}', "tags", Example("The fire", words=("The", "fire"))),
        ('{"text": "wet", "choices": ["a", "b"]}', "choice", Example("wet", choices=("a", "b"))),
    ],
)
def test_a_line_of_every_kind_is_read(line, kind, expected):
    assert parse_given(line, kind, ColumnNames({}), "line 1") == [expected]


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("", "single", "line 3 is empty"),
        ("one", "pair", "two texts with a tab between"),
        ("no markers", "relation", "mark the two entities"),
        ("only <e1>one</e1>", "relation", "mark the two entities"),
        ("an <e1></e1>empty <e2>one</e2>", "relation", "mark the two entities"),
        ("no marker", "span", "mark the span"),
        ("wet\tone answer", "choice", "a text and its answers with tabs"),
    ],
)
def test_a_line_of_another_kind_is_refused(line, kind, message):
    with pytest.raises(ConfigError, match=message):
        parse_line(line, kind, "line 3")


def test_nothing_to_predict_is_refused():
    with pytest.raises(ConfigError, match="nothing to predict"):
        read_inputs([], None, Terminal(), "single", {})
    with pytest.raises(ConfigError, match="nothing to predict"):
        read_inputs([], None, io.StringIO(""), "single", {})
