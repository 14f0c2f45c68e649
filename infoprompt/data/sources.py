"""Where rows come from: files of JSON lines, JSON, CSV, TSV and Parquet, and splits of the hub.

JSON and CSV are read by the standard library, not by `datasets`: that guesses types from the values, so a text such as
2020-01-01 comes back as a date and a CSV label 007 as 7, keeps a copy on disk that every rank would write at once, and
does not say which line is damaged.
"""

import csv
import gzip
import json
import re
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from infoprompt.config import DATA_SUFFIXES, ConfigError, is_data_file

Row = Mapping[str, Any]

_HUB_SPLIT = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(@(?P<config>[\w.-]+))?:(?P<split>\w[^/]*)")


def read_rows(source: str) -> Iterator[tuple[str, Row]]:
    """Rows of a file or of a hub split, each with the words that say where it stands (`line 3 of /data/train.jsonl`).

    Args:
        source: a file with one of `DATA_SUFFIXES`, or a hub split as `owner/name:split` or `owner/name@config:split`.
    Raises:
        ConfigError: there is no such file or split, it cannot be reached, or it is damaged.
    """
    if is_data_file(source):
        yield from _read_file(Path(source).expanduser().absolute())
    elif match := _HUB_SPLIT.fullmatch(source):
        rows = _hub_split(match["name"], match["config"], match["split"])
        yield from ((f"row {number} of {source}", row) for number, row in enumerate(rows, 1))
    else:
        raise _no_file(Path(source).expanduser().absolute())


def _no_file(path: Path) -> ConfigError:
    return ConfigError(
        f"There is no file {path}. Check the path in data.train, data.validation or data.test; "
        "a split of the hub is written owner/name:split."
    )


def _read_file(path: Path) -> Iterator[tuple[str, Row]]:
    if not path.is_file():
        raise _no_file(path)
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[-1]
    readers = {"jsonl": _json_lines, "json": _json, "csv": _csv, "tsv": _tsv, "parquet": _parquet}
    if kind not in readers or (kind == "parquet" and path.suffix == ".gz"):
        raise ConfigError(f"{path} is of no known kind. Data files end in {', '.join(DATA_SUFFIXES)}.")
    try:
        yield from readers[kind](path)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        raise ConfigError(f"{path} cannot be read, it may be damaged: {error}") from error


def _open(path: Path) -> IO[str]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    stream: IO[str] = opener(path, "rt", encoding="utf-8-sig", newline="")
    return stream


def _json_lines(path: Path) -> Iterator[tuple[str, Row]]:
    with _open(path) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                where = f"line {number} of {path}"
                yield where, _as_row(_parse(line, where), where)


def _json(path: Path) -> Iterator[tuple[str, Row]]:
    with _open(path) as stream:
        text = stream.read()
    if not text.lstrip().startswith("["):  # JSON lines are often named .json
        yield from _json_lines(path)
        return
    for number, row in enumerate(_parse(text, str(path)), 1):
        where = f"row {number} of {path}"
        yield where, _as_row(row, where)


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{where} is not valid JSON: {error}. A .jsonl file holds one object a line, a .json file a list of them."
        ) from None


def _as_row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise ConfigError(
            f'{where} holds a {type(value).__name__}, but must hold an object such as {{"text": ..., "label": ...}}.'
        )
    return value


def _csv(path: Path) -> Iterator[tuple[str, Row]]:
    with _open(path) as stream:
        for number, row in enumerate(csv.DictReader(stream, strict=True), 1):
            where = f"row {number} of {path}"
            if None in row or None in row.values():
                raise ConfigError(
                    f"{where} has not as many cells as the header. Put texts that hold a comma or a quote in quotes."
                )
            yield where, row


def _tsv(path: Path) -> Iterator[tuple[str, Row]]:
    # As GLUE's archives are written: quotes mean nothing, and a cell holds no tab.
    with _open(path) as stream:
        header: list[str] = []
        for number, line in enumerate(stream):
            cells = line.rstrip("\r\n").split("\t")
            where = f"row {number} of {path}"
            if not number:
                header = cells
            elif len(cells) != len(header):
                raise ConfigError(f"{where} has {len(cells)} cells, but the header has {len(header)}. Correct the row.")
            else:
                yield where, dict(zip(header, cells, strict=True))


def _parquet(path: Path) -> Iterator[tuple[str, Row]]:
    # By `datasets`, which also knows the class names that a Parquet file of the hub carries.
    import datasets
    from datasets.exceptions import DatasetGenerationError

    try:
        with _quiet(datasets), tempfile.TemporaryDirectory() as folder:  # so that nothing stays in the cache
            table = datasets.load_dataset(
                "parquet", data_files=str(path), split="train", cache_dir=folder, keep_in_memory=True
            )
    except (DatasetGenerationError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read, it may be damaged: {error.__cause__ or error}") from error
    for number, row in enumerate(_with_class_names(table, datasets.ClassLabel), 1):
        yield f"row {number} of {path}", row


def _hub_split(name: str, config: str | None, split: str) -> Iterator[Row]:
    import datasets

    try:
        with _quiet(datasets):
            try:
                table = datasets.load_dataset(name, config, split=split)
            except RuntimeError as error:
                if "scripts are no longer supported" not in str(error):
                    raise
                # The hub keeps its own Parquet copy of every data set that is published as a script.
                table = datasets.load_dataset(name, config, split=split, revision="refs/convert/parquet")
    except OSError as error:  # no network, offline, no such data set, no access
        raise ConfigError(
            f"The hub split {name}:{split} cannot be had: {error}. Without a network (or with HF_HUB_OFFLINE=1) only "
            "what was fetched before can be used. Check the name, or save the rows as a .jsonl file and give its path."
        ) from error
    except (ValueError, RuntimeError) as error:  # no such config or split, or a data set that needs code of its own
        raise ConfigError(
            f"The hub split {name}:{split} cannot be read: {error} "
            "A hub split is written owner/name:split or owner/name@config:split."
        ) from error
    return _with_class_names(table, datasets.ClassLabel)


def _with_class_names(table: Any, class_label: Any) -> Iterator[Row]:
    """The rows, with class numbers replaced by names; -1, which stands for a label kept private, by None."""
    names = {column: kind.names for column, kind in table.features.items() if isinstance(kind, class_label)}
    for row in table:
        for column, classes in names.items():
            number = row[column]
            row[column] = None if number is None or number < 0 else classes[number]
        yield row


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """No progress bars of `datasets` while it reads."""
    shown = not datasets.utils.are_progress_bars_disabled()
    datasets.utils.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.utils.enable_progress_bars()
