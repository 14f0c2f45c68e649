"""Nested mappings under dotted keys."""

from collections.abc import Mapping
from typing import Any


def get_nested(values: Any, dotted: str, default: Any = None) -> Any:
    """The value under a dotted key of nested mappings."""
    for part in dotted.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return default
        values = values[part]
    return values


def set_nested(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set the value under a dotted key of nested dicts."""
    *parents, last = dotted.split(".")
    for part in parents:
        values = values.setdefault(part, {})
    values[last] = value


def copy_nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested mappings, as dicts."""
    return {key: copy_nested(value) if isinstance(value, Mapping) else value for key, value in values.items()}


def flat_nested(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key to value; an empty mapping counts as a value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping) and value
        flat |= flat_nested(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat
