"""Labels in several spellings, unknown ones, and what looks like no label; rows that are left out."""

import csv
import json
from pathlib import Path

import pytest

from infoprompt.config import ConfigError, DataSettings
from infoprompt.data.rows import Example
from infoprompt.data.split_rows import write_skipped
from infoprompt.data.splits import load_splits


def write(path: Path, rows, header=("text", "label")) -> str:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return str(path)


def numbered(labels):
    return [(f"text {number}", label) for number, label in enumerate(labels)]


def splits_of(folder, train, test=None, **settings):
    given = {"train": write(folder / "train.csv", train)}
    if test is not None:
        given["test"] = write(folder / "test.csv", test)
    return load_splits(DataSettings(**given, **settings), 0)


@pytest.mark.parametrize(
    ("train", "test", "classes"),
    [
        (["good", "good ", " bad", "bad"], ["good", "bad "], ("bad", "good")),
        (["1.0", "0.0"], ["1", "0"], ("0.0", "1.0")),
        (["1", "0"], ["1.0", "0.0"], ("0", "1")),
        (["1", "1.0", "0"], ["1.00"], ("0", "1")),
        (["True", "False"], ["true", "FALSE"], ("False", "True")),
        (["true", "True", "False"], ["TRUE"], ("False", "true")),
        (["007", "7"], ["7"], ("7", "007")),
        (["1.5", "2.0"], ["2"], ("1.5", "2.0")),
    ],
)
def test_spellings_of_one_class_are_one_class(tmp_path, train, test, classes):
    splits = splits_of(tmp_path, numbered(train * 4), numbered(test))
    assert set(splits.task.labels) == set(classes)
    assert all(example.label in splits.task.labels for example in splits.test)


def test_merged_spellings_are_told(tmp_path):
    splits = splits_of(tmp_path, numbered(["1", "1.0", "0"] * 5))
    assert any("'1' and '1.0' are read as one class, '1'" in note for note in splits.notes)


def test_labels_that_look_like_values_or_texts_or_differ_in_case_are_told(tmp_path):
    def told(labels):
        return " ".join(splits_of(tmp_path, numbered(labels)).notes)

    assert "look like values" in told([f"{number / 7:.2f}" for number in range(40)] * 2)
    assert "data.task=regression" in told([f"{number / 7:.2f}" for number in range(40)] * 2)
    assert "look like free text" in told([f"an answer of several words, number {number}" for number in range(30)] * 2)
    assert "differ only in case" in told(["Good", "good", "bad"] * 6)
    assert told(["good", "bad"] * 20) == ""
    assert "look like" not in told([str(number) for number in range(40)] * 2)


def test_an_unknown_label_is_named_with_the_nearest_known_ones(tmp_path):
    train = numbered([f"class_{number}" for number in range(30)] * 2)
    test = numbered(["class_3", "clas_7", "clas_7", "other"])
    with pytest.raises(ConfigError) as caught:
        splits_of(tmp_path, train, test)
    message = str(caught.value)
    assert "- 2 rows: the label 'clas_7', which the training rows have not (row 2, row 3)" in message
    assert "the nearest are 'class_7'" in message
    assert "and 20 more" in message
    assert "row 4 of" in message


def test_faults_of_all_files_are_named_at_once(tmp_path):
    with pytest.raises(ConfigError) as caught:
        splits_of(tmp_path, [*numbered(["good", "bad"] * 5), ("", "good")], [("a", "ugly"), ("b", "")])
    message = str(caught.value)
    assert "The text of row 11 of" in message
    assert "has the label 'ugly'" in message
    assert "The label of row 2 of" in message
    assert "data.bad_rows=skip" in message


def test_rows_in_both_parts_and_texts_with_unlike_labels_are_told(tmp_path):
    train = [*numbered(["good", "bad"] * 5), ("text 0", "bad")]
    splits = splits_of(tmp_path, train, [("text 1", "bad"), ("new", "good")])
    assert "1 texts stand in the training rows with unlike labels, such as 'text 0'." in splits.notes
    assert "1 of 2 test rows stand in the training rows too." in splits.notes


def test_bad_rows_are_left_out_where_that_is_asked_for(tmp_path):
    train = [*numbered(["good", "bad"] * 5), ("", "good"), ("x", "")]
    splits = splits_of(tmp_path, train, [("a", "good"), ("b", "ugly")], bad_rows="skip")
    assert len(splits.train) + len(splits.validation) == 10
    assert splits.test == [Example("a", label="good")]
    assert any("2 training rows of" in note and "are left out" in note for note in splits.notes)
    write_skipped(splits.skipped, tmp_path / "out")
    kept = [json.loads(line) for line in (tmp_path / "out" / "skipped_rows.jsonl").read_text().splitlines()]
    assert [row["part"] for row in kept] == ["training", "training", "test"]
    assert "row 11 of" in kept[0]["where"]
    assert "is empty" in kept[0]["reason"]
    with pytest.raises(ConfigError, match=r"data\.bad_rows is skip, but no row is left"):
        splits_of(tmp_path, numbered(["good", "bad"] * 5), [("a", "ugly")], bad_rows="skip")


def test_rows_of_another_kind_than_most_are_refused_or_left_out(tmp_path):
    rows = [{"text": f"t {n}", "label": ("a", "b")[n % 2]} for n in range(8)]
    rows.append({"text": "t", "pair": "u", "label": "a"})
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError, match=r"different kinds \(pair and single\).*line 9 of"):
        load_splits(DataSettings(train=str(path)), 0)
    assert load_splits(DataSettings(train=str(path), bad_rows="skip"), 0).task.kind == "single"


def test_a_kind_of_task_is_asked_for_by_name(tmp_path):
    rows = numbered([f"{number / 4}" for number in range(12)])
    splits = splits_of(tmp_path, rows, rows[:2], task="regression")
    assert splits.task.kind == "regression"
    assert splits.test[1].value == 0.25
    with pytest.raises(ConfigError, match=r"data\.task is pair, but the rows of .* are of the kind regression|single"):
        splits_of(tmp_path, numbered(["good", "bad"] * 5), task="pair")
    with pytest.raises(ConfigError, match=r"data\.task is regresion.* Did you mean regression\?"):
        splits_of(tmp_path, rows, task="regresion")
    with pytest.raises(ConfigError, match=r"a kind of task, so data\.train must name its rows"):
        load_splits(DataSettings(task="regression"), 0)


def test_a_value_for_each_text_is_said_to_be_one_where_no_class_can_be_held_out(tmp_path):
    with pytest.raises(ConfigError, match=r"every class has one text only.*look like values.*data\.task=regression"):
        splits_of(tmp_path, numbered([f"{number / 7:.2f}" for number in range(40)]))
