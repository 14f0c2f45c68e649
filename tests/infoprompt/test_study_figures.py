import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from launcher.studies.figures import information_over_steps, learning_bands, scores_by_seed

CURVES = {"a": [[(4, 0.5), (8, 0.7)], [(4, 0.7), (8, 0.9)]], "b": [[(4, 0.6), (8, 0.6)]], "never_finished": []}


def lines(axes: Axes) -> dict[str, list[float]]:
    return {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in axes.get_lines()}


def shown(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_visible()]


def test_the_line_is_the_mean_and_the_band_reaches_from_lowest_to_highest() -> None:
    (axes,) = shown(learning_bands(CURVES, title="t", metric="accuracy"))
    assert lines(axes) == {"a": pytest.approx([0.6, 0.8]), "b": [0.6, 0.6]}
    heights = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.5, 0.9)


def test_many_methods_get_a_panel_each_with_the_baseline_behind() -> None:
    curves = {f"m{index}": [[(1, 0.1 * index), (2, 0.1)]] for index in range(8)}
    panels = shown(learning_bands(curves, title="t", metric="accuracy", baseline="m3"))
    assert [axes.get_title() for axes in panels] == list(curves)
    assert lines(panels[0]) == {"m3": pytest.approx([0.3, 0.1]), "m0": [0.0, 0.1]}
    assert list(lines(panels[3])) == ["m3"]


def test_a_run_that_stopped_early_shortens_the_mean_to_what_all_runs_have() -> None:
    (axes,) = shown(learning_bands({"a": [[(1, 0.5), (2, 0.7)], [(1, 0.7)]]}, title="t", metric="accuracy"))
    assert lines(axes) == {"a": pytest.approx([0.6])}


def test_scores_are_sorted_by_their_mean_with_a_dot_for_each_seed() -> None:
    figure = scores_by_seed({"low": {0: 0.2, 1: 0.4}, "high": {1: 0.9}, "none": {}}, title="t", metric="accuracy")
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["low", "high"]
    dots = {points.get_label(): points.get_offsets().tolist() for points in axes.collections}
    assert dots == {"seed 0": [[0.2, 0]], "seed 1": [[0.4, 0], [0.9, 1]]}
    assert [line.get_xdata()[0] for line in axes.get_lines()] == pytest.approx([0.3, 0.9])


def test_the_most_frequent_class_is_a_line() -> None:
    (axes,) = scores_by_seed({"a": {0: 0.7}}, title="t", metric="accuracy", majority=0.5).axes
    assert lines(axes)["most frequent class"] == [0, 1]


def test_information_terms_are_averaged_and_methods_without_any_left_out() -> None:
    def rows(bound: float) -> list[dict[str, float]]:
        return [{"step": 1, "train/mi_head_infonce_bound": bound, "train/mi_head_infonce_ceiling": 3.5}]

    histories = {"with": [rows(0.5), rows(1.0)], "without": [[{"step": 1, "train/loss": 1.0}]]}
    (axes,) = shown(information_over_steps(histories, title="t"))
    assert axes.get_title() == "with"
    assert lines(axes)["prompt and head"] == [0.75]
    assert [3.5] in lines(axes).values()


def test_nothing_to_show_is_said() -> None:
    for figure in (
        learning_bands({"a": []}, title="t", metric="m"),
        scores_by_seed({}, title="t", metric="m"),
        information_over_steps({}, title="t"),
    ):
        assert "nothing was recorded" in figure.texts[0].get_text()
