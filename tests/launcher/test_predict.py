"""`infoprompt predict`: reads as training does, answers as rows come, keeps ids, skips nothing without a word."""

import csv
import io
import json
import os
import subprocess
import sys
import threading

import pytest
import typer.testing

from infoprompt.config import build_config
from infoprompt.train import run
from launcher.cli import app
from launcher.predict.command import in_parts

CONTROL = "a\u2028film\x85was\x0cgood"


@pytest.fixture(scope="module")
def artifact(tiny_backbones, tmp_path_factory):
    """A prompt that reads single texts."""
    folder = tmp_path_factory.mktemp("prompt")
    rows = [{"text": text, "label": label} for text, label in (("a good film", "good"), ("a bad film", "bad"))]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 4))
    data = str(folder / "rows.jsonl")
    values = {
        "run": {"output_dir": str(folder / "run")},
        "backbone": {"name": tiny_backbones["bert"]},
        "data": {"train": data, "validation": data},
        "optim": {"max_steps": 2},
        "engine": {"kind": "plain"},
        "tracking": {"enabled": False},
        "checkpoint": {"enabled": False},
    }
    return run(build_config(values)).artifact


@pytest.fixture
def predict(artifact):
    """Calls the command; its result has `exit_code`, `stdout` and `stderr`."""

    def call(*arguments, stdin=""):
        runner = typer.testing.CliRunner()
        return runner.invoke(app, ["predict", artifact, *map(str, arguments)], input=stdin)

    return call


