"""Files as people have them: encodings, delimiters, compressions, several files, and what is wrong with them."""

import bz2
import gzip
import json
import lzma
import os
from pathlib import Path

import pyarrow
import pytest

from infoprompt.config import ConfigError, DataSettings, build_config
from infoprompt.data.problems import Problems
from infoprompt.data.rows import Example, read_examples
from infoprompt.data.sources import Dialect, read_rows

TEXT = "text,label\na fine film,good\nun caf\u00e9,bad\n"
EXAMPLES = [Example("a fine film", label="good"), Example("un caf\u00e9", label="bad")]
PACKERS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pyarrow.compress(data, "zstd", asbytes=True),
}


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_an_encoding_is_found_by_mark_or_zero_bytes(tmp_path, encoding):
    assert read_examples(write(tmp_path / "x.csv", TEXT.encode(encoding)), {}) == EXAMPLES


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl"])
def test_latin_1_is_not_guessed_but_refused_with_its_row_and_read_where_it_is_named(tmp_path, name):
    text = {"x.tsv": TEXT.replace(",", "\t")}.get(name, TEXT)
    if name == "x.jsonl":
        text = '{"text": "a fine film", "label": "good"}\n{"text": "un caf\u00e9", "label": "bad"}\n'
    path = write(tmp_path / name, text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"(row|line) 2 of .* 0xe9 .*un caf\u00e9.*data\.encoding=cp1252"):
        read_examples(path, {})
    assert read_examples(path, {}, dialect=Dialect(encoding="latin-1")) == EXAMPLES


def test_an_unknown_encoding_and_a_delimiter_of_two_characters_are_refused():
    for data, match in (
        ({"encoding": "utf-9"}, "data.encoding is 'utf-9'"),
        ({"encoding": "rot13"}, "data.encoding is 'rot13'"),
        ({"delimiter": "||"}, "data.delimiter is '||'"),
        ({"delimiter": '"'}, "data.delimiter is"),
    ):
        with pytest.raises(ConfigError, match=match.replace("|", r"\|")):
            build_config({"data": data})
    assert DataSettings(delimiter="tab").delimiter == "\t"
    assert DataSettings(encoding="utf-16").encoding == "utf-16"


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_a_delimiter_is_found_and_said_once(tmp_path, mark):
    path = write(tmp_path / "x.csv", f'text{mark}label\n"a, b{mark} c"{mark}good\nd, e, f{mark}bad\n')
    said = []
    found = read_examples(path, {}, tell=said.append)
    assert found == [Example(f"a, b{mark} c", label="good"), Example("d, e, f", label="bad")]
    assert len(said) == 1
    assert "is read with the delimiter" in said[0]


def test_a_comma_is_taken_where_other_marks_stand_in_texts_and_the_setting_wins(tmp_path):
    path = write(tmp_path / "x.csv", "text,label\na; b; c,good\nd|e,bad\n")
    assert [example.text for example in read_examples(path, {})] == ["a; b; c", "d|e"]
    path = write(tmp_path / "y.tsv", 'text\tlabel\n"a\tb"\tgood\n')
    assert read_examples(path, {}, dialect=Dialect(delimiter="\t")) == [Example("a\tb", label="good")]


