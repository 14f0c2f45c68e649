import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from infoprompt.config import ConfigError
from infoprompt.data.rows import Example, Span, example_from_mapping, read_examples

ROWS = [{"text": "a fine film", "label": "good"}, {"text": "never again", "label": "bad"}]
EXAMPLES = [Example("a fine film", label="good"), Example("never again", label="bad")]


def write(path: Path, text: str | bytes) -> str:
    content = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def one(row: Mapping[str, Any], columns: Mapping[str, str] | None = None, labelled: bool = True) -> Example:
    return example_from_mapping(row, columns or {}, labelled, "row 7 of x.jsonl")


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.json"])
def test_json_lines_are_read_whatever_the_file_is_called(tmp_path: Path, name: str) -> None:
    lines = "\n".join(json.dumps(row) for row in ROWS) + "\n\n"
    assert read_examples(write(tmp_path / name, lines), {}) == EXAMPLES


@pytest.mark.parametrize("name", ["x.json", "x.json.gz"])
def test_a_json_list_is_read(tmp_path: Path, name: str) -> None:
    assert read_examples(write(tmp_path / name, json.dumps(ROWS)), {}) == EXAMPLES


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
def test_csv_is_read_with_quotes_and_a_byte_order_mark(tmp_path: Path, name: str) -> None:
    text = '\ufefftext,label\r\n"a fine, ""fine""\nfilm",good\r\n'
    assert read_examples(write(tmp_path / name, text), {}) == [Example('a fine, "fine"\nfilm', label="good")]


def test_no_value_is_taken_for_a_date_a_number_or_a_gap(tmp_path: Path) -> None:
    csv = write(tmp_path / "x.csv", "text,label\n2020-01-01,007\nNA,null\n")
    lines = write(tmp_path / "x.jsonl", '{"text": "2020-01-01", "label": "007"}\n{"text": "NA", "label": "null"}')
    expected = [Example("2020-01-01", label="007"), Example("NA", label="null")]
    assert read_examples(csv, {}) == read_examples(lines, {}) == expected


def test_parquet_class_numbers_become_names_and_nothing_is_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    table = datasets.Dataset.from_dict({"text": ["a fine film", "never again"], "label": [1, 0]}, features=features)
    table.to_parquet(str(tmp_path / "x.parquet"))
    assert read_examples(str(tmp_path / "x.parquet"), {}) == EXAMPLES
    assert not cache.exists()


def test_a_hub_split_is_asked_for_by_name_config_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    table = datasets.Dataset.from_dict({"text": ["a fine film", "never again"], "label": [1, 0]}, features=features)

    def load_dataset(*arguments: Any, **options: Any) -> Any:
        asked.append((*arguments, options["split"]))
        return table

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_examples("owner/films:train", {}) == EXAMPLES
    assert read_examples("owner/films@plain:train[:10%]", {}) == EXAMPLES
    assert asked == [("owner/films", None, "train"), ("owner/films", "plain", "train[:10%]")]