def answers(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", f"id,text,label\n7,{CONTROL},good\n8,b,bad\n".encode()),
        ("x.CSV", f"id;Text ;label\n7;{CONTROL};good\n8;b;bad\n".encode("utf-16")),
        ("x.tsv", f"\ufeffid\ttext\tlabel\n7\t{CONTROL}\tgood\n8\tb\tbad\n".encode()),
        ("x.jsonl", b'\xef\xbb\xbf{"id": "7", "text": "a\\u2028film\\u0085was\\fgood", "label": "x"}\n'
                    b'{"id": "8", "text": "b"}\n'),
    ],
)  # fmt: skip
def test_rows_are_read_as_training_reads_them_and_keep_their_columns(predict, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    result = predict("--file", tmp_path / name, "--json")
    assert result.exit_code == 0, result.stderr
    found = answers(result)
    assert [(row["id"], row["text"]) for row in found] == [("7", CONTROL), ("8", "b")]
    assert found[0]["given_label"] in ("good", "x")
    assert found[0]["label"] in ("good", "bad")


def test_lines_of_text_end_at_line_feeds_alone_and_have_no_mark(predict, tmp_path):
    (tmp_path / "x.txt").write_bytes(f"\ufeff{CONTROL}\r\na\rb\nc".encode())
    result = predict("--file", tmp_path / "x.txt", "--json")
    assert [row["text"] for row in answers(result)] == [CONTROL, "a\rb", "c"]
    plain = predict("--file", tmp_path / "x.txt").stdout
    assert [line.split("\t")[2] for line in plain.splitlines()] == ["a\\u2028film\\u0085was\\u000cgood", "a\\rb", "c"]
    assert [row["text"] for row in answers(predict("--json", stdin=f"\ufeff{CONTROL}\nb\n"))] == [CONTROL, "b"]


def test_a_blank_line_has_an_answer_without_label_and_is_named(predict):
    result = predict("--json", stdin="a film\n\n \nb\n")
    assert result.exit_code == 0
    assert [row["label"] is None for row in answers(result)] == [False, True, True, False]
    assert "line 2 is empty" in result.stderr
    lines = predict(stdin="a film\n\nb\n").stdout.splitlines()
    assert [line.split("\t")[0] == "" for line in lines] == [False, True, False]


def test_rows_that_cannot_be_read_do_not_end_the_others(predict, tmp_path):
    rows = [
        '{"id": 1, "text": "a"}',
        '{"id": 2, "text": ""}',
        '{"id": 3}',
        '{"text": "x", "text": "y"}',
        '{"text": "b"}',
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(rows) + "\n")
    result = predict("--file", tmp_path / "x.jsonl", "--json")
    assert result.exit_code == 2
    found = answers(result)
    assert [row["label"] is None for row in found] == [False, True, True, True, False]
    assert found[1]["id"] == 2
    assert "line 2 of" in found[1]["error"]
    assert "3 rows got no answer" in result.stderr


def test_a_file_of_another_kind_ends_at_once(predict, tmp_path):
    (tmp_path / "x.csv").write_text("sentence,label\n" + "a film,good\n" * 500)
    result = predict("--file", tmp_path / "x.csv")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "has no column text. It has: sentence, label" in result.stderr
    (tmp_path / "x.txt").write_bytes("un caf\u00e9\n".encode("latin-1"))
    result = predict("--file", tmp_path / "x.txt")
    assert result.exit_code == 2
    assert "line 1 of" in result.stderr
    assert "--encoding" in result.stderr
    found = answers(predict("--file", tmp_path / "x.txt", "--encoding", "latin-1", "--json"))
    assert found[0]["text"] == "un caf\u00e9"
    assert predict("--file", tmp_path / "none.csv").exit_code == 2


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv"])
def test_answers_are_written_to_a_file(predict, tmp_path, suffix):
    (tmp_path / "x.csv").write_text('id,text,label\n1,"a\tgood ""film""\n, yes",good\n2,b,bad\n')
    out = tmp_path / f"out.{suffix}"
    result = predict("--file", tmp_path / "x.csv", "--out", out, "--top", 2)
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    if suffix == "jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        stream = io.StringIO(out.read_text(), newline="")
        rows = list(
            csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
            if suffix == "tsv"
            else csv.DictReader(stream)
        )
        assert list(rows[0]) == ["label", "probability", "label_2", "probability_2", "id", "text", "given_label"]
        assert float(rows[0]["probability"]) + float(rows[0]["probability_2"]) == pytest.approx(1, abs=1e-4)
    text = 'a\tgood "film"\n, yes'
    assert rows[0]["text"] == (text.replace("\t", "\\t").replace("\n", "\\n") if suffix == "tsv" else text)
    assert [(row["id"], row["given_label"]) for row in rows] == [("1", "good"), ("2", "bad")]


def test_an_output_that_cannot_be_is_refused_before_anything_is_loaded(predict, tmp_path):
    (tmp_path / "x.csv").write_text("text\na\n")
    for out, message in (("x.xlsx", "must end in"), ("x.csv", "which is the file that is read")):
        result = predict("--file", tmp_path / "x.csv", "--out", tmp_path / out)
        assert result.exit_code == 2
        assert message in result.stderr
    assert (tmp_path / "x.csv").read_text() == "text\na\n"


def test_rows_of_a_pipe_are_handed_on_as_they_come():
    reading, writing = os.pipe()
    with os.fdopen(reading) as stream, os.fdopen(writing, "w", buffering=1) as pipe:
        parts = in_parts(iter(stream.readline, ""), stream, 100)
        for line in ("one\n", "two\n"):
            pipe.write(line)
            assert next(parts) == [line]
        pipe.close()
        assert list(parts) == []


def test_a_fault_of_the_reading_thread_is_raised():
    def broken():
        yield "one"
        raise ValueError("damaged")

    reading, writing = os.pipe()
    with os.fdopen(reading) as stream, os.fdopen(writing, "w"), pytest.raises(ValueError, match="damaged"):
        list(in_parts(broken(), stream, 100))
    assert threading.active_count() < 50


def test_a_slow_writer_gets_each_answer_before_it_writes_the_next(artifact):
    command = [sys.executable, "-c", "from launcher.cli import main; main()", "predict", artifact, "--json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        for text in ("a film", "a good film"):
            process.stdin.write(f"{text}\n")
            assert json.loads(process.stdout.readline())["text"] == text
        process.stdin.close()
        assert process.wait(60) == 0