@pytest.mark.parametrize("suffix", PACKERS)
def test_compressed_files_are_read_and_damaged_ones_named(tmp_path, suffix):
    packed = PACKERS[suffix](TEXT.encode() * 50)
    rows = list(read_rows(write(tmp_path / f"x.csv{suffix}", packed)))
    assert len(rows) == 50 * 3 - 1
    with pytest.raises(ConfigError, match=f"x.csv{suffix} cannot be read, it may be damaged or cut short"):
        list(read_rows(write(tmp_path / f"x.csv{suffix}", packed[: len(packed) // 2])))
    with pytest.raises(ConfigError, match="is not compressed as its name says"):
        list(read_rows(write(tmp_path / f"x.csv{suffix}", TEXT)))


def test_a_long_cell_an_upper_case_suffix_and_a_packed_file_without_suffix_are_read(tmp_path):
    long = "word " * 60_000
    assert read_examples(write(tmp_path / "X.CSV", f"text,label\n{long},good\n"), {}) == [Example(long, label="good")]
    assert read_examples(write(tmp_path / "x.csv", gzip.compress(TEXT.encode())), {}) == EXAMPLES


def test_lines_of_other_kinds_do_not_part_rows(tmp_path):
    text = "a\u2028b\x85c\x0cd"
    for name, content in (
        ("x.csv", f"text,label\n{text},good\n"),
        ("x.tsv", f"text\tlabel\n{text}\tgood\n"),
        ("x.jsonl", json.dumps({"text": text, "label": "good"}, ensure_ascii=False) + "\n"),
    ):
        assert read_examples(write(tmp_path / name, content), {}) == [Example(text, label="good")]


def test_several_files_are_read_one_after_the_other(tmp_path):
    parts = [write(tmp_path / f"part-{number}.csv", f"text,label\n{number},good\n") for number in (2, 1)]
    by_list = [example.text for example in read_examples(parts, {})]
    assert by_list == ["2", "1"]
    assert [example.text for example in read_examples(str(tmp_path / "part-*.csv"), {})] == ["1", "2"]
    assert [example.text for example in read_examples(str(tmp_path), {})] == ["1", "2"]
    config = build_config({"data": {"train": parts, "test": "part-?.csv"}})
    assert config.data.train == parts
    assert Path(config.data.test).is_absolute()


def test_a_folder_of_several_parts_or_of_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no data file"):
        read_examples(str(tmp_path), {})
    for part in ("train", "test"):
        write(tmp_path / f"{part}.csv", TEXT)
    with pytest.raises(ConfigError, match="holds files of test and train, which are not to be mixed"):
        read_examples(str(tmp_path), {})
    with pytest.raises(ConfigError, match="No file fits the pattern"):
        read_examples(str(tmp_path / "x*.csv"), {})


def test_column_names_are_found_apart_from_case_and_blanks(tmp_path):
    assert read_examples(write(tmp_path / "x.csv", "Text ,LABEL\na,good\n"), {}) == [Example("a", label="good")]
    found = read_examples(write(tmp_path / "y.csv", "Satz,LABEL\na,good\n"), {"text": "satz"})
    assert found == [Example("a", label="good")]
    with pytest.raises(ConfigError, match=r"has the columns 'Text' and 'TEXT', and either may be text"):
        read_examples(write(tmp_path / "z.csv", "Text,TEXT,label\na,b,good\n"), {})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "text,label,label\na,good,bad\n", "has the column label 2 times"),
        ("x.tsv", "text\tlabel\ttext\na\tgood\tbad\n", "has the column text 2 times"),
        ("x.jsonl", '{"text": "a", "label": "x", "label": "y"}\n', "line 1 of .* has the key 'label' twice"),
        ("x.json", '[{"text": "a", "label": "x", "label": "y"}]', "row 1 of .* has the key 'label' twice"),
        ("x.csv", "text,label\n", "has no rows"),
        ("x.csv", "", "has no rows"),
        ("x.tsv", "text\tlabel\n", "has no rows"),
        ("x.csv", "text,label\na\x00b,good\n", "row 1 of .* holds a zero byte"),
        ("x.jsonl", '{"text": "a", "label": "x"}\n{"text": "\\ud83d", "label": "y"}\n', "line 2 .* half a character"),
        ("x.jsonl", '{"text": "a", "value": Infinity}\n', "The value of line 1 .* is inf, but must be a number"),
        ("x.jsonl", '{"text": "a", "value": ' + "9" * 400 + "}\n", "The value of line 1 .* must be a number"),
        ("x.jsonl", '{"text": "a", "label": ' + "[" * 5000 + "]" * 5000 + "}\n", "line 1 .* nested too deep"),
        ("x.jsonl", '{"text": NaN, "label": "x"}\n', "The text of line 1 .* is nan"),
        ("x.jsonl", '{"text": true, "label": "x"}\n', "The text of line 1 .* is True, but must be a string"),
    ],
)
def test_a_file_at_fault_is_refused_by_name(tmp_path, name, content, message):
    with pytest.raises(ConfigError, match=message):
        read_examples(write(tmp_path / name, content), {})


def test_what_is_no_file_is_said_to_be_none(tmp_path):
    os.symlink(tmp_path / "b.csv", tmp_path / "a.csv")
    os.symlink(tmp_path / "a.csv", tmp_path / "b.csv")
    with pytest.raises(ConfigError, match="a symbolic link that leads to no file"):
        read_examples(str(tmp_path / "a.csv"), {})
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ConfigError, match="is no regular file"):
        read_examples(str(tmp_path / "pipe.csv"), {})
    with pytest.raises(ConfigError, match="There is no file"):
        read_examples(str(tmp_path / f"{'x' * 300}.csv"), {})


