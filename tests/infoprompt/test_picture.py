"""Pictures of whatever names and sizes there are; warnings are errors here, so each of these draws without any."""

import io
import logging
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from infoprompt.figures import MAX_CLASSES, MAX_POINTS, confusion_matrix, learning_curves
from infoprompt.picture import Picture, save_picture, shown
from launcher.studies.figures import information_over_steps, learning_bands, scores_by_seed
from launcher.sweeps.figures import importance_bars, learning_curves_of_trials, parallel_coordinates, score_by_setting
from launcher.sweeps.statistics import TrialScores

ODD = [
    "under $5",
    "$ over_5^$",
    r"\frac{1",
    "_hidden",
    "a\nb\tc",
    "",
    "\ud800x",
    "\x00",
    "long " * 60,
    "漢字",
    "عربى",
    "🙂",
]


def drawn_size(figure: Figure) -> tuple[int, int]:
    """Pixels at 150 dots an inch, having drawn it."""
    figure.savefig(io.BytesIO(), dpi=150, format="png")
    width, height = figure.get_size_inches()
    return int(150 * width), int(150 * height)


def trial(number: int, **values: object) -> TrialScores:
    score = (number * 7 % 100) / 100
    return TrialScores(number, values, "finished", {0: score}, {0: [(step, score) for step in range(1, 4)]})


def figures_of(names: list[str]) -> dict[str, Figure]:
    """Every picture there is, with these as its names."""
    classes = list(range(len(names)))
    curves = {name: [[(1, 0.1), (2, 0.3)]] for name in names}
    history = [{"step": 1, "train/mi_head_infonce_bound": 0.5, "train/mi_head_infonce_ceiling": 3.5}]
    trials = [trial(number, **{f"set.{name}": name}) for number, name in enumerate(names)]
    kind = {"metric": "dev/$x$", "direction": "max"}
    return {
        "confusion": confusion_matrix(classes, classes[::-1], names),
        "bands": learning_bands(curves, title=names[0], metric=names[1], baseline=names[0]),
        "few bands": learning_bands({name: curves[name] for name in names[:4]}, title=names[1], metric=names[0]),
        "seeds": scores_by_seed({name: {0: 0.5, 1: 0.7} for name in names}, title=names[1], metric=names[0]),
        "information": information_over_steps({name: [history] for name in names}, title=names[1]),
        "parallel": parallel_coordinates(trials, **kind),
        "trials": learning_curves_of_trials(trials, **kind),
        "settings": score_by_setting(trials, metric="dev/$x$"),
        "importance": importance_bars({name: 1 / len(names) for name in names}, metric="dev/$x$"),
    }


def test_any_name_is_drawn_as_it_stands() -> None:
    for kind, figure in figures_of(ODD).items():
        assert max(drawn_size(figure)) < 8000, kind
        assert not any(text.get_parse_math() for text in figure.findobj(Text)), kind
    labels = [label.get_text() for label in confusion_matrix([0, 1], [0, 1], ODD[:2]).axes[0].get_xticklabels()]
    assert labels == ODD[:2]


def test_text_is_text_also_where_a_users_matplotlib_says_otherwise() -> None:
    from matplotlib import rc_context

    with rc_context({"text.usetex": True}):
        drawn_size(figures_of(ODD)["bands"])


def test_a_name_is_one_line_of_bounded_length_with_both_ends() -> None:
    assert shown("a\n b\tc\x00") == "a b c"
    assert shown("refund_" + "x" * 100 + "_late").startswith("refund_xxx")
    assert shown("refund_" + "x" * 100 + "_late").endswith("xx_late")
    assert len(shown("x" * 1000)) <= 40
    assert shown("\x00") == r"'\x00'"


def test_of_a_thousand_classes_the_most_confused_are_drawn() -> None:
    labels = np.arange(1000).repeat(3)
    predictions = labels.copy()
    predictions[labels == 7] = 900
    figure = confusion_matrix(labels.tolist(), predictions.tolist(), [f"class {index}" for index in range(1000)])
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(names) == MAX_CLASSES
    assert {"class 7", "class 900"} <= set(names)
    title = figure.axes[0].get_title(loc="left")
    assert title == "2997 of 3000 right (99.9%)\nthe 50 most confused of 1,000 classes"
    assert figure.get_supxlabel().endswith("class 7 taken for class 900: 3")
    assert max(drawn_size(figure)) < 3000


def test_a_row_of_those_drawn_is_shared_out_among_all_classes() -> None:
    # class 0 is once right, once taken for 59, which is drawn, and twice for classes that may not be
    labels, predictions = [0, 0, *[59] * 9], [0, 59, *[0] * 9]
    extra = [(index, index + 1) for index in range(1, 58)]
    figure = confusion_matrix(
        labels + [0, 0] + [true for true, _ in extra],
        predictions + [1, 58] + [predicted for _, predicted in extra],
        [f"{index}" for index in range(60)],
    )
    shares = np.asarray(figure.axes[0].get_images()[0].get_array())
    assert shares[0, 0] == 0.25


def test_a_hundred_thousand_classes_take_no_table_of_all_pairs() -> None:
    num_classes = 100_000  # squared, in bytes alone, that is 10 GB
    labels = list(range(0, num_classes, 100))
    figure = confusion_matrix(labels, labels[::-1], [str(index) for index in range(num_classes)])
    assert len(figure.axes[0].get_yticklabels()) == MAX_CLASSES


def test_long_curves_are_thinned_to_what_a_picture_can_show() -> None:
    history = [{"step": step, "train/loss": 1 / step} for step in range(1, 20_001)]
    (line,) = learning_curves(history).axes[0].get_lines()
    steps = line.get_xdata()
    assert len(steps) == MAX_POINTS
    assert (steps[0], steps[-1]) == (1, 20_000)


def test_pictures_of_a_large_sweep_and_study_stay_small() -> None:
    settings = {f"section.setting_{index}": index for index in range(60)}
    trials = [trial(number, **settings, lr=number + 1) for number in range(800)]
    methods = {f"method {index}": dict.fromkeys(range(50), 0.5) for index in range(200)}
    curves = {name: [[(1, 0.5)]] for name in methods}
    kind = {"metric": "dev/score", "direction": "max"}
    figures = [
        parallel_coordinates(trials, **kind),
        learning_curves_of_trials(trials, **kind),
        score_by_setting(trials[:50], metric="dev/score"),
        importance_bars({f"setting {index}": 0.01 for index in range(100)}, metric="dev/score"),
        scores_by_seed(methods, title="t", metric="accuracy"),
        learning_bands(curves, title="t", metric="accuracy"),
    ]
    for figure in figures:
        width, height = figure.get_size_inches() * 150
        assert width * height < 40e6
    assert len(figures[0].axes[0].get_lines()) <= 300
    assert any("500 between those shown" in text.get_text() for text in figures[0].legends[0].get_texts())
    assert len(figures[1].axes[0].get_lines()) <= 320


def test_a_picture_that_fails_is_a_warning_with_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> Figure:
        raise MemoryError("no room")

    with caplog.at_level(logging.WARNING):
        assert not save_picture("curves.png", tmp_path / "curves.png", broken)
    assert "curves.png could not be drawn (MemoryError: no room)" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_picture_that_fails_half_written_leaves_no_file(tmp_path: Path) -> None:
    class Failing(Picture):
        def savefig(self, fname: Path, **options: object) -> None:
            Path(fname).write_bytes(b"half")
            raise OSError("No space left on device")

    assert not save_picture("a.png", tmp_path / "a.png", Failing)
    assert not list(tmp_path.iterdir())
