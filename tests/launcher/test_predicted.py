import io
import json

import pytest

from infoprompt.artifact import Prediction
from infoprompt.config import ConfigError
from infoprompt.data.problems import RowError
from infoprompt.data.rows import Example
from launcher.known_tasks import task_table, tasks_found
from launcher.predict import show
from launcher.predict.choose import Asked


def as_line(example, prediction, top, name=None):
    return show.as_line(Asked(example.text, name, example), prediction, top)


def as_json(example, prediction, name=None):
    return show.as_json(Asked(example.text, name, example), prediction)


def test_the_most_probable_labels_come_first():
    prediction = Prediction("b", {"a": 0.25, "b": 0.75})
    assert as_line(Example("x", pair="y"), prediction, 2) == "b\t0.750\ta\t0.250\tx\ty"
    assert as_line(Example("x", choices=("p", "q")), prediction, 1) == "b\t0.750\tx\tp\tq"


def test_tags_and_values_have_no_probabilities():
    tags = Prediction("O B-x", {}, tags=("O", "B-x"))
    words = Example("a b", words=("a", "b"))
    assert as_line(words, tags, 1) == "O B-x\ta b"
    assert json.loads(as_json(words, tags)) == {
        "label": "O B-x",
        "tags": ["O", "B-x"],
        "text": "a b",
        "words": ["a", "b"],
    }
    value = json.loads(as_json(Example("a", pair="b"), Prediction("2.5", {}, value=2.5)))
    assert value == {"label": "2.5", "value": 2.5, "text": "a", "pair": "b"}


def test_the_artifacts_name_comes_first_where_there_are_several():
    example, prediction = Example("x"), Prediction("b", {"a": 0.25, "b": 0.75})
    assert as_line(example, prediction, 1, "runs/a") == "runs/a\tb\t0.750\tx"
    assert json.loads(as_json(example, prediction, "runs/a"))["prompt"] == "runs/a"
    assert "prompt" not in json.loads(as_json(example, prediction))


def test_the_table_of_tasks_says_where_rows_are_found(tmp_path, monkeypatch):
    monkeypatch.delenv("INFOPROMPT_DATA", raising=False)
    (tmp_path / "rte").mkdir()
    (tmp_path / "rte" / "train.jsonl").write_text('{"text_a": "a", "text_b": "b", "label": "entailment"}\n')
    rows = {row["name"]: row for row in tasks_found(str(tmp_path))}
    assert rows["banking77"]["found"] == "with the package"
    assert rows["rte"]["found"] == "in the folder"
    assert rows["cola"]["found"] is None
    assert rows["rte"]["sources"] == ["folder rte", "hub nyu-mll/glue@rte"]
    assert task_table(str(tmp_path)).row_count == len(rows)


def test_the_other_columns_of_a_row_are_kept_under_names_of_their_own():
    row = {"Text": "x", "id": 7, "label": "gold", "use": "a", "far": float("nan"), "half": "\ud83d"}
    asked = Asked(row, "a", Example("x"), shown=frozenset({"Text"}), route="use")
    prediction = Prediction("b", {"a": 0.25, "b": 0.75})
    shown = show.as_json(asked, prediction)
    assert shown.isascii()
    assert json.loads(shown) == {
        "prompt": "a",
        "label": "b",
        "probabilities": {"a": 0.25, "b": 0.75},
        "text": "x",
        "id": 7,
        "given_label": "gold",
        "far": None,
        "half": "\ud83d",
    }


def test_a_table_has_the_same_columns_in_every_row():
    stream = io.StringIO()
    table = show.Table(stream, "csv", 1)
    table.write(Asked({"text": "x", "id": 1}, example=Example("x")), Prediction("b", {"b": 1.0}))
    table.write(Asked({"text": "", "id": 2}, problem=RowError("row 2", "empty", "row 2 is empty")), None)
    assert stream.getvalue() == "label,probability,text,id\nb,1,x,1\n,,,2\n"
    with pytest.raises(ConfigError, match="has the column more, which the first row has not"):
        table.write(Asked({"text": "x", "more": 1}, example=Example("x")), Prediction("b", {"b": 1.0}))