def test_a_file_that_must_not_be_read_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "x.csv", TEXT)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConfigError, match=r"x\.csv must not be read by this user.*chmod"):
        read_examples(path, {})


def test_all_faults_of_a_file_are_named_with_their_count_and_first_rows(tmp_path):
    lines = ["text,label", "a,good", ",bad", "b,", "c,good,more", 'd "x"y,bad', '"e"f,good', *[",bad"] * 20]
    with pytest.raises(ConfigError) as caught:
        read_examples(write(tmp_path / "x.csv", "\n".join(lines) + "\n"), {})
    message = str(caught.value)
    assert "x.csv has 24 rows that cannot be used" in message
    assert "- 21 rows: the text is empty (row 2, row 7, row 8, row 9, row 10 and 16 more)" in message
    assert "The label of row 3 of" in message
    assert "row 4 of" in message
    assert "row 6 of" in message
    assert message.endswith("Correct or remove these rows.")


def test_rows_before_the_end_of_a_cut_file_are_judged_too(tmp_path):
    packed = gzip.compress(b'{"text": "", "label": "a"}\n' * 3 + os.urandom(100_000).hex().encode())
    problems = Problems()
    read_examples(write(tmp_path / "x.jsonl.gz", packed[: len(packed) // 2]), {}, problems=problems)
    assert len(problems.rows) == 3
    assert "cut short" in str(problems.fatal[0])


def test_blank_lines_between_rows_are_said_and_those_at_the_end_are_not(tmp_path):
    said = []
    content = "text,label\na,good\n\nb,bad\n\n\n"
    assert len(read_examples(write(tmp_path / "x.csv", content), {}, tell=said.append)) == 2
    assert len(said) == 1
    assert "the first is line 3" in said[0]
    assert read_examples(write(tmp_path / "x.csv", content.replace("\n\nb", "\nb")), {}, tell=said.append)
    assert len(said) == 1


def test_a_column_that_is_missing_is_named_once_with_one_that_may_be_it(tmp_path):
    with pytest.raises(
        ConfigError, match=r"^row 1 of .* has no column label\. It has: text, target.*\{label: target\}'\.$"
    ):
        read_examples(write(tmp_path / "x.csv", "text,target\n" + "a,good\n" * 9), {})


def test_the_delimiter_line_of_a_spreadsheet_is_no_header(tmp_path):
    assert read_examples(write(tmp_path / "x.csv", "sep=;\r\ntext;label\r\na;good\r\n"), {}) == [
        Example("a", label="good")
    ]


@pytest.mark.parametrize(("start", "kind"), [(b"PK\x03\x04", "a spreadsheet"), (b"PAR1", "a Parquet file")])
def test_a_file_of_another_kind_than_its_name_says_is_named(tmp_path, start, kind):
    with pytest.raises(ConfigError, match=rf"x\.csv is {kind}.*, whatever its name says"):
        read_examples(write(tmp_path / "x.csv", start + bytes(100)), {})


def test_a_column_that_a_parquet_file_has_twice_is_refused_by_name(tmp_path):
    import pyarrow.parquet

    table = pyarrow.table(
        [pyarrow.array(["a"]), pyarrow.array(["x"]), pyarrow.array(["y"])], names=["text", "label", "label"]
    )
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(ConfigError, match="has the column label more than once"):
        read_examples(str(tmp_path / "x.parquet"), {})
