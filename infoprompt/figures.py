"""Pictures of a run: learning curves, confusion matrix. Pure functions; no pyplot, so no state and no display."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from infoprompt.picture import Picture, shown

# Paul Tol's bright set: colour-blind safe
COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#AA3377", "#66CCEE")
GREY = "#666666"
MAX_CLASSES_WITH_COUNTS = 20
MAX_CLASSES = 50
PANELS_PER_ROW = 4
MAX_POINTS = 1000  # of a curve; more than a picture is wide
LOSSES = {
    "train/loss": "total",
    "train/cross_entropy": "cross-entropy",
    "train/head_loss": "prompt and head",
    "train/representation_loss": "prompt and representation",
    "train/kl": "KL divergence",
    "dev/loss": "dev",
    "train/contrastive": "pairs (no nats)",
}
BOUNDS = {"train/mi_head": "prompt and head", "train/mi_representation": "prompt and representation"}

Rows = Sequence[Mapping[str, float]]
Series = tuple[list[float], list[float]]
Point = TypeVar("Point")


def learning_curves(history: Rows) -> Figure:
    """Losses, mutual-information bounds with their ceilings, and dev scores over updates.

    Args:
        history: rows such as `{"step": 10, "train/loss": 0.7, "dev/accuracy": 0.5}`; a row may lack any metric but
            `step`, and a panel without metrics is left out.
    """
    panels = [panel for panel in (_loss_panel, _bound_panel, _score_panel) if panel(None, history)]
    if not panels:
        return empty("No metrics were recorded.", (4.6, 3.6))
    figure = Picture(figsize=(4.6 * len(panels), 3.6), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        panel(axes, history)
        _tidy(axes)
    return figure


def confusion_matrix(labels: Sequence[int], predictions: Sequence[int], label_names: Sequence[str]) -> Figure:
    """How often each class (row) was predicted as each class (column); colour is the share of the row.

    Of more than 50 classes, the 50 that are most often confused are drawn.

    Args:
        labels: the true classes, indices into `label_names`.
        predictions: the predicted classes, as many.
        label_names: one name per class; counts are printed for up to 20 classes.
    Raises:
        ValueError: if `labels` and `predictions` differ in number, or an index has no name.
    """
    true_M, predicted_M = _checked(labels, predictions, len(label_names))
    drawn = _most_confused(true_M, predicted_M, len(label_names))
    names = [shown(label_names[index]) for index in drawn]
    counts_CC = _count(true_M, predicted_M, drawn)
    row_totals_C = np.bincount(true_M, minlength=len(label_names))[drawn]
    shares_CC = counts_CC / np.maximum(row_totals_C[:, None], 1)
    small = len(names) <= MAX_CLASSES_WITH_COUNTS
    cell = max(3.5 / max(len(names), 1), 0.42 if small else 0.145)  # inches
    room = (0.075 if small else 0.047) * max(map(len, names), default=0)
    side = cell * len(names) + 0.9
    figure = Picture(figsize=(side + room + 1.0, side + 0.35 + (room if room > cell else 0.1)), layout="constrained")
    axes = figure.subplots()
    # shares enter by their root: a mistake made once in fifty is seen beside a class that is mostly right
    image = axes.imshow(shares_CC, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    _name_classes(axes, names, fontsize=8 if small else 5, upright=room > cell)
    axes.set(xlabel="predicted", ylabel="true")
    title = _summary(true_M, predicted_M)
    if len(drawn) < len(label_names):
        title += f"\nthe {len(drawn)} most confused of {len(label_names):,} classes"
    axes.set_title(title, loc="left", fontsize=10)
    if small:
        _print_counts(axes, counts_CC, shares_CC)
    else:
        figure.supxlabel(_worst_mistakes(true_M, predicted_M, label_names), fontsize=8, color=GREY)
    bar = figure.colorbar(image, ax=axes, shrink=0.5, aspect=25, pad=0.02, ticks=[0, 0.05, 0.2, 0.5, 1])
    bar.set_label("share of the true class", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    return figure


def _loss_panel(axes: Axes | None, history: Rows) -> bool:
    series = {name: _series(history, key) for key, name in LOSSES.items()}
    if axes is not None:
        for colour, (name, (steps, values)) in zip((*COLOURS, GREY), series.items(), strict=True):
            if steps:
                width = 2.2 if name == "total" else 1.4
                axes.plot(steps, values, color=colour, label=name, linewidth=width, marker=_marker(steps))
        axes.set(title="Losses", ylabel="nats")
    return any(steps for steps, _ in series.values())


def _bound_panel(axes: Axes | None, history: Rows) -> bool:
    """One colour per term; its ceiling, where it has one, is the dashed line of the same colour."""
    keys = sorted({key for row in history for key in row if key.startswith(tuple(BOUNDS))})
    if axes is not None:
        for key in keys:
            term = next(prefix for prefix in BOUNDS if key.startswith(prefix))
            colour = COLOURS[list(BOUNDS).index(term)]
            steps, values = _series(history, key)
            if key.endswith("ceiling"):
                label = "its ceiling, log(K + 1)" if key.endswith("infonce_ceiling") else "its ceiling"
                axes.plot(steps, values, color=colour, linestyle=(0, (4, 3)), linewidth=1, label=label)
            else:
                axes.plot(steps, values, color=colour, linewidth=1.8, label=BOUNDS[term], marker=_marker(steps))
        axes.axhline(0, color=GREY, linewidth=0.6)
        kind = "estimates" if any(key.endswith("_value") for key in keys) else "lower bounds"
        axes.set(title=f"Mutual information, {kind}", ylabel="nats")
    return bool(keys)


def _score_panel(axes: Axes | None, history: Rows) -> bool:
    keys = sorted({key for row in history for key in row if key.startswith("dev/") and key != "dev/loss"})
    if axes is not None:
        for index, key in enumerate(keys):
            steps, values = _series(history, key)
            style = "-" if index < len(COLOURS) else ":"
            colour = COLOURS[index % len(COLOURS)]
            axes.plot(steps, values, style, color=colour, label=shown(key.removeprefix("dev/")), marker=_marker(steps))
        axes.set(title="Dev scores")
    return bool(keys)


def _series(history: Rows, key: str) -> Series:
    """Steps and finite values of one metric, in the order of the steps; of very many, some evenly among them."""
    points = thinned(sorted((row["step"], row[key]) for row in history if key in row and math.isfinite(row[key])))
    return [step for step, _ in points], [value for _, value in points]


def thinned(points: Sequence[Point], most: int = MAX_POINTS) -> Sequence[Point]:
    """At most so many of the points, the first and the last among them."""
    if len(points) <= most:
        return points
    return [points[index] for index in np.linspace(0, len(points) - 1, most).round().astype(int)]


def _marker(steps: Sequence[float]) -> str:
    return "o" if len(steps) == 1 else "." if len(steps) <= 30 else ""


def _tidy(axes: Axes) -> None:
    axes.set_title(axes.get_title(), loc="center", fontsize=11)
    axes.set_xlabel("update")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    tidy(axes, labelsize=8)
    axes.legend(frameon=False, fontsize=8)


def tidy(axes: Axes, grid: Literal["x", "y"] = "y", labelsize: int = 7) -> None:
    """Leave what helps to read: two sides of the frame, and a grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=labelsize)


