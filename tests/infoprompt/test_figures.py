import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from infoprompt.figures import confusion_matrix, learning_curves

HISTORY = [
    {"step": 10, "train/loss": 2.0, "train/mi_head_infonce_bound": 0.5, "train/mi_head_infonce_ceiling": math.log(33)},
    {"step": 20, "train/loss": 1.0, "train/mi_head_infonce_bound": 0.9, "train/mi_head_infonce_ceiling": math.log(33)},
    {"step": 20, "dev/accuracy": 0.75, "dev/loss": 1.5},
]


def panels(figure: Figure) -> dict[str, Axes]:
    return {axes.get_title(): axes for axes in figure.axes}


def lines(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}


def test_each_kind_of_metric_has_its_panel_with_its_values() -> None:
    shown = panels(learning_curves(HISTORY))
    assert list(shown) == ["Losses", "Mutual information, lower bounds", "Dev scores"]
    assert lines(shown["Losses"])["total"] == ([10, 20], [2.0, 1.0])
    assert lines(shown["Losses"])["dev"] == ([20], [1.5])
    bounds = lines(shown["Mutual information, lower bounds"])
    assert bounds["prompt and head"] == ([10, 20], [0.5, 0.9])
    assert bounds["its ceiling, log(K + 1)"][1] == [math.log(33)] * 2
    assert lines(shown["Dev scores"])["accuracy"] == ([20], [0.75])


def test_an_estimate_that_bounds_nothing_is_not_called_a_bound() -> None:
    history = [{"step": 1, "train/mi_head_infonce_bound": 0.5, "train/mi_representation_dv_value": 0.7}]
    (axes,) = learning_curves(history).axes
    assert axes.get_title() == "Mutual information, estimates"
    assert lines(axes)["prompt and representation"] == ([1], [0.7])


def test_a_run_without_information_terms_has_no_panel_for_them() -> None:
    assert list(panels(learning_curves([{"step": 1, "train/loss": 1.0}]))) == ["Losses"]


@pytest.mark.parametrize("history", [[], [{"step": 1, "train/loss": math.nan}]])
def test_curves_of_nothing_finite_are_drawn_too(history: list[dict[str, float]], tmp_path: Path) -> None:
    learning_curves(history).savefig(tmp_path / "curves.png")


def test_counts_stand_where_true_row_and_predicted_column_meet() -> None:
    figure = confusion_matrix([0, 0, 1, 1], [0, 1, 1, 1], ["no", "yes"])
    axes = figure.axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "1", (1, 0): "1", (1, 1): "2"}
    assert axes.get_title(loc="left") == "3 of 4 right (75.0%)"
    np.testing.assert_array_equal(axes.get_images()[0].get_array(), [[0.5, 0.5], [0, 1]])


@pytest.mark.parametrize("num_classes", [19, 77])
def test_names_of_many_classes_do_not_overlap(num_classes: int, tmp_path: Path) -> None:
    labels = list(range(num_classes))
    figure = confusion_matrix(labels, labels[::-1], [f"a_rather_long_intent_name_{index}" for index in labels])
    figure.savefig(tmp_path / "matrix.png", dpi=100)
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        boxes = [label.get_window_extent() for label in axis.get_ticklabels()]
        assert not any(left.overlaps(right) for left, right in itertools.pairwise(boxes))


def test_many_classes_name_their_most_frequent_mistakes() -> None:
    names = [f"intent {index}" for index in range(30)]
    figure = confusion_matrix([1, 1, 1, 2, 2, 3], [4, 4, 4, 5, 5, 3], names)
    assert (
        figure.get_supxlabel()
        == "Most frequent mistakes\nintent 1 taken for intent 4: 3\nintent 2 taken for intent 5: 2"
    )
    assert not figure.axes[0].texts


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [([0], [0, 1], "1 labels and 2 predictions"), ([0, 2], [0, 1], "labels reach from 0 to 2, but only 0 to 1")],
)
def test_what_does_not_fit_is_named(labels: list[int], predictions: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion_matrix(labels, predictions, ["no", "yes"])
