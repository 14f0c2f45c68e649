"""Several artifacts for one `infoprompt predict`: their names, and which of them reads which row."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from infoprompt.config import ConfigError
from launcher.inputs import Given, as_row, parse_line, read_given

if TYPE_CHECKING:
    from infoprompt.artifact import Artifact
    from infoprompt.data.rows import Example

PROMPT_COLUMN = "prompt"
"""Column that names the artifact of a row."""


def artifact_folders(artifact: Path, words: Sequence[str], file: str | None) -> dict[str, Path]:
    """Name to folder of every artifact on the command line; a folder that is given without a name is its own.

    Args:
        artifact: the first word, a folder or NAME=FOLDER.
        words: those behind it: further artifacts where a file is given, texts otherwise.
        file: where the rows stand, if not on the command line.
    Raises:
        ConfigError: a folder is no artifact, a text is one, or two have one name.
    """
    if file is None:
        for word in words:
            if _is_artifact(word):
                raise ConfigError(f"{word} is an artifact, not a text. Several of them need --file (- for stdin).")
        return {str(artifact): artifact}
    folders: dict[str, Path] = {}
    for word in [str(artifact), *words]:
        name, folder = _named(word)
        if not _is_artifact(folder):
            raise ConfigError(
                f"There is no artifact in {os.path.abspath(folder)}. With --file, every other word is the folder of an "
                "artifact, as training printed it, or NAME=FOLDER; texts are given without --file."
            )
        if name in folders:
            raise ConfigError(f"Two artifacts are named {name}. Give each a name of its own, as NAME=FOLDER.")
        folders[name] = Path(folder)
    return folders


def read_routed(
    file: str, stdin: TextIO, artifacts: Mapping[str, "Artifact"], columns: Mapping[str, str]
) -> list[tuple[str, "Example"]]:
    """Each row with the name of the artifact that reads it, in the file's order.

    A row names its artifact in the column `prompt`. Where no row has that column, every artifact reads every row.

    Args:
        file: rows or lines, see `read_given`.
        stdin: read where `file` is `-`.
        artifacts: by name; each reads rows as it does alone.
        columns: our column, or `prompt`, to the file's, where they differ; if none of ours, as in each one's training.
    Raises:
        ConfigError: with the row, when it names no artifact or an unknown one, or cannot be read.
        ValueError: with the row, when it is not of the artifact's kind.
    """
    ours = {name: column for name, column in columns.items() if name != PROMPT_COLUMN}
    column = columns.get(PROMPT_COLUMN, PROMPT_COLUMN)
    given = read_given([], file, stdin)
    named = PROMPT_COLUMN in columns or any(column in (as_row(item) or ()) for _, item in given)
    routed = []
    for where, item in given:
        for name in [_name(item, column, where, artifacts)] if named else artifacts:
            artifact = artifacts[name]
            example = parse_line(item, artifact.task.kind, ours or artifact.config.data.columns, where)
            artifact.check(example, where)
            routed.append((name, example))
    return routed


def _is_artifact(folder: str) -> bool:
    return os.path.isfile(os.path.join(folder, "config.json"))  # a text may be too long for Path.is_file


def _named(word: str) -> tuple[str, str]:
    name, separator, folder = word.partition("=")
    if not separator or _is_artifact(word):  # a folder's name may hold a =
        return str(Path(word)), word
    return name, folder


def _name(item: Given, column: str, where: str, known: Mapping[str, object]) -> str:
    given = (as_row(item) or {}).get(column)
    way_out = f"Known are {', '.join(known)}. Another column is told by --column {PROMPT_COLUMN}=COLUMN."
    if given in (None, ""):
        raise ConfigError(f"{where} names no artifact in the column {column}, but each row must, or none. {way_out}")
    name = str(given) if str(given) in known else str(Path(str(given)))  # a folder may end in a slash
    if name not in known:
        raise ConfigError(f"{where} names the artifact {given!r}, which was not given. {way_out}")
    return name
