"""Texts without labels: none of them is a row that is trained, chosen or tested on, and none brings its label."""

import json
import logging

import pytest

from infoprompt.config import ConfigError, DataSettings
from infoprompt.data.splits import load_splits


@pytest.fixture
def files(tmp_path):
    def write(name, count, start=0):
        rows = [{"text": f"text {i}", "label": "ny"[i % 2]} for i in range(start, start + count)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    return {"train": write("train.jsonl", 500), "test": write("test.jsonl", 300, start=480)}


def pool_of(splits):
    return [splits.unlabelled.texts[row] for row in splits.unlabelled.used]


def settings(files, **changes):
    return DataSettings(**{**files, "unlabelled": "rest", "few_shot": {"per_class": 8}, **changes})


def test_the_rest_has_no_row_of_another_part_and_no_label(files):
    splits = load_splits(settings(files), 0)
    pool = pool_of(splits)
    texts = {row.text for row in pool}
    assert len(texts) == len(pool) == 500 - 16 - 16 - 20  # 20 test rows stand among the training rows
    assert not texts & {row.text for part in (splits.train, splits.validation, splits.test) for row in part}
    assert all(row.label is None for row in splits.unlabelled.texts)
    assert "448 texts without labels (rest)" in splits.description


def test_the_texts_are_the_same_for_every_seed_and_what_is_used_is_not(files):
    first, second = (load_splits(settings(files), seed) for seed in (0, 1))
    assert first.unlabelled.texts == second.unlabelled.texts
    assert set(first.unlabelled.used) != set(second.unlabelled.used)


def test_a_number_of_rows_is_drawn_by_the_seed(files):
    drawn = [pool_of(load_splits(settings(files, unlabelled_rows=210), seed)) for seed in (0, 0, 1)]
    assert [len(pool) for pool in drawn] == [210] * 3
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_text_file_has_a_text_a_line(files, tmp_path, caplog):
    (tmp_path / "more.txt").write_text("\n".join([*(f"line {i}" for i in range(250)), "", "text 3", "line 3"]))
    with caplog.at_level(logging.WARNING):
        splits = load_splits(settings(files, unlabelled=str(tmp_path / "more.txt"), few_shot={}), 0)
    assert len(pool_of(splits)) == 250  # not an empty line, nor what is known already
    assert "250 texts can be used; 1,000 are better" in caplog.text


def test_rows_with_labels_lose_them(files, tmp_path):
    rows = "".join(json.dumps({"text": f"other {i}", "label": "unheard of"}) + "\n" for i in range(220))
    (tmp_path / "more.jsonl").write_text(rows)
    splits = load_splits(settings(files, unlabelled=str(tmp_path / "more.jsonl")), 0)
    assert {row.label for row in pool_of(splits)} == {None}


def test_test_rows_are_used_under_their_own_name_alone(files):
    splits = load_splits(settings(files, unlabelled="transductive"), 0)
    known = {row.text for part in (splits.train, splits.validation) for row in part}
    assert {row.text for row in pool_of(splits)} == {row.text for row in splits.test} - known
    assert "(transductive)" in splits.description


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"few_shot": {"per_class": 120}}, "of which .. texts can be used, but under 200"),
        ({"unlabelled": "transductive", "test": None}, "no test rows"),
        ({"unlabelled": "nowhere.txt"}, "nowhere.txt"),
    ],
)
def test_a_pool_that_would_harm_is_refused(files, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_splits(settings(files, **changes), 0)


def test_rows_of_another_kind_are_refused(files, tmp_path):
    rows = "".join(json.dumps({"text": f"a {i}", "pair": "b"}) + "\n" for i in range(220))
    (tmp_path / "pairs.jsonl").write_text(rows)
    with pytest.raises(ConfigError, match="of the kind pair, and the task is of the kind single"):
        load_splits(settings(files, unlabelled=str(tmp_path / "pairs.jsonl")), 0)


def test_a_task_without_one_class_a_text_is_refused(tmp_path):
    rows = "".join(json.dumps({"text": f"a {i}", "value": i}) + "\n" for i in range(300))
    (tmp_path / "values.jsonl").write_text(rows)
    with pytest.raises(ConfigError, match="of the kind regression"):
        load_splits(DataSettings(train=str(tmp_path / "values.jsonl"), unlabelled="rest"), 0)
