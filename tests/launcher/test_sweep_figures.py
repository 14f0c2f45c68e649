import itertools
import math
import random

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from infoprompt.figures import COLOURS
from launcher.sweeps.figures import (
    GAP,
    importance_bars,
    learning_curves_of_trials,
    parallel_coordinates,
    score_by_setting,
)
from launcher.sweeps.statistics import TrialScores

LONG = ["backbone.name", "objective.representation_estimator", "prompt.generator.bottleneck_dimension", "optim.betas"]


def finished(number, scores, values, curve=None):
    return TrialScores(number, values, "finished", dict(enumerate(scores)), curve or {})


def ended(number, status, values, curve=None):
    return TrialScores(number, values, status, {}, curve or {})


def parallel(trials, direction="max") -> Figure:
    return parallel_coordinates(trials, metric="dev/accuracy", direction=direction)


def curves(trials, **options) -> Axes:
    (axes,) = learning_curves_of_trials(trials, metric="dev/accuracy", direction="max", **options).axes
    return axes


def panels(trials) -> dict[str, Axes]:
    figure = score_by_setting(trials, metric="dev/accuracy")
    return {axes.get_title().replace("\n", ""): axes for axes in figure.axes if axes.get_visible()}


def lines(axes: Axes) -> dict[str, list[float]]:
    return {line.get_gid(): np.asarray(line.get_ydata()).tolist() for line in axes.get_lines()}


def labels(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for shown in figure.legends for text in shown.get_texts()]


def random_sweep(num_trials: int, num_settings: int) -> list[TrialScores]:
    source = random.Random(num_trials)
    trials = []
    for number in range(num_trials):
        drawn = [
            source.choice(["sentence-transformers/all-MiniLM-L6-v2", "FacebookAI/roberta-base"]),
            10 ** source.uniform(-5, -1),
            source.randint(4, 256),
            source.choice([None, [0.9, 0.95]]),
        ]
        values = {f"{LONG[i % 4]}_{i}": drawn[i % 4] for i in range(num_settings) if i != 5 or source.random() < 0.5}
        curve = {0: [(10, source.random()), (20, source.random())]}
        if number % 4 == 3:
            trials.append(ended(number, "stopped", values, curve))
        else:
            trials.append(finished(number, [source.random() for _ in range(3)], values, curve))
    return trials


TRIALS = [
    finished(0, [0.4, 0.6], {"lr": 1e-4, "kind": "static", "dim": 8}),
    finished(1, [0.9, 0.9], {"lr": 1e-2, "kind": "prefix"}),
    finished(2, [0.7, 0.7], {"lr": 1e-3, "kind": "static", "dim": 16}),
    ended(3, "stopped", {"lr": 1e-3, "kind": "prefix"}, {0: [(5, 0.2), (10, 0.3)], 1: [(5, 0.4), (10, 0.5)]}),
    ended(4, "failed", {"lr": 1.0, "kind": "broken"}, {0: [(5, 0.1)]}),
    ended(5, "unfinished", {"lr": 1.0, "kind": "static"}, {0: [(5, 0.6)]}),
]


def test_each_trial_is_a_line_through_its_values_to_its_mean_score() -> None:
    host, lr, kind, dim, score = parallel(TRIALS).axes
    drawn = lines(host)
    assert list(drawn) == ["trial 3", "trial 0", "trial 2", "trial 1"]  # failed and unfinished ones left out
    # scores reach from 0.4 (stopped, its last mean) to 0.9; categories stand in the middle of their halves
    spread = 0.035 * 2 / 8 * 0.5  # of two lines through a category
    assert drawn["trial 0"] == pytest.approx([0, 0.75 - spread, 0, 0.2])
    assert drawn["trial 2"] == pytest.approx([0.5, 0.75 + spread, 1, 0.6])
    assert drawn["trial 1"] == pytest.approx([1, 0.25 + spread, -GAP + 0.03 * 2 / 8 * 0.5, 1])
    assert drawn["trial 3"][-1] == 0
    assert [lr.get_yscale(), kind.get_yscale(), dim.get_yscale(), score.get_yscale()] == ["log", *["linear"] * 3]
    assert labels(lr.yaxis) == ["0.0001", "0.01", "0.001"]
    assert labels(kind.yaxis) == ["prefix", "static"]
    assert labels(dim.yaxis) == ["not set", "8", "16"]
    assert labels(host.xaxis) == ["lr", "kind", "dim", "dev/accuracy\n(higher is better)"]


def test_ticks_stand_at_the_height_of_the_lines() -> None:
    host, lr, _, dim, score = parallel(TRIALS).axes

    def height(axes: Axes, value: float) -> float:
        return host.transData.inverted().transform(axes.transData.transform((0, value)))[1]

    assert [height(lr, value) for value in (1e-4, 1e-3, 1e-2)] == pytest.approx([0, 0.5, 1])
    assert [height(dim, value) for value in dim.get_yticks()] == pytest.approx([-GAP, 0, 1])
    assert height(score, 0.5) == pytest.approx(0.2)


