"""Pictures of a sweep: all trials at once, their learning curves, which settings matter. Pure functions, no pyplot."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from infoprompt.figures import COLOURS, GREY
from launcher.sweep_statistics import (
    NOT_SET,
    Direction,
    TrialScores,
    as_text,
    group_mean,
    is_log,
    is_number,
    mean_curve,
    ranking,
    searched_settings,
)

BEST = COLOURS[1]
IN_TURN = (BEST, COLOURS[0], *COLOURS[2:])
LIGHT = "#BBBBBB"
QUALITY = LinearSegmentedColormap.from_list("quality", ["#CFDFEE", COLOURS[0], "#173553"])
DASHES = (0, (4, 3))
BANDS = 3  # more of them cover each other
PANELS_PER_ROW = 4
GAP = 0.14  # from the lowest value to where "not set" is, as a share of the axis
MOST_LABELS = 25  # on an axis of categories
LEGEND_HANDLE, LEGEND_CHARACTER = 0.55, 0.06  # inches of a legend's entry: beside its text, and each letter of that
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
            names = [_short(as_text(json.loads(level))) for level in self.levels]
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


def parallel_coordinates(trials: Sequence[TrialScores], *, metric: str, direction: Direction) -> Figure:
    """A line per trial through its value of each searched setting, to its mean score at the right.

    The better a trial, the darker its line, and the best is thick and red. A trial that was stopped early is dashed and
    ends at its last mean score. Lines through the same category are spread a little, the best on top.

    Args:
        trials: of the sweep; those that failed or have not ended are counted but not drawn.
        metric: its name, for the axis.
        direction: whether more or less of it is better.
    """
    best_first = ranking(trials, direction)
    means = {trial.number: mean for trial in best_first if (mean := group_mean(trial)) is not None}
    stopped = [(trial, curve[-1][1]) for trial in _stopped(trials) if (curve := mean_curve(trial))]
    # what is drawn later lies on top
    drawn = [*stopped, *((trial, means[trial.number]) for trial in reversed(best_first))]
    names = searched_settings([trial for trial, _ in drawn])
    if not names:
        return _empty(f"{metric}: no trial has finished.")
    scales = {name: _scale([trial.values.get(name, NOT_SET) for trial, _ in drawn]) for name in names}
    places = [_spread([trial.values.get(name, NOT_SET) for trial, _ in drawn], scales[name]) for name in names]
    score_scale = _scale([score for _, score in drawn])
    places.append([score_scale.share(score) for _, score in drawn])

    figure = Figure(figsize=(max(1.25 * len(places) + 0.8, 5), 4.4), layout="constrained")
    host = figure.subplots()
    for index, (trial, _) in enumerate(drawn):
        line = [column[index] for column in places]
        look: dict[str, Any] = {"color": LIGHT, "linewidth": 0.9, "linestyle": DASHES}
        if trial is drawn[-1][0] and best_first:
            look = {"color": BEST, "linewidth": 3}
        elif trial.number in means:
            # by rank: one trial that learnt nothing would make all others look alike
            quality = (index - len(stopped)) / len(means)
            look = {"color": QUALITY(quality), "linewidth": 1.4 if len(drawn) <= 40 else 0.9}
        host.plot(range(len(places)), line, **look, gid=f"trial {trial.number}", zorder=2 + index / len(drawn))
    floor = -GAP - 0.05 if any(scale.absent for scale in scales.values()) else -0.03
    host.set(xlim=(-0.1, len(places) - 0.9), ylim=(floor, 1.03))
    better = "higher" if direction == "max" else "lower"
    host.set_xticks(range(len(places)), [*map(_broken, names), f"{metric}\n({better} is better)"], fontsize=8)
    host.xaxis.tick_top()
    host.tick_params(length=0, pad=4)
    host.yaxis.set_visible(False)
    host.spines[:].set_visible(False)
    for index, scale in enumerate([*scales.values(), score_scale]):
        _upright(host, index, scale, floor, right=index == len(names))
    _explain(figure, trials, best_first, [trial for trial, _ in stopped], means)
    return figure


def learning_curves_of_trials(
    trials: Sequence[TrialScores], *, metric: str, direction: Direction, most: int = 12
) -> Figure:
    """Mean dev score of each trial over the updates; the best ones in colour, the others thin and grey.

    The best three have a band from the lowest to the highest seed. A trial that was stopped early ends with a cross.

    Args:
        trials: of the sweep; one that failed, or has no curve yet, is left out.
        metric: its name, for the axis.
        direction: whether more or less of it is better.
        most: how many of the best are drawn in colour and named.
    """
    curves = {trial.number: curve for trial in trials if trial.status != "failed" and (curve := mean_curve(trial))}
    if not curves:
        return _empty(f"{metric}: no trial was evaluated.")
    best = [trial for trial in ranking(trials, direction) if trial.number in curves][:most]
    named = {trial.number for trial in best}
    figure = Figure(figsize=(7.6, 4.4), layout="constrained")
    axes = figure.subplots()
    others = [trial for trial in trials if trial.number in curves and trial.number not in named]
    for trial in others:
        steps, scores = zip(*curves[trial.number], strict=True)
        axes.plot(steps, scores, color=LIGHT, linewidth=0.8, marker=_marker(steps), gid=f"trial {trial.number}")
        if trial.status == "stopped":
            axes.plot(steps[-1], scores[-1], "x", color=GREY, markersize=4, gid=f"end of trial {trial.number}")
    for place, trial in reversed(list(enumerate(best))):
        steps, scores = zip(*curves[trial.number], strict=True)
        look: dict[str, Any] = {
            "color": IN_TURN[place % len(IN_TURN)],
            "linestyle": ("-", DASHES, ":")[min(place // len(COLOURS), 2)],
            "linewidth": 2.4 if place == 0 else 1.6 if place < BANDS else 1.1,
        }
        axes.plot(steps, scores, **look, marker=_marker(steps), gid=f"trial {trial.number}", zorder=4 - place / most)
        if place < BANDS:
            low, high = _lowest_and_highest(trial, steps)
            axes.fill_between(steps, low, high, color=look["color"], alpha=0.14, linewidth=0)
    _name_curves(figure, axes, best, others)
    axes.set_xlabel("update", fontsize=8)
    several = any(len(trial.curve) > 1 for trial in trials)
    axes.set_ylabel(f"{metric}, mean over the seeds" if several else metric, fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    _tidy(axes)
    return figure


def importance_bars(importance: Mapping[str, float], *, metric: str) -> Figure:
    """Share of the score's variation that each setting explains by itself, the largest on top.

    Args:
        importance: setting to its share, as of `sweep_statistics.importance`.
        metric: its name, for the axis.
    """
    if not importance:
        return _empty(f"{metric}: too few trials have finished, or nothing varies.")
    order = sorted(importance, key=lambda name: importance[name])
    figure = Figure(figsize=(6.4, 1.1 + 0.32 * len(order)), layout="constrained")
    axes = figure.subplots()
    shares = [100 * importance[name] for name in order]
    bars = axes.barh(order, shares, color=COLOURS[0], height=0.62)
    axes.bar_label(bars, [f"{share:.0f} %" for share in shares], padding=3, fontsize=8)
    axes.set_xlim(0, max(shares) * 1.12)
    axes.set_xlabel(f"share of the variation of {metric} that it explains by itself, %", fontsize=8)
    _tidy(axes, grid="x")
    axes.tick_params(axis="y", length=0, labelsize=8)
    return figure


def score_by_setting(trials: Sequence[TrialScores], *, metric: str) -> Figure:
    """A panel per setting: each trial's value against its mean score, with a bar from its lowest to its highest seed.

    Trials that were stopped early are hollow, at their last mean score. Trials of equal value stand side by side.

    Args:
        trials: of the sweep; those that failed or have not ended are left out.
        metric: its name, for the axis.
    """
    done = [(trial, mean) for trial in trials if (mean := group_mean(trial)) is not None]
    stopped = [(trial, curve[-1][1]) for trial in _stopped(trials) if (curve := mean_curve(trial))]
    rows = [trial for trial, _ in [*done, *stopped]]
    names = searched_settings(rows)
    if not names:
        return _empty(f"{metric}: no trial has finished.")
    means, hollow = [mean for _, mean in done], [score for _, score in stopped]
    below = [mean - min(trial.final.values()) for trial, mean in done]
    above = [max(trial.final.values()) - mean for trial, mean in done]
    # a mean may be a rounding error beyond equal scores
    reach = np.maximum([below, above], 0)
    columns = min(len(names), PANELS_PER_ROW)
    height = -(-len(names) // columns)
    figure = Figure(figsize=(max(3.0 * columns, 4.2), 2.7 * height), layout="constrained")
    panels = list(figure.subplots(height, columns, squeeze=False, sharey=True).flat)
    for unused in panels[len(names) :]:
        unused.set_visible(False)
    size = 4.5 if len(rows) <= 40 else 3
    for axes, name in zip(panels, names, strict=False):
        values = [trial.values.get(name, NOT_SET) for trial in rows]
        scale = _scale(values)
        places = list(map(scale.at, _spread(values, scale, widest=0.25, numbers_too=0.02)))
        axes.plot(places[len(done) :], hollow, "o", color=LIGHT, markerfacecolor="none", markersize=size)
        axes.errorbar(places[: len(done)], means, reach, fmt="o", color=COLOURS[0], markersize=size, elinewidth=0.9)
        _tidy(axes)
        _lying(axes, scale)
        axes.set_title(_broken(name, 30), fontsize=9)
    for axes in panels[::columns]:
        axes.set_ylabel(metric, fontsize=8)
    several = any(len(trial.final) > 1 for trial, _ in done)
    told = ["Bars: lowest to highest seed."] * several + ["Hollow: stopped early."] * bool(stopped)
    figure.supxlabel(" ".join(told), fontsize=8, color=GREY)
    return figure


def _scale(values: Sequence[Any]) -> Scale:
    present = [value for value in values if value is not NOT_SET]
    absent = len(present) < len(values)
    if not all(map(is_number, present)):
        levels = sorted({_key(value) for value in present}, key=lambda text: (not _is_numeral(text), text))
        return Scale("categories", -0.5, len(levels) - 0.5, tuple(levels), False, absent)
    numbers = sorted(set(present))
    low, high = (numbers[0], numbers[-1]) if len(numbers) > 1 else (numbers[0] - 0.5, numbers[0] + 0.5)
    whole = all(isinstance(number, int) for number in numbers)
    return Scale("log" if is_log(numbers) else "linear", low, high, tuple(numbers), whole, absent)


def _spread(values: Sequence[Any], scale: Scale, widest: float = 0.035, numbers_too: float = 0.0) -> list[float]:
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


def _upright(host: Axes, index: int, scale: Scale, floor: float, *, right: bool) -> None:
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


def _lying(axes: Axes, scale: Scale) -> None:
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


def _explain(
    figure: Figure,
    trials: Sequence[TrialScores],
    best_first: Sequence[TrialScores],
    stopped: Sequence[TrialScores],
    means: Mapping[int, float],
) -> None:
    lines = []
    if best_first:
        best = best_first[0]
        label = f"best: trial {best.number} ({as_text(means[best.number])})"
        lines.append(Line2D([], [], color=BEST, linewidth=3, label=label))
    if len(best_first) > 1:
        label = f"{_others(len(best_first) - 1)} finished, the better the darker"
        lines.append(Line2D([], [], color=COLOURS[0], linewidth=1.4, label=label))
    if stopped:
        lines.append(Line2D([], [], color=LIGHT, linestyle=DASHES, label=f"{len(stopped)} stopped early"))
    left_out = Counter(trial.status for trial in trials if trial.status in ("failed", "unfinished"))
    if left_out:
        told = ", ".join(f"{count} {status}" for status, count in sorted(left_out.items()))
        lines.append(Line2D([], [], linestyle="none", label=f"not shown: {told}"))
    # what does not fit side by side would be cut off at both ends
    needed = sum(LEGEND_HANDLE + LEGEND_CHARACTER * len(str(line.get_label())) for line in lines)
    ncols = len(lines) if needed < figure.get_figwidth() else 1
    figure.legend(handles=lines, loc="outside lower center", ncols=ncols, frameon=False, fontsize=8)


def _others(number: int) -> str:
    return f"{number} other" if number == 1 else f"{number} others"


def _name_curves(figure: Figure, axes: Axes, best: Sequence[TrialScores], others: Sequence[TrialScores]) -> None:
    lines = {line.get_gid(): line for line in axes.get_lines()}
    handles, labels = [], []
    for trial in best:
        handles.append(lines[f"trial {trial.number}"])
        labels.append(f"trial {trial.number}: {group_mean(trial):.4g}")
    if others:
        handles.append(Line2D([], [], color=LIGHT, linewidth=0.8))
        labels.append(_others(len(others)))
    num_stopped = len(_stopped(others))
    if num_stopped:
        handles.append(Line2D([], [], color=GREY, marker="x", markersize=4, linestyle="none"))
        labels.append(f"stopped early ({num_stopped})")
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)


def _lowest_and_highest(trial: TrialScores, steps: Sequence[int]) -> tuple[list[float], list[float]]:
    at_step = [[dict(points)[step] for points in trial.curve.values() if points] for step in steps]
    return [min(scores) for scores in at_step], [max(scores) for scores in at_step]


def _stopped(trials: Sequence[TrialScores]) -> list[TrialScores]:
    return [trial for trial in trials if trial.status == "stopped"]


def _marker(steps: Sequence[int]) -> str:
    return "o" if len(steps) == 1 else ""


def _key(value: Any) -> str:
    """What makes two values the same category; text is quoted, so that "1" is not 1."""
    return NOT_SET if value is NOT_SET else json.dumps(value, default=str)


def _is_numeral(text: str) -> bool:
    return is_number(json.loads(text))


def _short(text: str, most: int = 18) -> str:
    """Long text without its middle: names of models differ at both ends."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2 - 1) :]}"


def _broken(name: str, most: int = LINE_LENGTH) -> str:
    """A setting's name on as many lines as it needs, broken behind dots and underscores."""
    lines = [""]
    for part in re.split(r"(?<=[._])", name):
        if lines[-1] and len(lines[-1]) + len(part) > most:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _tidy(axes: Axes, grid: Literal["x", "y"] = "y") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7)


def _empty(text: str) -> Figure:
    figure = Figure(figsize=(4.6, 2.0), layout="constrained")
    figure.text(0.5, 0.5, text, ha="center", va="center", color=GREY)
    return figure