def test_private_labels_of_a_hub_split_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    table = datasets.Dataset.from_dict({"text": ["a fine film"], "label": [-1]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: table)
    with pytest.raises(ConfigError, match=r"The label of row 1 of owner/films:test is empty.*kept private"):
        read_examples("owner/films:test", {})


def test_a_hub_that_cannot_be_reached_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(*_: Any, **__: Any) -> Any:
        raise ConnectionError("Couldn't reach 'owner/films' on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ConfigError, match=r"owner/films:train cannot be had: .*HF_HUB_OFFLINE=1.*\.jsonl file"):
        read_examples("owner/films:train", {})


def test_a_pair_is_read_by_our_names_and_by_given_ones() -> None:
    pair = Example("is it?", pair="it is", label="yes")
    assert one({"text_a": "is it?", "text_b": "it is", "label": "yes"}) == pair
    row = {"question": "is it?", "sentence": "it is", "answer": "yes"}
    assert one(row, {"text_a": "question", "text_b": "sentence", "label": "answer"}) == pair
    assert one(row, {"text": "question", "pair": "sentence", "label": "answer"}) == pair


def test_a_relation_is_read_from_objects_and_from_flat_columns() -> None:
    relation = Example("fire makes smoke", head=Span(0, 4), tail=Span(11, 16), label="Cause")
    head, tail = {"text": "fire", "start": 0, "end": 4}, {"text": "smoke", "start": 11, "end": 16}
    assert one({"text": "fire makes smoke", "head": head, "tail": tail, "label": "Cause"}) == relation
    flat = {"head_start": "0", "head_end": "4", "tail_start": 11, "tail_end": 16}
    assert one({"text": "fire makes smoke", **flat, "label": "Cause"}) == relation
    assert one({"text": "fire makes smoke", "head": "fire", "tail": "smoke", **flat, "label": "Cause"}) == relation


def test_a_span_words_choices_and_a_value_are_read() -> None:
    span = {"text": "fire makes smoke", "label": "Cause"}
    expected = Example("fire makes smoke", span=Span(0, 4), label="Cause")
    assert one({**span, "span": {"start": 0, "end": 4, "text": "fire"}}) == expected
    assert one({**span, "span_start": 0, "span_end": "4"}) == expected
    tagged = Example("a b", words=("a", "b"), tags=("O", "B-x"))
    assert (
        one({"tokens": ["a", "b"], "tags": ["O", "B-x"]}) == one({"words": ["a", "b"], "tags": ["O", "B-x"]}) == tagged
    )
    assert one({"tokens": ["a", "b"]}, labelled=False) == tagged.unlabelled()
    assert one({"text": "a", "text_b": "b", "value": "2.5"}) == Example("a", pair="b", value=2.5)
    assert one({"text": "a", "score": 2}, {"value": "score"}) == Example("a", value=2.0)


@pytest.mark.parametrize("label", ["choice2", "q", 1, "1"])
def test_a_choice_is_named_by_its_place_its_words_or_its_number(label: Any) -> None:
    assert one({"text": "a", "choices": ["p", "q"], "label": label}) == Example(
        "a", choices=("p", "q"), label="choice2"
    )


@pytest.mark.parametrize(
    ("example", "kind"),
    [
        (Example("a"), "single"),
        (Example("a", pair="b"), "pair"),
        (Example("ab", head=Span(0, 1), tail=Span(1, 2)), "relation"),
        (Example("ab", span=Span(0, 1)), "span"),
        (Example("a", words=("a",)), "tags"),
        (Example("a", choices=("b", "c")), "choice"),
        (Example("a", value=1.0), "regression"),
    ],
)
def test_the_kind_follows_from_what_an_example_has(example: Example, kind: str) -> None:
    assert example.kind == kind


@pytest.mark.parametrize(("value", "label"), [(3, "3"), (-1, "-1"), (True, "true"), (2.0, "2"), ("a b", "a b")])
def test_a_label_becomes_a_string(value: Any, label: str) -> None:
    assert one({"text": "x", "label": value}).label == label


def test_a_row_to_predict_needs_no_label() -> None:
    assert one({"text": "x"}, labelled=False) == Example("x")
    assert one({"text": "x"}, {"label": "target"}, labelled=False) == Example("x")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"sentence": "x", "label": "a"},
            r"row 7 of x\.jsonl has no column text. It has: sentence, label.*data.columns",
        ),
        ({"text": "x", "target": "a"}, r"has no column label. It has: text, target"),
        ({"text": " ", "label": "a"}, r"The text of row 7 of x\.jsonl is empty"),
        ({"text": None, "label": "a"}, "The text of row 7 .* is None"),
        ({"text": ["x"], "label": "a"}, r"is \['x'\], but must be a string"),
        ({"text": "x", "pair": "", "label": "a"}, "The pair of row 7 .* is empty"),
        ({"text": "x", "label": None}, "The label of row 7 .* is empty"),
        ({"text": "x", "label": float("nan")}, "The label of row 7 .* is empty"),
        ({"text": "x", "label": ""}, "The label of row 7 .* is empty"),
        ({"text": "x", "label": 0.5}, "is 0.5, but must be a class"),
        ({"text": "abc", "head": {"start": 0, "end": 1}, "label": "a"}, "marks a head but no tail"),
        ({"tokens": ["a", "b"], "tags": ["O"]}, "row 7 .* has 2 words but 1 tags"),
        ({"tokens": ["a", "b"]}, "has no column tags. It has: tokens"),
        ({"tokens": "a b", "tags": ["O"]}, "The words of row 7 .* is 'a b', but must be a list"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "The words item 2 of row 7 .* is empty"),
        ({"text": "x", "choices": ["p", "q"], "label": 2}, "is '2', but must be one of choice1, choice2"),
        ({"text": "x", "value": "high"}, "The value of row 7 .* is 'high', but must be a number"),
        ({"text": "x", "value": float("nan")}, "is nan, but must be a number"),
    ],
)
def test_a_row_at_fault_is_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        one(row)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"start": 2, "end": 9}, "The head of row 7 .* runs from 2 to 9, but its text has the characters 0 to 4"),
        ({"start": 2, "end": 2}, "runs from 2 to 2"),
        ({"start": -1, "end": 2}, "runs from -1 to 2"),
        ({"start": 0, "end": 2, "text": "bc"}, "is 'bc', but its offsets point at 'ab'"),
        ({"start": None, "end": 2}, "The head start of row 7 .* is None"),
    ],
)
def test_a_span_at_fault_is_named(head: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        one({"text": "abcd", "head": head, "tail": {"start": 2, "end": 3}, "label": "a"})


def test_a_column_setting_at_fault_is_named() -> None:
    with pytest.raises(ConfigError, match=r"data\.columns\.text is sentence, but row 7 .* It has: words, label"):
        one({"words": "x", "label": "a"}, {"text": "sentence"})
    with pytest.raises(ConfigError, match=r"data\.columns names lable.* Did you mean label"):
        one({"text": "x", "label": "a"}, {"lable": "label"})


def test_a_candidate_is_right_if_it_is_one_of_the_answers() -> None:
    asked = {"question": "Who lost?", "text": "Bob"}
    right = one({"text": "Bob lost", "candidate": {**asked, "answers": ["Ann", "Bob"]}})
    assert (right.kind, right.label) == ("answer", "true")
    assert one({"text": "Bob lost", "candidate": {**asked, "answers": ["Ann"]}}).label == "false"
    assert right.unlabelled() == Example("Bob lost")
    with pytest.raises(ConfigError, match=r"The candidate's answers of row 7 .* is None, but must be a list"):
        one({"text": "Bob lost", "candidate": asked})


def test_a_missing_file_is_named_in_full_with_the_form_of_hub_splits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for source in ("nowhere.jsonl", "owner/films"):
        with pytest.raises(ConfigError, match=f"There is no file {tmp_path / source}.*owner/name:split"):
            read_examples(source, {})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", '{"text": "x", "label": "a"}\n{"text": ', r"line 2 of .*x\.jsonl is not valid JSON"),
        ("x.jsonl", '["x", "a"]\n', r"line 1 of .* holds a list, but must hold an object"),
        ("x.json", '[{"text": "x"', r"x\.json is not valid JSON"),
        ("x.csv", "text,label\na,b,c\n", r"row 1 of .*x\.csv has not as many cells as the header"),
        ("x.csv", "text,label\na\n", "row 1 of .* has not as many cells"),
        ("x.csv", 'text,label\n"a,b\n', r"row 1 of .*x\.csv .* opens a quote that is never closed"),
        ("x.jsonl", b'{"text": "\xff"}', r"line 1 of .*x\.jsonl is not UTF-8: it holds the byte 0xff"),
        ("x.parquet", b"PAR1 no parquet", r"x\.parquet cannot be read, it may be damaged"),
        ("x.jsonl", "\n", r"x\.jsonl has no rows"),
        ("x.xml", "<text/>", r"x\.xml is of no known kind"),
        ("x.tsv", "text\tlabel\nx\n", r"row 1 of .*x\.tsv has 1 cells, but the header has 2"),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # pyarrow leaves a damaged file to the garbage collector
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_examples(write(tmp_path / name, content), {})


def test_a_cut_off_gzip_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "x", "label": "a"}\n' * 100)[:-12])
    with pytest.raises(ConfigError, match=r"x\.jsonl\.gz cannot be read, it may be damaged"):
        read_examples(str(path), {})
