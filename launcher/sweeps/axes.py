"""Axes of settings that may be numbers, categories or not set: where values stand, and how the axis is marked."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from infoprompt.figures import GREY
from infoprompt.picture import shown
from launcher.sweeps.statistics import NOT_SET, as_text, is_log, is_number

GAP = 0.14  # from the lowest value to where "not set" is, as a share of the axis
MOST_LABELS = 25  # on an axis of categories
MOST_CHARACTERS = 18  # of a category's name
LINE_LENGTH = 16  # characters of a setting's name before it is broken


@dataclass(frozen=True)
class Scale:
    """Where a setting's values stand on an axis: 0 at its low end, 1 at its high end, below 0 if not set."""

    kind: str
    """`linear`, `log` or `categories`."""

    low: float
    high: float
    levels: tuple[Any, ...]
    """The different values, in their order."""

    whole: bool
    absent: bool
    """Whether some trials have no value."""

    def share(self, value: Any) -> float:
        """Place of a value."""
        if value is NOT_SET:
            return -GAP
        if self.kind == "categories":
            value = self.levels.index(_key(value))
        if self.kind == "log":
            return float(np.log(value / self.low) / np.log(self.high / self.low))
        return float((value - self.low) / (self.high - self.low))

    def at(self, share: float) -> float:
        """The axis's own coordinate of a place."""
        if self.kind == "log":
            return float(self.low * (self.high / self.low) ** share)
        return self.low + share * (self.high - self.low)

    def ticks(self, apart: float, per_character: float = 0) -> list[tuple[float, str]]:
        """Places and labels that do not run into each other; the lowest and the highest number come first.

        Args:
            apart: least distance of two labels.
            per_character: what each character adds to it, for labels side by side.
        """
        marks = [(-GAP, NOT_SET)] if self.absent else []
        if self.kind == "categories":
            every = -(-len(self.levels) // MOST_LABELS)
            places = [(index + 0.5) / len(self.levels) for index in range(len(self.levels))]
            names = [shown(as_text(json.loads(level)), MOST_CHARACTERS) for level in self.levels]
            return [*marks, *list(zip(places, names, strict=True))[::every]]
        for number in self._round_numbers():
            place, label = self.share(number), f"{number:.0f}" if self.whole else f"{number:.3g}"
            if all(abs(place - at) >= apart + per_character * (len(label) + len(text)) / 2 for at, text in marks):
                marks.append((place, label))
        return marks

    def _round_numbers(self) -> list[float]:
        low, high = self.levels[0], self.levels[-1]
        if len(self.levels) <= 6:
            return [low, high, *self.levels[1:-1]]
        if self.kind == "log":
            between = LogLocator(numticks=7).tick_values(low, high)
            if sum(low < number < high for number in between) < 2:
                between = LogLocator(subs=(1, 2, 5)).tick_values(low, high)
        else:
            between = MaxNLocator(5, integer=self.whole).tick_values(low, high)
        return [low, high, *(float(number) for number in between if low < number < high)]


def scale_of(values: Sequence[Any]) -> Scale:
    """The scale that suits the values."""
    present = [value for value in values if value is not NOT_SET]
    absent = len(present) < len(values)
    if not all(map(is_number, present)):
        levels = sorted({_key(value) for value in present}, key=lambda text: (not _is_numeral(text), text))
        return Scale("categories", -0.5, len(levels) - 0.5, tuple(levels), False, absent)
    numbers = sorted(set(present))
    low, high = (numbers[0], numbers[-1]) if len(numbers) > 1 else (numbers[0] - 0.5, numbers[0] + 0.5)
    whole = all(isinstance(number, int) for number in numbers)
    return Scale("log" if is_log(numbers) else "linear", low, high, tuple(numbers), whole, absent)


def spread(values: Sequence[Any], scale: Scale, widest: float = 0.035, numbers_too: float = 0.0) -> list[float]:
    """Places of the values; those in one category, or not set, stand apart in the order given."""
    if scale.kind == "categories":
        room = min(widest, 0.35 / len(scale.levels))
    else:
        distances = [high - low for low, high in itertools.pairwise(map(scale.share, scale.levels))]
        room = min([numbers_too, *(0.35 * distance for distance in distances)])
    counts = Counter(map(_key, values))
    met: Counter[str] = Counter()
    places = []
    for value in values:
        key = _key(value)
        # evenly over -1 to 1, with more lines using more of the room
        offset = (2 * met[key] + 1) / counts[key] - 1
        reach = 0.03 if value is NOT_SET else room
        places.append(scale.share(value) + reach * min(counts[key] / 8, 1) * offset)
        met[key] += 1
    return places


def upright(host: Axes, index: int, scale: Scale, floor: float, *, right: bool) -> None:
    """A vertical axis of the setting's own scale at place `index`."""
    axes = host.twinx()
    if scale.kind == "log":
        axes.set_yscale("log")
    axes.set_ylim(scale.at(floor), scale.at(1.03))
    side: Literal["left", "right"] = "right" if right else "left"
    axes.spines[:].set_visible(False)
    axes.spines[side].set(visible=True, color=GREY, position=("axes", _across(host, index)))
    axes.spines[side].set_bounds(scale.at(0), scale.at(1))
    axes.yaxis.set_ticks_position(side)
    _mark(axes.set_yticks, scale, 0.07)
    axes.yaxis.set_minor_locator(NullLocator())
    axes.tick_params(labelsize=7, color=GREY, pad=2)
    for label in axes.get_yticklabels():
        label.set_path_effects([withStroke(linewidth=2.5, foreground="white", alpha=0.85)])
        if label.get_text() == NOT_SET:
            label.set(style="italic", color=GREY)


def _across(host: Axes, index: int) -> float:
    low, high = host.get_xlim()
    return (index - low) / (high - low)


def lying(axes: Axes, scale: Scale) -> None:
    """The horizontal axis of a panel."""
    if scale.kind == "log":
        axes.set_xscale("log")
    axes.set_xlim(scale.at(-GAP - 0.08 if scale.absent else -0.05), scale.at(1.05))
    _mark(axes.set_xticks, scale, 0.03, 0.022)
    axes.xaxis.set_minor_locator(NullLocator())
    labels = axes.get_xticklabels()
    crowded = sum(len(label.get_text()) + 2 for label in labels) > 42
    for label in labels:
        if crowded:
            label.set(rotation=35, ha="right", rotation_mode="anchor")
        if label.get_text() == NOT_SET:
            label.set(style="italic", color=GREY)


def _mark(set_ticks: Callable[..., Any], scale: Scale, apart: float, per_character: float = 0) -> None:
    marks = scale.ticks(apart, per_character)
    set_ticks([scale.at(place) for place, _ in marks], [label for _, label in marks])


def broken(name: str, most: int = LINE_LENGTH) -> str:
    """A setting's name on as many lines as it needs, broken behind dots and underscores."""
    lines = [""]
    for part in re.split(r"(?<=[._])", shown(name, 4 * most)):
        if lines[-1] and len(lines[-1]) + len(part) > most:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _key(value: Any) -> str:
    """What makes two values the same category; text is quoted, so that "1" is not 1."""
    return NOT_SET if value is NOT_SET else json.dumps(value, default=str)


def _is_numeral(text: str) -> bool:
    return is_number(json.loads(text))
