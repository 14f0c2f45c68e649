"""An artifact through MLflow alone: it reads tables and lists, and its scores are those of `Artifact.predict`."""

import os
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import yaml

from infoprompt.artifact import Artifact
from infoprompt.artifact_files import ArtifactError
from infoprompt.config import ConfigError
from infoprompt.data.rows import Example, Span
from infoprompt.mlmodel import FILES, example_row, signature
from infoprompt.pyfunc import _load_pyfunc

# MLflow 3.17 maps its tables with an option that SQLAlchemy 2.1 calls deprecated
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

TEXTS = ["the good film was great", "a bad movie", "it was awful and the money was lost"]
# kind of task: its fields, a table of rows, and the same rows as examples
KINDS = {
    "single": ({}, {"text": TEXTS}, [Example(text=text) for text in TEXTS]),
    "pair": ({}, {"text": TEXTS, "pair": TEXTS}, [Example(text=text, pair=text) for text in TEXTS]),
    "relation": (
        {},
        {"text": TEXTS[:1], "head_start": [4], "head_end": [8], "tail_start": [18], "tail_end": [23]},
        [Example(text=TEXTS[0], head=Span(4, 8), tail=Span(18, 23))],
    ),
    "span": ({}, {"text": TEXTS[:1], "span_start": [4], "span_end": [8]}, [Example(text=TEXTS[0], span=Span(4, 8))]),
    "tags": (
        {"labels": ("O", "B-film", "I-film"), "label_texts": ("other", "film", "film")},
        {"words": [text.split() for text in TEXTS]},
        [Example(text=text, words=tuple(text.split())) for text in TEXTS],
    ),
    "choice": (
        {"labels": ("choice1", "choice2"), "label_texts": ("first", "second")},
        {"text": TEXTS, "choices": [["good", "bad"]] * 3},
        [Example(text=text, choices=("good", "bad")) for text in TEXTS],
    ),
    "answer": (
        {"labels": ("false", "true"), "label_texts": ("no", "yes")},
        {"text": TEXTS, "pair": [None, TEXTS[0], np.nan]},
        [Example(text=TEXTS[0]), Example(text=TEXTS[1], pair=TEXTS[0]), Example(text=TEXTS[2])],
    ),
    "regression": (
        {"labels": (), "label_texts": (), "scale": (0.0, 5.0), "metrics": ("pearson",)},
        {"text": TEXTS, "pair": TEXTS},
        [Example(text=text, pair=text) for text in TEXTS],
    ),
}  # fmt: skip


