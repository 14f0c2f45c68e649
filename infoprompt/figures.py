"""Pictures of a run: learning curves, confusion matrix. Pure functions; no pyplot, so no state and no display."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#AA3377", "#66CCEE")  # Paul Tol's bright set: colour-blind safe
GREY = "#666666"
MAX_CLASSES_WITH_COUNTS = 20
LOSSES = {
    "train/loss": "total",
    "train/cross_entropy": "cross-entropy",
    "train/head_loss": "prompt and head",
    "train/representation_loss": "prompt and representation",
    "train/kl": "KL divergence",
    "dev/loss": "dev",
}
BOUNDS = {"train/mi_head": "prompt and head", "train/mi_representation": "prompt and representation"}

Rows = Sequence[Mapping[str, float]]
Series = tuple[list[float], list[float]]


def learning_curves(history: Rows) -> Figure:
    """Losses, mutual-information bounds with their ceilings, and dev scores over updates.

    Args:
        history: rows such as `{"step": 10, "train/loss": 0.7, "dev/accuracy": 0.5}`; a row may lack any metric but
            `step`, and a panel without metrics is left out.
    """
    panels = [panel for panel in (_loss_panel, _bound_panel, _score_panel) if panel(None, history)]
    figure = Figure(figsize=(4.6 * max(len(panels), 1), 3.6), layout="constrained")
    if not panels:
        figure.text(0.5, 0.5, "No metrics were recorded.", ha="center", va="center", color=GREY)
        return figure
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        panel(axes, history)
        _tidy(axes)
    return figure


def confusion_matrix(labels: Sequence[int], predictions: Sequence[int], label_names: Sequence[str]) -> Figure:
    """How often each class (row) was predicted as each class (column); colour is the share of the row.

    Args:
        labels: the true classes, indices into `label_names`.
        predictions: the predicted classes, as many.
        label_names: one name per class; counts are printed for up to 20 classes.
    Raises:
        ValueError: if `labels` and `predictions` differ in number, or an index has no name.
    """
    counts_CC = _count(labels, predictions, len(label_names))
    shares_CC = counts_CC / np.maximum(counts_CC.sum(axis=1, keepdims=True), 1)
    small = len(label_names) <= MAX_CLASSES_WITH_COUNTS
    cell = max(3.5 / max(len(label_names), 1), 0.42 if small else 0.145)  # inches
    names = (0.075 if small else 0.047) * max((len(name) for name in label_names), default=0)
    side = cell * len(label_names) + 0.9
    figure = Figure(figsize=(side + names + 1.0, side + 0.35 + (names if names > cell else 0.1)), layout="constrained")
    axes = figure.subplots()
    # shares enter by their root: a mistake made once in fifty is seen beside a class that is mostly right
    image = axes.imshow(shares_CC, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    _name_classes(axes, label_names, fontsize=8 if small else 5, upright=names > cell)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(_summary(counts_CC), loc="left", fontsize=10)
    if small:
        _print_counts(axes, counts_CC, shares_CC)
    else:
        figure.supxlabel(_worst_mistakes(counts_CC, label_names), fontsize=8, color=GREY)
    bar = figure.colorbar(image, ax=axes, shrink=0.5, aspect=25, pad=0.02, ticks=[0, 0.05, 0.2, 0.5, 1])
    bar.set_label("share of the true class", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    return figure


def _loss_panel(axes: Axes | None, history: Rows) -> bool:
    series = {name: _series(history, key) for key, name in LOSSES.items()}
    if axes is not None:
        for colour, (name, (steps, values)) in zip(COLOURS, series.items(), strict=True):
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
            axes.plot(steps, values, style, color=colour, label=key.removeprefix("dev/"), marker=_marker(steps))
        axes.set(title="Dev scores")
    return bool(keys)


def _series(history: Rows, key: str) -> Series:
    """Steps and finite values of one metric, in the order of the steps."""
    points = sorted((row["step"], row[key]) for row in history if key in row and math.isfinite(row[key]))
    return [step for step, _ in points], [value for _, value in points]


def _marker(steps: Sequence[float]) -> str:
    return "o" if len(steps) == 1 else "." if len(steps) <= 30 else ""


def _tidy(axes: Axes) -> None:
    axes.set_title(axes.get_title(), loc="center", fontsize=11)
    axes.set_xlabel("update")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    axes.legend(frameon=False, fontsize=8)


def _count(labels: Sequence[int], predictions: Sequence[int], num_classes: int) -> NDArray[np.int64]:
    if len(labels) != len(predictions):
        raise ValueError(f"There are {len(labels)} labels and {len(predictions)} predictions, but they go in pairs.")
    true_N, predicted_N = np.asarray(labels, dtype=np.int64), np.asarray(predictions, dtype=np.int64)
    for name, index_N in (("labels", true_N), ("predictions", predicted_N)):
        if index_N.size and (index_N.min() < 0 or index_N.max() >= num_classes):
            raise ValueError(
                f"The {name} reach from {index_N.min()} to {index_N.max()}, but only 0 to {num_classes - 1} have names."
            )
    counts_CC = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(counts_CC, (true_N, predicted_N), 1)
    return counts_CC


def _summary(counts_CC: NDArray[np.int64]) -> str:
    correct, total = int(np.trace(counts_CC)), int(counts_CC.sum())
    return f"{correct} of {total} right ({correct / max(total, 1):.1%})"


def _worst_mistakes(counts_CC: NDArray[np.int64], label_names: Sequence[str]) -> str:
    mistakes_CC = counts_CC - np.diag(np.diag(counts_CC))
    worst = [divmod(int(place), len(label_names)) for place in np.argsort(-mistakes_CC, axis=None, kind="stable")[:3]]
    lines = [
        f"{label_names[true]} taken for {label_names[predicted]}: {mistakes_CC[true, predicted]}"
        for true, predicted in worst
        if mistakes_CC[true, predicted]
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
        axes.text(predicted, true, str(counts_CC[true, predicted]), ha="center", va="center", fontsize=7, color=colour)
