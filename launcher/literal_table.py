"""A table whose texts stay what they are: names, settings and reasons may hold brackets that are no markup."""

from typing import Any

from rich.table import Table
from rich.text import Text


class LiteralTable(Table):
    """rich's table, where a `str` is a text and never markup."""

    def __init__(self, *, title: str | None = None, caption: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.title = None if title is None else Text(title, style="table.title")
        self.caption = None if caption is None else Text(caption, style="table.caption")

    def add_column(self, header: Any = "", *rest: Any, **options: Any) -> None:
        """Add a column."""
        super().add_column(_literal(header), *rest, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row."""
        super().add_row(*map(_literal, cells), **options)


def _literal(cell: Any) -> Any:
    return Text(cell) if isinstance(cell, str) else cell