def load(folder, **config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow warns of type hints of its own
        import mlflow.pyfunc
    return mlflow.pyfunc.load_model(str(folder), model_config=config or None)


@pytest.fixture
def artifact_of(make_artifact, tmp_path, tiny_bert):
    """A function that makes an artifact of a kind of task; it and its folder."""

    def make(kind: str):
        made = make_artifact(
            tiny_bert,
            task={"kind": kind, **KINDS[kind][0]},
            prompt={"kind": "static", "init": "random", "length": 2},
            head={"pooling": "entities" if kind == "relation" else "mean"},
        )
        return made, tmp_path / "artifact"

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_task_predicts_through_mlflow_what_the_artifact_predicts(kind, artifact_of):
    artifact, folder = artifact_of(kind)
    _, table, examples = KINDS[kind]
    model, expected = load(folder), artifact.predict(examples)
    found = model.predict(pd.DataFrame(table))
    assert [*found.columns] == [column["name"] for column in signature(artifact.task)["outputs"]]
    if kind == "regression":
        assert found["value"].tolist() == pytest.approx([one.value for one in expected])
        return
    assert found["label"].tolist() == [one.label for one in expected]
    if kind == "tags":
        assert found["tags"].tolist() == [[*one.tags] for one in expected]
        return
    assert found["probabilities"].tolist() == [pytest.approx(one.probabilities) for one in expected]
    assert found["probability"].tolist() == pytest.approx([max(one.probabilities.values()) for one in expected])


@pytest.mark.parametrize("kind", KINDS)
def test_mlflow_reads_signature_example_and_requirements(kind, artifact_of):
    artifact, folder = artifact_of(kind)
    model = load(folder)
    from mlflow.models import infer_signature

    assert model.metadata.get_input_schema().input_names() == [*example_row(artifact.task)]
    assert {param.name: param.default for param in model.metadata.signature.params} == {"batch_size": 64, "top": 0}
    example = model.input_example
    assert [*example.columns] == [*example_row(artifact.task)]
    # what is shown as an example is one, and what comes out has the columns and types that are told
    told = model.metadata.get_output_schema()
    found = model.predict(example)
    assert [*found.columns] == told.input_names()
    assert infer_signature(model_output=found).outputs.input_names() == told.input_names()
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert {line.partition("==")[0] for line in lines} == {"infoprompt", "torch", "transformers", "mlflow"}
    assert all("==" in line and "+" not in line for line in lines)


def test_texts_come_as_a_list_an_array_a_series_a_frame_of_one_column_or_objects(artifact_of):
    artifact, folder = artifact_of("single")
    model = load(folder)
    expected = [one.label for one in artifact.predict(TEXTS)]
    index = [7, 3, 5]
    forms = [
        TEXTS,
        np.array(TEXTS),
        np.array(TEXTS)[:, None],
        pd.Series(TEXTS, index=index, name="sentence"),
        pd.DataFrame({"sentence": TEXTS}, index=index),
        pd.DataFrame(TEXTS),
        pd.DataFrame({"id": [1, 2, 3], "label": ["x", "y", "z"], "text": TEXTS}),
        [{"text": text, "id": 1} for text in TEXTS],
        {"text": TEXTS},
    ]
    for given in forms:
        found = model.predict(given)
        assert found["label"].tolist() == expected, given
        if isinstance(given, (pd.Series, pd.DataFrame)):
            assert found.index.equals(given.index)
    assert model.predict(TEXTS[0])["label"].tolist() == expected[:1]
    assert model.predict({"text": TEXTS[0]})["label"].tolist() == expected[:1]
    assert model.predict(pd.DataFrame({"text": []})).empty


def test_words_come_as_lists_or_as_a_text_with_blanks(artifact_of):
    artifact, folder = artifact_of("tags")
    model, words = load(folder), [text.split() for text in TEXTS]
    expected = [one.label for one in artifact.predict(TEXTS)]
    for given in (TEXTS, pd.DataFrame({"words": words}), [{"words": one} for one in words], {"words": words}):
        assert model.predict(given)["label"].tolist() == expected
    assert model.predict({"words": words[0]})["label"].tolist() == expected[:1]


def test_params_say_how_many_classes_are_told_and_rows_are_read_at_once(artifact_of):
    _, folder = artifact_of("single")
    model = load(folder)
    top = model.predict(TEXTS, params={"top": 1, "batch_size": 1})
    assert [[*one] for one in top["probabilities"]] == [[label] for label in top["label"]]
    with pytest.raises(ConfigError, match="batch_size must be at least 1"):
        model.predict(TEXTS, params={"batch_size": 0})


@pytest.mark.parametrize(
    ("kind", "rows", "message"),
    [
        ("single", pd.DataFrame({"sentence": ["a"], "id": [1]}), "row 1 has no column text. It has: sentence, id"),
        ("single", pd.DataFrame({"text": ["a", None], "id": [1, 2]}), "row 2 has no column text"),
        ("single", ["a", " "], "text of row 2 is empty"),
        ("single", ["a", 3], "row 2 is 3, but must be a text"),
        ("pair", ["a"], "row 1 is of the kind single"),
        ("choice", pd.DataFrame({"text": ["a"], "choices": [["b"]]}), "row 1 has 1 choices"),
        ("span", pd.DataFrame({"text": ["a"], "span_start": [0], "span_end": [9]}), "span of row 1 runs from 0 to 9"),
    ],
)
def test_a_row_that_does_not_fit_is_named(kind, rows, message, artifact_of):
    _, folder = artifact_of(kind)
    with pytest.raises(ValueError, match=message):
        load(folder).predict(rows)


def test_the_backbone_is_not_copied_and_may_be_told_where_it_is(artifact_of, tmp_path, tiny_bert):
    artifact, folder = artifact_of("single")
    assert {path.name for path in folder.iterdir()} >= {*FILES}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 60_000  # the tiny backbone alone has 200 kB
    moved = tmp_path / "moved"
    os.symlink(tiny_bert, moved)
    found = load(folder, backbone=str(moved), device="cpu").predict(TEXTS)
    assert found["label"].tolist() == [one.label for one in artifact.predict(TEXTS)]
    with pytest.raises((ConfigError, ArtifactError), match="no_such_backbone"):
        load(folder, backbone=str(tmp_path / "no_such_backbone"))


def test_the_files_are_plain_text_and_the_same_wherever_they_are_written(artifact_of, tmp_path):
    artifact, folder = artifact_of("single")
    artifact.save_pretrained(tmp_path / "again")
    for name in FILES:
        assert (folder / name).read_text() == (tmp_path / "again" / name).read_text()
    model = yaml.safe_load((folder / "MLmodel").read_text())
    assert model["flavors"]["python_function"]["loader_module"] == "infoprompt.pyfunc"
    assert not any(path.suffix in (".pkl", ".pickle", ".bin", ".pt") for path in folder.iterdir())
    assert Artifact.from_pretrained(tmp_path / "again").predict(TEXTS) == artifact.predict(TEXTS)


def test_writing_and_reading_them_needs_no_mlflow(artifact_of, tmp_path, monkeypatch):
    artifact, _ = artifact_of("single")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    artifact.save_pretrained(tmp_path / "again")
    found = _load_pyfunc(str(tmp_path / "again")).predict(TEXTS)
    assert found["label"].tolist() == [one.label for one in artifact.predict(TEXTS)]
