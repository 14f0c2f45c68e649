"""Pictures of a sweep: all trials at once, their learning curves, which settings matter. Pure functions, no pyplot."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from infoprompt.figures import COLOURS, GREY, PANELS_PER_ROW, empty, panel_grid, thinned, tidy
from infoprompt.picture import Picture, shown
from launcher.sweeps.axes import GAP, broken, lying, scale_of, spread, upright
from launcher.sweeps.statistics import (
    NOT_SET,
    Direction,
    TrialScores,
    as_text,
    group_mean,
    mean_curve,
    ranking,
    searched_settings,
)

BEST = COLOURS[1]
IN_TURN = (BEST, COLOURS[0], *COLOURS[2:])
LIGHT = "#BBBBBB"
QUALITY = LinearSegmentedColormap.from_list("quality", ["#CFDFEE", COLOURS[0], "#173553"])
DASHES = (0, (4, 3))
MAX_LINES = 300
MAX_SETTINGS = 32
BANDS = 3  # more of them cover each other
LEGEND_HANDLE, LEGEND_CHARACTER = 0.55, 0.06  # inches of a legend's entry: beside its text, and each letter of that


def parallel_coordinates(trials: Sequence[TrialScores], *, metric: str, direction: Direction) -> Figure:
    """A line per trial through its value of each searched setting, to its mean score at the right.

    The better a trial, the darker its line, and the best is thick and red; of very many trials some are drawn, the best
    among them. A trial that was stopped early is dashed and
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
    finished = [(trial, means[trial.number]) for trial in reversed(best_first)]
    drawn = [*thinned(stopped, MAX_LINES), *thinned(finished, MAX_LINES)]
    names = searched_settings([trial for trial, _ in drawn])[:MAX_SETTINGS]
    if not names:
        return empty(f"{metric}: no trial has finished.")
    scales = {name: scale_of([trial.values.get(name, NOT_SET) for trial, _ in drawn]) for name in names}
    places = [spread([trial.values.get(name, NOT_SET) for trial, _ in drawn], scales[name]) for name in names]
    score_scale = scale_of([score for _, score in drawn])
    places.append([score_scale.share(score) for _, score in drawn])

    figure = Picture(figsize=(max(1.25 * len(places) + 0.8, 5), 4.4), layout="constrained")
    host = figure.subplots()
    num_hollow = min(len(stopped), MAX_LINES)
    for index, (trial, _) in enumerate(drawn):
        line = [column[index] for column in places]
        look: dict[str, Any] = {"color": LIGHT, "linewidth": 0.9, "linestyle": DASHES}
        if trial is drawn[-1][0] and best_first:
            look = {"color": BEST, "linewidth": 3}
        elif trial.number in means:
            # by rank: one trial that learnt nothing would make all others look alike
            quality = (index - num_hollow) / (len(drawn) - num_hollow)
            look = {"color": QUALITY(quality), "linewidth": 1.4 if len(drawn) <= 40 else 0.9}
        host.plot(range(len(places)), line, **look, gid=f"trial {trial.number}", zorder=2 + index / len(drawn))
    floor = -GAP - 0.05 if any(scale.absent for scale in scales.values()) else -0.03
    host.set(xlim=(-0.1, len(places) - 0.9), ylim=(floor, 1.03))
    better = "higher" if direction == "max" else "lower"
    host.set_xticks(range(len(places)), [*map(broken, names), f"{metric}\n({better} is better)"], fontsize=8)
    host.xaxis.tick_top()
    host.tick_params(length=0, pad=4)
    host.yaxis.set_visible(False)
    host.spines[:].set_visible(False)
    for index, scale in enumerate([*scales.values(), score_scale]):
        upright(host, index, scale, floor, right=index == len(names))
    left_out = len(stopped) + len(finished) - len(drawn)
    _explain(figure, trials, best_first, [trial for trial, _ in stopped], means, left_out)
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
    means = {trial.number: mean_curve(trial) for trial in trials if trial.status != "failed"}
    curves = {number: thinned(curve) for number, curve in means.items() if curve}
    if not curves:
        return empty(f"{metric}: no trial was evaluated.")
    best = [trial for trial in ranking(trials, direction) if trial.number in curves][:most]
    named = {trial.number for trial in best}
    figure = Picture(figsize=(7.6, 4.4), layout="constrained")
    axes = figure.subplots()
    others = [trial for trial in trials if trial.number in curves and trial.number not in named]
    for trial in thinned(others, MAX_LINES):
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
    tidy(axes)
    return figure


def importance_bars(importance: Mapping[str, float], *, metric: str) -> Figure:
    """Share of the score's variation that each setting explains by itself, the largest on top.

    Args:
        importance: setting to its share, as of `statistics.importance`.
        metric: its name, for the axis.
    """
    if not importance:
        return empty(f"{metric}: too few trials have finished, or nothing varies.")
    order = sorted(importance, key=lambda name: importance[name])[-MAX_SETTINGS:]
    figure = Picture(figsize=(6.4, 1.1 + 0.32 * len(order)), layout="constrained")
    axes = figure.subplots()
    shares = [100 * importance[name] for name in order]
    bars = axes.barh(range(len(order)), shares, color=COLOURS[0], height=0.62)
    axes.set_yticks(range(len(order)), list(map(shown, order)))
    axes.bar_label(bars, [f"{share:.0f} %" for share in shares], padding=3, fontsize=8)
    axes.set_xlim(0, max(shares) * 1.12)
    axes.set_xlabel(f"share of the variation of {metric} that it explains by itself, %", fontsize=8)
    tidy(axes, grid="x")
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
    names = searched_settings(rows)[:MAX_SETTINGS]
    if not names:
        return empty(f"{metric}: no trial has finished.")
    means, hollow = [mean for _, mean in done], [score for _, score in stopped]
    below = [mean - min(trial.final.values()) for trial, mean in done]
    above = [max(trial.final.values()) - mean for trial, mean in done]
    # a mean may be a rounding error beyond equal scores
    reach = np.maximum([below, above], 0)
    figure, panels = panel_grid(len(names))
    size = 4.5 if len(rows) <= 40 else 3
    for axes, name in zip(panels, names, strict=True):
        values = [trial.values.get(name, NOT_SET) for trial in rows]
        scale = scale_of(values)
        places = list(map(scale.at, spread(values, scale, widest=0.25, numbers_too=0.02)))
        axes.plot(places[len(done) :], hollow, "o", color=LIGHT, markerfacecolor="none", markersize=size)
        axes.errorbar(places[: len(done)], means, reach, fmt="o", color=COLOURS[0], markersize=size, elinewidth=0.9)
        tidy(axes)
        lying(axes, scale)
        axes.set_title(broken(name, 30), fontsize=9)
    for axes in panels[::PANELS_PER_ROW]:
        axes.set_ylabel(metric, fontsize=8)
    several = any(len(trial.final) > 1 for trial, _ in done)
    told = ["Bars: lowest to highest seed."] * several + ["Hollow: stopped early."] * bool(stopped)
    figure.supxlabel(" ".join(told), fontsize=8, color=GREY)
    return figure


def _explain(
    figure: Figure,
    trials: Sequence[TrialScores],
    best_first: Sequence[TrialScores],
    stopped: Sequence[TrialScores],
    means: Mapping[int, float],
    num_left_out: int,
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
    left_out: Counter[str] = Counter(trial.status for trial in trials if trial.status in ("failed", "unfinished"))
    if num_left_out:
        left_out["between those shown"] = num_left_out
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
