"""Pictures of a study: learning curves with bands, scores by seed, information terms. Pure functions, as in `figures`.

Shapes: R runs of a method (one per seed), S steps that all of them recorded.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from infoprompt.figures import COLOURS, GREY, empty, panel_grid, thinned, tidy
from infoprompt.picture import Picture, shown

Curve = Sequence[tuple[float, float]]
"""(step, value) in the order of the steps."""
T = TypeVar("T")
Curves = Mapping[str, Sequence[Curve]]
"""Method to a curve per seed."""

MAX_PANELS = 40
MAX_ROWS = 80
MAX_NAMED_SEEDS = 12
TOGETHER = len(COLOURS)  # methods that one panel can hold apart
TERMS = {"train/mi_head": "prompt and head", "train/mi_representation": "prompt and representation"}


def learning_bands(curves: Curves, *, title: str, metric: str, baseline: str | None = None) -> Figure:
    """Mean dev score over the seeds, with a band from the lowest to the highest.

    Up to six methods share a panel; more get a panel each, with the baseline's mean in grey behind them.

    Args:
        curves: method to the dev curve of each seed; a method without any is left out.
        title: of the figure.
        metric: its name, for the axis.
        baseline: the method to show in every panel.
    """
    known = {name: runs for name, runs in curves.items() if any(runs)}
    if not known:
        return empty(f"{title}: nothing was recorded.")
    if len(known) <= TOGETHER:
        figure: Figure = Picture(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        for colour, (name, runs) in zip(COLOURS, known.items(), strict=False):
            _band(axes, runs, colour, shown(name))
        axes.legend(frameon=False, fontsize=8)
        _tidy(axes, title, shown(metric))
        return figure
    title, known = _first(title, known, MAX_PANELS)
    figure, panels = panel_grid(len(known), 3.4, 0.4)
    for axes, (name, runs) in zip(panels, known.items(), strict=False):
        if baseline is not None and baseline in known and name != baseline:
            steps_S, values_RS = _aligned(known[baseline])
            axes.plot(steps_S, values_RS.mean(0), color=GREY, linewidth=1, linestyle=(0, (4, 3)), label=shown(baseline))
        _band(axes, runs, COLOURS[0], shown(name))
        _tidy(axes, shown(name), shown(metric))
    figure.suptitle(
        title + (f"\ndashed: {shown(baseline)}" if baseline is not None and baseline in known else ""), fontsize=10
    )
    return figure


def scores_by_seed(
    scores: Mapping[str, Mapping[int, float]], *, title: str, metric: str, majority: float | None = None
) -> Figure:
    """The test score of every seed, a row per method, the best mean on top; a bar marks the mean.

    Args:
        scores: method to its score by seed; a method without any is left out.
        title: of the figure.
        metric: its name, for the axis.
        majority: score of always predicting the most frequent class, a dashed line.
    """
    known = {name: by_seed for name, by_seed in scores.items() if by_seed}
    if not known:
        return empty(f"{title}: nothing was recorded.")
    order = sorted(known, key=lambda name: float(np.mean(list(known[name].values()))))
    if len(order) > MAX_ROWS:
        title, order = f"{title}\nthe best {MAX_ROWS} of {len(order)}", order[-MAX_ROWS:]
    seeds = sorted({seed for by_seed in known.values() for seed in by_seed})
    figure = Picture(figsize=(6.4, 1.4 + 0.28 * len(order)), layout="constrained")
    axes = figure.subplots()
    for index, seed in enumerate(seeds):
        rows = [row for row, name in enumerate(order) if seed in known[name]]
        values = [known[order[row]][seed] for row in rows]
        colour = COLOURS[index % len(COLOURS)]
        label = f"seed {seed}" if len(seeds) <= MAX_NAMED_SEEDS else None
        axes.scatter(values, rows, s=22, color=colour, alpha=0.85, label=label, zorder=3)
    for row, name in enumerate(order):
        mean = float(np.mean(list(known[name].values())))
        axes.plot([mean, mean], [row - 0.32, row + 0.32], color="#222222", linewidth=1.6, zorder=2)
    if majority is not None:
        axes.axvline(majority, color=GREY, linestyle=(0, (4, 3)), linewidth=1, label="most frequent class")
    axes.set_yticks(range(len(order)), [shown(name) for name in order], fontsize=8)
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(f"test {shown(metric)}")
    tidy(axes, "x", labelsize=8)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=min(len(seeds) + 1, 6), frameon=False, fontsize=8)
    return figure


def information_over_steps(histories: Mapping[str, Sequence[Sequence[Mapping[str, float]]]], *, title: str) -> Figure:
    """Each method's bounds on the mutual information, mean over the seeds with bands, below their ceilings.

    Args:
        histories: method to the history of each seed, rows such as `{"step": 10, "train/mi_head_...": 0.3}`; a method
            without information terms is left out.
        title: of the figure.
    """
    with_terms = {
        name: runs for name, runs in histories.items() if any(key.startswith(tuple(TERMS)) for key in _keys(runs))
    }
    if not with_terms:
        return empty(f"{title}: nothing was recorded.")
    title, with_terms = _first(title, with_terms, MAX_PANELS)
    figure, panels = panel_grid(len(with_terms), 3.4, 0.4)
    for axes, (name, runs) in zip(panels, with_terms.items(), strict=False):
        for colour, (prefix, label) in zip(COLOURS, TERMS.items(), strict=False):
            for key in sorted(key for key in _keys(runs) if key.startswith(prefix)):
                curves = [_curve(rows, key) for rows in runs]
                if key.endswith("ceiling"):
                    steps_S, values_RS = _aligned(curves)
                    axes.plot(steps_S, values_RS.mean(0), color=colour, linestyle=(0, (4, 3)), linewidth=1)
                else:
                    _band(axes, curves, colour, label)
        axes.axhline(0, color=GREY, linewidth=0.6)
        axes.legend(frameon=False, fontsize=7)
        _tidy(axes, shown(name), "nats")
    figure.suptitle(f"{title}\ndashed: ceiling, log(K + 1)", fontsize=10)
    return figure


def _keys(runs: Sequence[Sequence[Mapping[str, float]]]) -> set[str]:
    return {key for rows in runs for row in rows for key in row}


def _curve(rows: Sequence[Mapping[str, float]], key: str) -> Curve:
    return [(row["step"], row[key]) for row in rows if key in row and math.isfinite(row[key])]


def _aligned(runs: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Steps that every run with a curve recorded, [S], and the values there, [R, S]; one may have stopped early."""
    tables = [dict(run) for run in runs if run]
    steps = thinned(sorted(set.intersection(*(set(table) for table in tables))) if tables else [])
    return np.asarray(steps), np.asarray([[table[step] for step in steps] for table in tables])


def _band(axes: Axes, runs: Sequence[Curve], colour: str, label: str) -> None:
    steps_S, values_RS = _aligned(runs)
    if not steps_S.size:
        return
    marker = "o" if steps_S.size == 1 else ""
    axes.plot(steps_S, values_RS.mean(0), color=colour, linewidth=1.8, label=label, marker=marker)
    axes.fill_between(steps_S, values_RS.min(0), values_RS.max(0), color=colour, alpha=0.14, linewidth=0)


def _first(title: str, panels: dict[str, T], most: int) -> tuple[str, dict[str, T]]:
    """The first panels, and a title that says so where there are more."""
    if len(panels) <= most:
        return title, panels
    return f"{title}\nthe first {most} of {len(panels)}", dict(list(panels.items())[:most])


def _tidy(axes: Axes, title: str, ylabel: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("update", fontsize=8)
    axes.set_ylabel(ylabel, fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    tidy(axes)
