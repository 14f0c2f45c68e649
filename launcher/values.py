"""How sweeps and studies show values of settings, and texts in tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from infoprompt.credentials import shown_uri


def show_values(values: Mapping[str, Any]) -> str:
    """`optim.lr=0.001, seed=0`."""
    return ", ".join(f"{key}={show_value(value)}" for key, value in values.items())


def show_value(value: Any) -> str:
    """A number with four digits, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else shown_uri(str(value))


def cell(text: str) -> str:
    """A text as a cell of a Markdown table: on one line, its bars escaped."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


def markdown_line(texts: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(map(cell, texts))} |"
