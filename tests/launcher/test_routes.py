import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from infoprompt.artifact import Artifact
from infoprompt.config import ConfigError
from infoprompt.data.rows import Example
from launcher.predict.choose import Router, artifact_folders
from launcher.predict.inputs import read_given


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A current folder with three folders that look like artifacts."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "lr=1"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").touch()
    return tmp_path


class Reader(Artifact):
    """What of an artifact the reading of rows sees."""

    def __init__(self, kind, columns):
        self.task = SimpleNamespace(kind=kind, fits=lambda example: example.kind == kind)
        self.config = SimpleNamespace(data=SimpleNamespace(columns=columns, task=None))


ARTIFACTS = {"one": Reader("single", {}), "two": Reader("single", {}), "pairs": Reader("pair", {"text": "first"})}


def routed(lines, columns=None, artifacts=("one", "two")):
    return read(io.StringIO(lines), "-", {name: ARTIFACTS[name] for name in artifacts}, columns or {})


def read(stdin, file, artifacts, columns):
    """Name and example of each row; raises the first problem."""
    router, found = Router(artifacts, columns), []
    for where, given in read_given([], file, stdin):
        for asked in router.read(where, given):
            if asked.problem is not None:
                raise asked.problem
            found.append((asked.name, asked.example))
    return found


def test_a_folder_is_its_own_name_or_has_one_given(folders):
    found = artifact_folders(Path("runs/a"), ["b=runs/b", "./runs/lr=1/"], "rows.jsonl")
    assert found == {"runs/a": Path("runs/a"), "b": Path("runs/b"), "runs/lr=1": Path("runs/lr=1")}
    assert artifact_folders(Path("a=runs/a"), [], "rows.jsonl") == {"a": Path("runs/a")}


def test_words_without_a_file_are_texts(folders):
    assert artifact_folders(Path("runs/a"), ["b=c", "long " * 1000], None) == {"runs/a": Path("runs/a")}
    with pytest.raises(ConfigError, match=r"runs/b is an artifact, not a text\. Several of them need --file"):
        artifact_folders(Path("runs/a"), ["text", "runs/b"], None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs/none"], r"There is no artifact in .*/runs/none\. With --file"),
        (["b=runs/none"], r"There is no artifact in .*/runs/none\. With --file"),
        (["a text " * 1000], "There is no artifact in .*a text"),
        (["runs/a/"], "Two artifacts are named runs/a"),
        (["x=runs/a", "x=runs/b"], "Two artifacts are named x"),
    ],
)
def test_a_missing_artifact_and_a_name_used_twice_are_refused(folders, words, message):
    with pytest.raises(ConfigError, match=message):
        artifact_folders(Path("runs/a"), words, "rows.jsonl")


def test_a_row_is_read_by_the_artifact_that_it_names():
    found = routed('{"text": "x", "prompt": "two"}\n{"text": "y", "prompt": "one/"}\n')
    assert found == [("two", Example("x")), ("one", Example("y"))]


def test_every_artifact_reads_every_row_where_none_is_named():
    both = [(name, Example(text)) for text in ("x", "y") for name in ("one", "two")]
    assert routed('{"text": "x"}\ny\n') == both


def test_rows_are_read_as_each_artifact_reads_them_alone():
    lines = '{"text": "x", "prompt": "one"}\n{"first": "x", "text_b": "y", "prompt": "pairs"}\n'
    assert routed(lines, artifacts=("one", "pairs")) == [("one", Example("x")), ("pairs", Example("x", pair="y"))]


def test_the_column_that_names_the_artifact_may_have_another_name():
    lines = '{"sentence": "x", "prompt": "a text", "use": "two"}\n'
    assert routed(lines, {"prompt": "use", "text": "sentence"}) == [("two", Example("x"))]
    with pytest.raises(ConfigError, match="line 1 names no artifact in the column way"):
        routed(lines, {"prompt": "way", "text": "sentence"})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"text": "x", "prompt": "three"}', r"line 2 names the artifact 'three'.* Known are one, two\."),
        ('{"text": "x", "prompt": 3}', "line 2 names the artifact 3"),
        ('{"text": "x", "prompt": ""}', "line 2 names no artifact in the column prompt"),
        ('{"text": "x"}', "line 2 names no artifact"),
        ("x", "line 2 names no artifact"),
        ('{"text": "x", "text_b": "y", "prompt": "one"}', "line 2 is of the kind pair, but this prompt reads `text`"),
    ],
)
def test_a_row_that_no_artifact_reads_is_refused_with_its_line(row, message):
    with pytest.raises(ValueError, match=message):
        routed(f'{{"text": "x", "prompt": "one"}}\n{row}\n')


def test_rows_of_a_file_are_named_by_their_place_in_it(tmp_path):
    (tmp_path / "rows.csv").write_text("text,prompt\nx,one\ny,tow\n")
    with pytest.raises(ConfigError, match=r"row 2 of .*rows\.csv names the artifact 'tow'"):
        read(io.StringIO(), str(tmp_path / "rows.csv"), ARTIFACTS, {})
