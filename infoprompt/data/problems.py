"""What is wrong with the rows of a source: each kind of fault with its count and its first rows."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from infoprompt.config import ConfigError

SHOWN_ROWS = 5
"""Rows of one kind of fault that are named."""
SHOWN_KINDS = 12
_SHOWN_CHARACTERS = 80
NO_COLUMN = "no column"
"""How the kinds of fault begin that lie in the file's columns, not in its rows."""


class RowError(ConfigError):
    """A row that cannot be used."""

    def __init__(self, where: str, kind: str, message: str) -> None:
        super().__init__(message)
        self.where = where
        """The row, as `line 3 of /data/train.jsonl`."""
        self.kind = kind
        """What all rows of the same fault share, in words."""


@dataclass
class Problems:
    """The faults found in one source; filled while it is read."""

    rows: list[RowError] = field(default_factory=list)
    fatal: list[ConfigError] = field(default_factory=list)
    """What kept the reader from going on."""

    def __bool__(self) -> bool:
        return bool(self.rows or self.fatal)

    def error(self, source: str, *, skippable: bool = False) -> ConfigError:
        """All of it in one message; that of a single fault is its own.

        Args:
            source: what was read.
            skippable: whether `data.bad_rows: skip` is a way out.
        """
        if len(self.rows) + len(self.fatal) == 1:
            return (self.rows or self.fatal)[0]
        if not self.fatal and self.rows and all(row.kind.startswith(NO_COLUMN) for row in self.rows):
            return self.rows[0]  # the same in every row
        lines = [f"{source} has {len(self.rows):,} rows that cannot be used:"] if self.rows else []
        kinds = by_kind(self.rows)
        lines += [_of_one_kind(kind, rows) for kind, rows in list(kinds.items())[:SHOWN_KINDS]]
        if len(kinds) > SHOWN_KINDS:
            lines.append(f"- and {len(kinds) - SHOWN_KINDS} further kinds of fault")
        lines += [str(error) for error in self.fatal]
        if self.rows and not self.fatal:
            skip = ", or leave them out with data.bad_rows=skip" if skippable else ""
            lines.append(f"Correct or remove these rows{skip}.")
        return ConfigError("\n".join(lines))


def by_kind(errors: Iterable[RowError]) -> dict[str, list[RowError]]:
    """The errors of each kind, in the order in which the kinds were found."""
    kinds: dict[str, list[RowError]] = {}
    for error in errors:
        kinds.setdefault(error.kind, []).append(error)
    return kinds


def places(errors: Iterable[RowError]) -> str:
    """`line 3, line 7 and 12 more`."""
    named = [error.where.partition(" of ")[0] for error in errors]
    more = f" and {len(named) - SHOWN_ROWS:,} more" if len(named) > SHOWN_ROWS else ""
    return ", ".join(named[:SHOWN_ROWS]) + more


def shown(value: object) -> str:
    """A value as a message quotes it, cut where it is long."""
    text = repr(value[:_SHOWN_CHARACTERS]) if isinstance(value, str) else repr(value)
    cut = len(text) > _SHOWN_CHARACTERS + 2 or (isinstance(value, str) and len(value) > _SHOWN_CHARACTERS)
    return f"{text[:_SHOWN_CHARACTERS]}..." if cut else text


def _of_one_kind(kind: str, rows: list[RowError]) -> str:
    if len(rows) == 1:
        return f"- 1 row: {rows[0]}"
    return f"- {len(rows):,} rows: {kind} ({places(rows)}). The first: {rows[0]}"
