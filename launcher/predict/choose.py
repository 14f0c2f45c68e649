"""Several artifacts for one `infoprompt predict`: their names, and which of them reads which row."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from infoprompt.config import ConfigError
from infoprompt.data.columns import ColumnNames
from infoprompt.data.problems import RowError
from infoprompt.data.published_formats import adapter
from infoprompt.data.tasks import TASKS
from launcher.predict.inputs import Given, as_row, parse_given

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


@dataclass(frozen=True)
class Asked:
    """What is to be answered: a line or row of the input, read for one artifact."""

    given: Given
    """As it stands in the input."""
    name: str | None = None
    """Of the artifact, where there are several."""
    example: "Example | None" = None
    """None where it cannot be read."""
    problem: RowError | None = None
    """Why it cannot be read."""
    shown: frozenset[str] = frozenset()
    """Columns of the row that the example shows under our names."""
    route: str | None = None
    """Column of the row that names the artifact."""


class Router:
    """Reads each row for the artifact that it names in the column `prompt`; for every artifact where rows name none.

    Whether rows name one is told by `columns`, else by the first row.
    """

    def __init__(self, artifacts: "Mapping[str, Artifact]", columns: Mapping[str, str], *, named: bool = True) -> None:
        """Of artifacts by name, each of which reads rows as it does alone.

        Args:
            artifacts: one at least.
            columns: our column, or `prompt`, to the file's; if none of ours, as in each one's training.
            named: whether answers carry the artifact's name, and rows may have one.
        """
        ours = {name: column for name, column in columns.items() if name != PROMPT_COLUMN}
        self._artifacts = artifacts
        self._columns = {
            name: ColumnNames(ours or artifact.config.data.columns) for name, artifact in artifacts.items()
        }
        self._adapters = {
            name: adapter(TASKS.get(artifact.config.data.task or "")) for name, artifact in artifacts.items()
        }
        self._column = columns.get(PROMPT_COLUMN, PROMPT_COLUMN)
        self._routes: bool | None = True if PROMPT_COLUMN in columns else None if named else False
        self._named = named

    def read(self, where: str, given: Given | RowError) -> list[Asked]:
        """What is to be answered for a row: one for each artifact that reads it, or more where it makes several."""
        if isinstance(given, RowError):
            return [Asked("", problem=given)]
        try:
            if self._routes is None:
                self._routes = self._column in (as_row(given) or ())
            names = [_name(given, self._column, where, self._artifacts)] if self._routes else list(self._artifacts)
        except RowError as error:
            return [Asked(given, problem=error)]
        return [asked for name in names for asked in self._read_for(name, where, given)]

    def _read_for(self, name: str, where: str, given: Given) -> list[Asked]:
        artifact, shown_name = self._artifacts[name], name if self._named else None
        columns = self._columns[name]
        try:
            examples = parse_given(given, artifact.task.kind, columns, where, self._adapters[name])
            for example in examples:
                _check(artifact, example, where)
            row = as_row(given)
            found = columns.of(row, where) if row is not None else {}
        except RowError as error:
            return [Asked(given, shown_name, problem=error)]
        shown = frozenset(found[ours] for ours in SHOWN if ours in found)
        route = self._column if self._routes else None
        return [Asked(given, shown_name, example, shown=shown, route=route) for example in examples]


SHOWN = ("text", "pair", "words", "choices")
"""Our columns that an answer shows."""


def _check(artifact: "Artifact", example: "Example", where: str) -> None:
    try:
        artifact.check(example, where)
    except ValueError as error:
        raise RowError(where, "not what this prompt reads", str(error)) from None


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
        text = f"{where} names no artifact in the column {column}, but each row must, or none. {way_out}"
        raise RowError(where, "no artifact named", text)
    name = str(given) if str(given) in known else str(Path(str(given)))  # a folder may end in a slash
    if name not in known:
        text = f"{where} names the artifact {given!r}, which was not given. {way_out}"
        raise RowError(where, "an artifact named that was not given", text)
    return name
