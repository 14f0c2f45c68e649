"""The values of a row's columns, checked: texts, labels, numbers, lists and places in a text."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from infoprompt.data.opening import lone_surrogate
from infoprompt.data.problems import RowError, shown


def as_text(value: Any, name: str, where: str) -> str:
    """A text that says something; a number is written out."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        value = str(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise RowError(
            where,
            f"the {name} is missing",
            f"The {name} of {where} is {value!r}, but must be a string. Correct the row or remove it.",
        )
    if not isinstance(value, str):
        raise RowError(
            where,
            f"the {name} is no string",
            f"The {name} of {where} is {shown(value)}, but must be a string. Correct the row or remove it.",
        )
    if not value.strip():
        raise RowError(
            where,
            f"the {name} is empty",
            f"The {name} of {where} is empty. Remove the row, or give it a text.",
        )
    _check_characters(value, name, where)
    return value


def _check_characters(value: str, name: str, where: str) -> None:
    if half := lone_surrogate(value):
        raise RowError(
            where,
            f"the {name} holds half a character",
            f"The {name} of {where} holds half a character, {half}, which no text can hold alone. It was cut in the "
            "middle of an emoji or the like: write the text anew, or remove the row.",
        )
    if "\0" in value:
        raise RowError(
            where,
            f"the {name} holds a zero byte",
            f"The {name} of {where} holds a zero byte, so the file may be damaged or in another encoding "
            "(data.encoding). Correct the row or remove it.",
        )


def as_label(value: Any, where: str) -> str:
    """A class: the string without blanks around it, a whole number, `true` or `false`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():  # a column of whole numbers that once had gaps
        value = int(value)
    if isinstance(value, int):
        return str(value)
    if (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    ):
        raise RowError(
            where,
            "the label is empty",
            f"The label of {where} is empty. Remove the row, or give a labelled part (the labels of many public test "
            "splits are kept private; use their validation split).",
        )
    if not isinstance(value, str):
        regression = " To predict values, use data.task=regression." if isinstance(value, float) else ""
        raise RowError(
            where,
            "the label is no class",
            f"The label of {where} is {shown(value)}, but must be a class: a string, a whole number or a bool."
            f"{regression}",
        )
    _check_characters(value, "label", where)
    return value.strip()


def as_number(value: Any, where: str) -> float:
    """A finite number."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RowError(
            where,
            "the value is no number",
            f"The value of {where} is {shown(value)}, but must be a number. Correct the row or remove it.",
        )
    return number


def as_texts(value: Any, name: str, where: str) -> tuple[str, ...]:
    """A list of at least one text."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise RowError(
            where,
            f"the {name} are no list",
            f"The {name} of {where} is {shown(value)}, but must be a list of at least one string.",
        )
    return tuple(as_text(item, f"{name} item {number}", where) for number, item in enumerate(value, 1))


def as_choice(label: str, choices: Sequence[str], where: str) -> str:
    """`choice1` and so on, of that itself, of a choice's words, or of its number counted from 0."""
    places = [f"choice{number}" for number in range(1, len(choices) + 1)]
    if label in places:
        return label
    if label in choices:
        return places[choices.index(label)]
    if label.isascii() and label.isdecimal() and len(label) < 10 and int(label) < len(choices):
        return places[int(label)]
    raise RowError(
        where,
        "the label is none of the choices",
        f"The label of {where} is {shown(label)}, but must be one of {', '.join(places)}, the words of a choice, or "
        "its number counted from 0.",
    )


def as_place(named: Mapping[str, Any], side: str, text: str, where: str) -> tuple[int, int] | None:
    """First character and end of a marked part of the text; None where none is marked."""
    entity = named.get(side)
    if isinstance(entity, Mapping):
        start, end, words = entity.get("start"), entity.get("end"), entity.get("text")
    elif f"{side}_start" in named and f"{side}_end" in named:
        start, end, words = named[f"{side}_start"], named[f"{side}_end"], entity
    else:
        return None
    first, last = _offset(start, f"{side} start", where), _offset(end, f"{side} end", where)
    if not 0 <= first < last <= len(text):
        raise RowError(
            where,
            f"the {side} lies outside the text",
            f"The {side} of {where} runs from {first} to {last}, but its text has the characters 0 to "
            f"{len(text)}. Offsets count characters, and the end is exclusive.",
        )
    if isinstance(words, str) and words != text[first:last]:
        raise RowError(
            where,
            f"the {side} is not what its offsets point at",
            f"The {side} of {where} is {shown(words)}, but its offsets point at {shown(text[first:last])}. "
            "Offsets count characters (not bytes or tokens), and the end is exclusive.",
        )
    return first, last


def _offset(value: Any, name: str, where: str) -> int:
    written = isinstance(value, str) and value.strip().isdecimal() and len(value) < 20
    if isinstance(value, bool) or not (isinstance(value, int) or written):
        raise RowError(
            where,
            f"the {name} is no whole number",
            f"The {name} of {where} is {shown(value)}, but must be a whole number of characters.",
        )
    return int(value)