def test_the_best_line_is_thick_and_on_top_and_a_stopped_one_dashed_below() -> None:
    for direction, order in (("max", [0, 2, 1]), ("min", [1, 2, 0])):
        drawn = parallel(TRIALS, direction).axes[0].get_lines()
        by_depth = sorted(drawn, key=lambda line: line.get_zorder())
        assert [line.get_gid() for line in by_depth] == [f"trial {number}" for number in (3, *order)]
        assert [line.get_linestyle() for line in by_depth] == ["--", "-", "-", "-"]
        assert by_depth[-1].get_linewidth() > 2 * by_depth[-2].get_linewidth()
        assert by_depth[-1].get_color() == COLOURS[1]
        darkness = [3 - sum(line.get_color()[:3]) for line in by_depth[1:-1]]
        assert darkness == sorted(darkness)


def test_the_legend_counts_what_is_shown_and_what_is_not() -> None:
    assert legend(parallel(TRIALS)) == [
        "best: trial 1 (0.9)",
        "2 others finished, the better the darker",
        "1 stopped early",
        "not shown: 1 failed, 1 unfinished",
    ]
    assert parallel(TRIALS, "min").axes[0].get_xticklabels()[-1].get_text() == "dev/accuracy\n(lower is better)"


def test_one_trial_stands_in_the_middle_of_its_axes() -> None:
    figure = parallel([finished(0, [0.5], {"lr": 1e-3, "kind": "static"})])
    assert lines(figure.axes[0]) == {"trial 0": [0.5, 0.5, 0.5]}
    assert [labels(axes.yaxis) for axes in figure.axes[1:]] == [["0.001"], ["static"], ["0.5"]]


def test_only_stopped_trials_are_shown_too() -> None:
    figure = parallel([TRIALS[3]])
    assert [line.get_linestyle() for line in figure.axes[0].get_lines()] == ["--"]
    assert legend(figure) == ["1 stopped early"]


def test_categories_may_be_anything_and_text_is_not_mistaken_for_a_number() -> None:
    kinds = [None, True, "1", 1, [0.5, "a"], "a/very/long/name-of-a-model-2"]
    figure = parallel([finished(i, [0.1 * i], {"kind": kind}) for i, kind in enumerate(kinds)])
    assert labels(figure.axes[1].yaxis) == ["1", "1", "a/very/lo…-model-2", '[0.5, "a"]', "null", "true"]
    heights = [line[0] for line in lines(figure.axes[0]).values()]
    assert sorted(heights) == pytest.approx([(2 * i + 1) / 12 for i in range(6)])


@pytest.mark.parametrize("num_trials", [1, 4, 200])
@pytest.mark.parametrize("num_settings", [1, 12])
def test_neither_names_nor_ticks_of_an_axis_overlap(num_trials, num_settings, tmp_path) -> None:
    trials = random_sweep(num_trials, num_settings)
    figure = parallel(trials)
    figure.savefig(tmp_path / "parallel.png", dpi=50)
    assert len(figure.axes[0].get_lines()) == num_trials
    for axis in (figure.axes[0].xaxis, *(axes.yaxis for axes in figure.axes[1:])):
        boxes = [label.get_window_extent() for label in axis.get_ticklabels()]
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert figure.axes[0].get_window_extent().height > 100  # of 220 pixels; names leave room for the lines


def test_a_curve_is_the_mean_over_the_seeds_with_a_band_from_lowest_to_highest() -> None:
    curve = {0: [(5, 0.2), (10, 0.6)], 1: [(5, 0.4), (10, 1.0), (15, 1.0)]}
    axes = curves([finished(7, [0.5, 0.75], {}, curve)])
    (line,) = axes.get_lines()
    assert (line.get_gid(), line.get_xdata().tolist()) == ("trial 7", [5, 10])
    assert line.get_ydata().tolist() == pytest.approx([0.3, 0.8])
    corners = axes.collections[0].get_paths()[0].vertices
    assert {tuple(corner) for corner in corners} == {(5, 0.2), (5, 0.4), (10, 0.6), (10, 1.0)}
    assert legend(axes.figure) == ["trial 7: 0.625"]
    assert axes.get_ylabel() == "dev/accuracy, mean over the seeds"


def test_the_best_are_coloured_and_named_and_the_others_grey() -> None:
    trials = [finished(i, [0.1 * i], {}, {0: [(5, 0.05 * i), (10, 0.1 * i)]}) for i in range(10, 18)]
    axes = curves([*trials, *TRIALS[3:]], most=5)
    assert legend(axes.figure) == [
        *(f"trial {i}: {0.1 * i:.4g}" for i in (17, 16, 15, 14, 13)),
        "5 others",
        "stopped early (1)",
    ]
    colours = {line.get_gid(): line.get_color() for line in axes.get_lines()}
    best = [colours[f"trial {i}"] for i in (17, 16, 15, 14, 13)]
    assert len(set(best)) == 5
    assert set(best) < set(COLOURS)
    assert {colours[f"trial {i}"] for i in (12, 11, 10, 5, 3)}.isdisjoint(COLOURS)
    assert len(axes.collections) == 3  # bands of the best three