def empty(text: str, inches: tuple[float, float] = (4.6, 2.0)) -> Figure:
    """A picture that says why there is nothing to see."""
    figure = Picture(figsize=inches, layout="constrained")
    figure.text(0.5, 0.5, text, ha="center", va="center", color=GREY)
    return figure


def panel_grid(count: int, width: float = 3.0, room: float = 0.0) -> tuple[Figure, list[Axes]]:
    """So many panels with one y axis, at most four beside each other; `width` of each and `room` above in inches."""
    columns = min(count, PANELS_PER_ROW)
    rows = -(-count // columns)
    figure = Picture(figsize=(max(width * columns, 4.2), 2.7 * rows + room), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    for unused in panels[count:]:
        unused.set_visible(False)
    return figure, panels[:count]


def _checked(
    labels: Sequence[int], predictions: Sequence[int], num_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if len(labels) != len(predictions):
        raise ValueError(f"There are {len(labels)} labels and {len(predictions)} predictions, but they go in pairs.")
    true_M, predicted_M = np.asarray(labels, dtype=np.int64), np.asarray(predictions, dtype=np.int64)
    for name, index_M in (("labels", true_M), ("predictions", predicted_M)):
        if index_M.size and (index_M.min() < 0 or index_M.max() >= num_classes):
            raise ValueError(
                f"The {name} reach from {index_M.min()} to {index_M.max()}, but only 0 to {num_classes - 1} have names."
            )
    return true_M, predicted_M


def _most_confused(true_M: NDArray[np.int64], predicted_M: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Every class, or those with the most mistakes in either direction, in the order of the classes."""
    wrong = true_M != predicted_M
    mistakes_C = np.bincount(np.concatenate([true_M[wrong], predicted_M[wrong]]), minlength=num_classes)
    return np.sort(np.argsort(-mistakes_C, kind="stable")[:MAX_CLASSES])


def _count(true_M: NDArray[np.int64], predicted_M: NDArray[np.int64], drawn_C: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts among the classes that are drawn; a table of all could take gigabytes."""
    counts_CC = np.zeros((len(drawn_C), len(drawn_C)), dtype=np.int64)
    among = np.isin(true_M, drawn_C) & np.isin(predicted_M, drawn_C)
    np.add.at(counts_CC, (np.searchsorted(drawn_C, true_M[among]), np.searchsorted(drawn_C, predicted_M[among])), 1)
    return counts_CC


def _summary(true_M: NDArray[np.int64], predicted_M: NDArray[np.int64]) -> str:
    correct, total = int((true_M == predicted_M).sum()), len(true_M)
    return f"{correct} of {total} right ({correct / max(total, 1):.1%})"


def _worst_mistakes(true_M: NDArray[np.int64], predicted_M: NDArray[np.int64], label_names: Sequence[str]) -> str:
    pairs = sorted(zip(true_M.tolist(), predicted_M.tolist(), strict=True))
    worst = Counter(pair for pair in pairs if pair[0] != pair[1]).most_common(3)
    lines = [
        f"{shown(label_names[true])} taken for {shown(label_names[predicted])}: {count}"
        for (true, predicted), count in worst
    ]
    return "\n".join(["Most frequent mistakes", *lines]) if lines else "No mistakes"


def _name_classes(axes: Axes, label_names: Sequence[str], fontsize: float, upright: bool) -> None:
    places = range(len(label_names))
    axes.set_xticks(places, label_names, rotation=90 if upright else 0, fontsize=fontsize)
    axes.set_yticks(places, label_names, fontsize=fontsize)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    edges = np.arange(-0.5, len(label_names))
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="#EEEEEE", linewidth=0.5)
    axes.tick_params(which="minor", length=0)


def _print_counts(axes: Axes, counts_CC: NDArray[np.int64], shares_CC: NDArray[np.float64]) -> None:
    for true, predicted in zip(*np.nonzero(counts_CC), strict=True):
        colour = "white" if shares_CC[true, predicted] > 0.55 else "#222222"
        count = str(counts_CC[true, predicted])
        text = axes.text(predicted, true, count, ha="center", va="center", fontsize=7, color=colour)
        text.set_in_layout(False)  # it is inside the axes, and measuring hundreds takes longer than drawing them
