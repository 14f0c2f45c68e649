"""Where rows come from: files of JSON lines, JSON, CSV, TSV and Parquet, and splits of the hub.

JSON and CSV are read by the standard library, not by `datasets`. That guesses types from the values: a text such as
2020-01-01 comes back as a date and a CSV label 007 as 7. It also keeps a copy on disk that every rank would write at
once, and does not say which line is damaged.
"""

import csv
import logging
import lzma
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infoprompt.config import DATA_SUFFIXES, ConfigError
from infoprompt.data.delimited import csv_rows, tsv_rows
from infoprompt.data.json_rows import json_line_rows, json_list_rows
from infoprompt.data.opening import open_file
from infoprompt.data.places import RowSource, existing_file, files_of, given_sources
from infoprompt.data.problems import RowError

log = logging.getLogger(__name__)

Row = Mapping[str, Any]
Numbered = tuple[str, Row | RowError]
"""What an error calls a row, and the row, or what is wrong with it."""

_HUB_SPLIT = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(@(?P<config>[\w.-]+))?:(?P<split>\w[^/]*)")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")


@dataclass(frozen=True)
class Dialect:
    """How files are to be read, where it is not to be found out."""

    encoding: str | None = None
    """As `data.encoding`."""
    delimiter: str | None = None
    """As `data.delimiter`; a .tsv file that has one is read as a .csv file is."""


FOUND_OUT = Dialect()


def read_rows(
    source: RowSource, dialect: Dialect = FOUND_OUT, tell: Callable[[str], None] = log.info
) -> Iterator[Numbered]:
    """Rows of files or of a hub split, each with the words that say where it stands (`line 3 of /data/train.jsonl`).

    A row that cannot be read comes as its error, so that the others can be read all the same.

    Args:
        source: a file with one of `DATA_SUFFIXES`, a pattern, a folder, or a hub split as `owner/name:split` or
            `owner/name@config:split`; or a list of these.
        dialect: encoding and delimiter, where they are given.
        tell: takes a line for people, such as which delimiter was found.
    Raises:
        ConfigError: there is no such file or split, it cannot be reached, or it is damaged as a whole.
    """
    for one in given_sources(source):
        files = files_of(one)
        if files is not None:
            for path in files:
                yield from _read_file(existing_file(path), dialect, tell)
        elif match := _HUB_SPLIT.fullmatch(one):
            rows = _hub_split(match["name"], match["config"], match["split"])
            yield from ((f"row {number} of {one}", row) for number, row in enumerate(rows, 1))
        else:
            existing_file(Path(one).expanduser().absolute())


def file_kind(name: str) -> str:
    """`jsonl`, `csv` and so on: the suffix of a file, apart from that of its compression."""
    plain = name.lower()
    for suffix in _COMPRESSED:
        plain = plain.removesuffix(suffix)
    return plain.rpartition(".")[2]


def _read_file(path: Path, dialect: Dialect, tell: Callable[[str], None]) -> Iterator[Numbered]:
    kind = file_kind(path.name)
    readers = {"jsonl": json_line_rows, "json": json_list_rows, "tsv": tsv_rows}
    if kind not in (*readers, "csv", "parquet") or (kind == "parquet" and path.suffix.lower() != ".parquet"):
        raise ConfigError(f"{path} is of no known kind. Data files end in {', '.join(DATA_SUFFIXES)}.")
    with _named_errors(path, dialect.encoding):
        if kind == "parquet":
            yield from _parquet(path)
        elif kind == "csv" or (kind == "tsv" and dialect.delimiter is not None):
            with open_file(path, dialect.encoding, "any") as stream:
                yield from csv_rows(stream, str(path), dialect.delimiter, dialect.encoding, tell)
        else:
            with open_file(path, dialect.encoding, "lf") as stream:
                yield from readers[kind](stream, str(path), dialect.encoding, tell)


@contextmanager
def _named_errors(path: Path, encoding: str | None) -> Iterator[None]:
    """Errors of the operating system, of decompression and of decoding as such that name the file."""
    try:
        yield
    except UnicodeError as error:
        way_out = "Correct data.encoding." if encoding else "Name its encoding by data.encoding."
        raise ConfigError(f"{path} cannot be read as text: {error}. {way_out}") from error
    except PermissionError as error:
        raise ConfigError(f"{path} must not be read by this user. Give the right to: chmod +r {path}") from error
    except (OSError, EOFError, csv.Error, zlib.error, lzma.LZMAError) as error:
        raise ConfigError(
            f"{path} cannot be read, it may be damaged or cut short: {error}. Copy or make it again."
        ) from error


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
        if twice := re.search(r"Multiple matches for FieldRef\.Name\((.*?)\)", f"{error} {error.__cause__}"):
            raise ConfigError(
                f"{path} has the column {twice[1]} more than once, so it is not known which one is meant. Rename or "
                "remove the others."
            ) from None
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