def test_twelve_trials_are_told_apart_by_colour_or_dashes() -> None:
    axes = curves([finished(i, [0.1 * i], {}, {0: [(5, 0.1 * i), (10, 0.1)]}) for i in range(12)])
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}) == 12


def test_a_stopped_trial_ends_with_a_marker_and_a_failed_one_is_left_out() -> None:
    axes = curves(TRIALS)
    assert lines(axes) == {
        "trial 3": pytest.approx([0.3, 0.4]),
        "end of trial 3": pytest.approx([0.4]),
        "trial 5": [0.6],
    }
    (end,) = (line for line in axes.get_lines() if line.get_gid() == "end of trial 3")
    assert (end.get_marker(), list(end.get_xdata())) == ("x", [10])


def test_bars_have_the_most_important_setting_on_top() -> None:
    (axes,) = importance_bars({"optim.lr": 0.75, "kind": 0.05, "dim": 0.2}, metric="dev/accuracy").axes
    assert labels(axes.yaxis) == ["kind", "dim", "optim.lr"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([5, 20, 75])
    assert [text.get_text() for text in axes.texts] == ["5 %", "20 %", "75 %"]
    assert "dev/accuracy" in axes.get_xlabel()


def test_each_setting_has_a_panel_with_means_and_bars_over_the_seeds() -> None:
    shown = panels(TRIALS)
    assert list(shown) == ["lr", "kind", "dim"]
    assert [axes.get_xscale() for axes in shown.values()] == ["log", "linear", "linear"]
    stopped, means = shown["lr"].get_lines()
    assert list(means.get_ydata()) == pytest.approx([0.5, 0.9, 0.7])
    # two trials have 1e-3: they stand side by side, within a hundredth of the axis
    assert list(map(math.log10, means.get_xdata())) == pytest.approx([-4, -2, -3], abs=0.02)
    assert list(stopped.get_ydata()) == pytest.approx([0.4])
    assert stopped.get_markerfacecolor() == "none"
    (bars,) = shown["lr"].collections
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [
        pytest.approx([0.4, 0.6]),
        pytest.approx([0.9, 0.9]),
        pytest.approx([0.7, 0.7]),
    ]
    assert labels(shown["kind"].xaxis) == ["prefix", "static"]
    assert labels(shown["dim"].xaxis) == ["not set", "8", "16"]
    assert shown["dim"].get_lines()[1].get_xdata()[1] < shown["dim"].get_xlim()[0] + 0.2 * 8
    assert shown["lr"].figure.get_supxlabel() == "Bars: lowest to highest seed. Hollow: stopped early."


def test_panels_of_one_seed_say_nothing_of_bars() -> None:
    shown = panels([finished(i, [0.1 * i], {"lr": 1e-3}) for i in range(3)])
    assert shown["lr"].figure.get_supxlabel() == ""
    assert len(set(shown["lr"].get_lines()[1].get_xdata())) == 3  # equal values side by side


@pytest.mark.parametrize("num_settings", [1, 12])
def test_ticks_of_a_panel_do_not_overlap(num_settings, tmp_path) -> None:
    shown = panels(random_sweep(40, num_settings))
    assert len(shown) == num_settings
    next(iter(shown.values())).figure.savefig(tmp_path / "panels.png", dpi=50)
    for axes in shown.values():
        upright = [label for label in axes.get_xticklabels() if not label.get_rotation()]
        boxes = [label.get_window_extent() for label in upright]
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


@pytest.mark.parametrize(("lowest", "shown"), [(0.00236, False), (0.1, True)])
def test_a_long_number_gives_way_to_not_set_beside_it(lowest, shown) -> None:
    values = [{}, *({"warmup": value} for value in (lowest, 0.25, 0.5))]
    axes = panels([finished(i, [0.5], drawn) for i, drawn in enumerate(values)])["warmup"]
    assert labels(axes.xaxis)[0] == "not set"
    assert (f"{lowest}" in labels(axes.xaxis)) == shown


@pytest.mark.parametrize(
    "trials", [[], [TRIALS[4]], [finished(0, [math.nan], {"lr": 1.0})]], ids=["none", "failed", "nan"]
)
def test_nothing_to_show_is_said(trials) -> None:
    for figure in (
        parallel(trials),
        learning_curves_of_trials(trials, metric="dev/accuracy", direction="max"),
        score_by_setting(trials, metric="dev/accuracy"),
        importance_bars({}, metric="dev/accuracy"),
    ):
        assert figure.texts[0].get_text().startswith("dev/accuracy: ")
        assert not figure.axes
