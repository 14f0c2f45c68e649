"""The words around a text (`data.template`), taken apart into what is written and what is filled in."""

import difflib
import string
from typing import Any, NamedTuple

FIELDS: dict[str, tuple[str, ...]] = {
    "single": ("text",),
    "pair": ("text_a", "text_b"),
    "relation": ("text", "head", "tail"),
    "span": ("text", "span"),
    "choice": ("text", "choice"),
    "answer": ("text", "text_a", "text_b"),
    "regression": ("text", "text_a", "text_b"),
}
"""Kind of task to what its rows have to fill in; words that are tagged one by one have no words around them."""
MASK = "mask"
"""Stands for the mask token, of backbones that have one."""


class Part(NamedTuple):
    """A stretch of words, or a place to fill in."""

    words: str = ""
    field: str | None = None


def parts_of(template: str) -> list[Part]:
    """The parts of a template, whose blanks at the end are left out: a label brings its own.

    Raises:
        ValueError: it has a brace without its counterpart, an unknown field, no field, or the mask twice.
    """
    given = f"data.template is {template!r}, but"
    known = (*dict.fromkeys(name for names in FIELDS.values() for name in names), MASK)
    try:
        found = list(string.Formatter().parse(template.rstrip(" ")))
    except ValueError:
        raise ValueError(f"{given} one of its braces stands alone. Write {{{{ or }}}} for a brace itself.") from None
    parts: list[Part] = []
    for words, field, spec, conversion in found:
        if words:
            parts.append(Part(words))
        if field is None:
            continue
        if field not in known or spec or conversion:
            near = difflib.get_close_matches(field, known, n=1, cutoff=0.5)
            hint = f"Did you mean {{{near[0]}}}?" if near else "Take one of these, or write {{ and }} for braces."
            shown = ", ".join(f"{{{name}}}" for name in known)
            raise ValueError(f"{given} {{{field}}} is no field; these are {shown}. {hint}")
        parts.append(Part(field=field))
    fields = [part.field for part in parts if part.field]
    if not set(fields) - {MASK}:
        raise ValueError(f"{given} no text is filled in. Put {{text}} where the text stands; of pairs {{text_a}}.")
    if fields.count(MASK) > 1:
        raise ValueError(f"{given} {{mask}} stands in it twice, and one mask is read. Leave one of them out.")
    return parts


def check_demonstrations(rows: Any) -> None:
    """Raise ValueError if one of the rows that `data.demonstrations` gives has no label, or nothing else."""
    for number, row in enumerate(rows, 1):
        if "label" not in row or len(row) < 2:
            raise ValueError(
                f"data.demonstrations has {row} as row {number}, but each needs its fields and a label. Write it as "
                "{text: a fine film, label: positive}."
            )
