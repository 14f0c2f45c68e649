"""Our columns, and which column of a file each of them is."""

import difflib
from collections.abc import Mapping
from typing import Any

from infoprompt.config import ConfigError
from infoprompt.data.problems import NO_COLUMN, RowError

# Our columns, each with the names that are found without being told.
COLUMNS: dict[str, tuple[str, ...]] = {
    "text": ("text", "text_a"),
    "pair": ("pair", "text_b"),
    "head": ("head",),
    "tail": ("tail",),
    "span": ("span",),
    "head_start": ("head_start",),
    "head_end": ("head_end",),
    "tail_start": ("tail_start",),
    "tail_end": ("tail_end",),
    "span_start": ("span_start",),
    "span_end": ("span_end",),
    "words": ("words", "tokens"),
    "tags": ("tags",),
    "choices": ("choices",),
    "candidate": ("candidate",),
    "label": ("label",),
    "value": ("value",),
}

PREDICTED = ("label", "tags", "value", "candidate")
"""Columns of what is to be predicted, which rows to predict for need not have."""


def check_columns(columns: Mapping[str, str]) -> dict[str, str]:
    """`data.columns` under our own names; raises ConfigError for a column we do not have."""
    ours = {alias: name for name, aliases in COLUMNS.items() for alias in aliases}
    for column in columns:
        if column not in ours:
            near = difflib.get_close_matches(column, ours, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Ours are {', '.join(ours)}."
            raise ConfigError(f"data.columns names {column}, which is no column of ours. {hint}")
    return {ours[column]: given for column, given in columns.items()}


class ColumnNames:
    """Which column of a row is which of ours; found once for all rows that have the same columns.

    A name is found as it is written, or else apart from case and the blanks around it.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        """Args: columns: `data.columns`; raises ConfigError for a column we do not have."""
        self._given = check_columns(columns)
        self._found: dict[tuple[str, ...], dict[str, str]] = {}

    def of(self, row: Mapping[str, Any], where: str) -> dict[str, str]:
        """Our column to the row's.

        Raises:
            RowError: a column that `data.columns` names is not there, or two could be meant.
        """
        names = tuple(row)
        if names not in self._found:
            self._found[names] = self._resolve(names, where)
        return self._found[names]

    def _resolve(self, names: tuple[str, ...], where: str) -> dict[str, str]:
        found = {}
        for ours, aliases in COLUMNS.items():
            given = self._given.get(ours)
            wanted = aliases if given is None else (given,)
            theirs = next((name for alias in wanted if (name := _column(alias, names, where)) is not None), None)
            if theirs is not None:
                found[ours] = theirs
            elif given is not None and ours not in PREDICTED:
                raise RowError(
                    where,
                    f"{NO_COLUMN} {given}, which data.columns.{ours} names",
                    f"data.columns.{ours} is {given}, but {where} has no such column. It has: {', '.join(names)}.",
                )
        return found


def _column(wanted: str, names: tuple[str, ...], where: str) -> str | None:
    if wanted in names:
        return wanted
    alike = [name for name in names if isinstance(name, str) and name.strip().casefold() == wanted.strip().casefold()]
    if len(alike) > 1:
        raise RowError(
            where,
            f"more than one column that may be {wanted}",
            f"{where} has the columns {' and '.join(map(repr, alike))}, and either may be {wanted}. Rename one, or say "
            f"which one it is by data.columns, such as data.columns='{{{wanted}: {alike[0]!r}}}'.",
        )
    return alike[0] if alike else None
