"""The end of a run: its results come first, and nothing that is merely nice to have can take them away."""

import json

import pytest

import infoprompt.setup
from infoprompt.config import build_config, override_config
from infoprompt.progress import LeftOff
from infoprompt.train import run


def config_of(toy_settings, folder, *changes: str):
    return override_config(build_config(toy_settings), ["optim.max_steps=2", f"run.output_dir={folder}", *changes])


def test_a_picture_that_cannot_be_drawn_costs_a_warning_and_no_result(toy_settings, tmp_path, monkeypatch, caplog):
    def broken(*arguments):
        assert (tmp_path / "run/result.json").exists(), "pictures come last"
        raise MemoryError("no room for it")

    for name in ("confusion_matrix", "learning_curves"):
        monkeypatch.setattr(f"infoprompt.result.{name}", broken)
    result = run(config_of(toy_settings, tmp_path / "run"))
    assert json.loads((tmp_path / "run/result.json").read_text())["test"] == pytest.approx(result.test)
    for name in ("confusion_matrix.png", "learning_curves.png"):
        assert f"The picture {name} could not be drawn (MemoryError: no room for it)" in caplog.text


def rows_file(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def undefined_config(toy_settings, tmp_path):
    """A regression whose dev rows all have the same value."""
    values = [{"text": f"a text of {number} words", "value": number / 8} for number in range(8)]
    dev = [{"text": f"another of {number} words", "value": 0.5} for number in range(6)]
    toy_settings["data"] = {
        "train": rows_file(tmp_path / "train.jsonl", values),
        "validation": rows_file(tmp_path / "dev.jsonl", dev),
        "batch_size": 4,
    }
    changes = ["optim.max_steps=6", "evaluation.every_steps=1", "optim.lr=0.05", f"run.output_dir={tmp_path / 'run'}"]
    return override_config(build_config(toy_settings), changes)


def test_while_a_correlation_is_undefined_the_lower_dev_loss_chooses(undefined_config, tmp_path, caplog):
    losses = []
    evaluate = infoprompt.setup.evaluate

    def kept(*arguments):
        evaluated = yield from evaluate(*arguments)
        losses.append(evaluated.loss)
        return evaluated

    with pytest.MonkeyPatch.context() as patch, caplog.at_level("INFO", "infoprompt"):
        patch.setattr("infoprompt.setup.evaluate", kept)
        result = run(undefined_config)
    assert len(losses) == 6
    assert result.best_step == 1 + losses.index(min(losses)) != 1
    assert caplog.text.count("dev/pearson is undefined, for all rows have the same label") == 1
    for file in ("result.json", "history.json"):
        assert "NaN" not in (tmp_path / "run" / file).read_text()


def test_a_resumed_run_knows_the_loss_that_chose(undefined_config, tmp_path):
    expected = run(undefined_config)
    parts = override_config(undefined_config, [f"run.output_dir={tmp_path / 'parts'}"])
    left_at = expected.best_step  # a later state is worse, which only who knows its loss can tell
    with pytest.raises(LeftOff):
        run(parts, report=lambda progress, scores: "pause" if progress.step == left_at else "go")
    resumed = run(parts, resume="auto")
    assert (resumed.best_step, resumed.dev) == (expected.best_step, expected.dev)
    assert 1 < expected.best_step < expected.steps, "the case shows nothing"


def test_unbalanced_classes_are_chosen_by_macro_f1_and_can_be_weighed(toy_settings, tmp_path, caplog):
    rows = [{"text": f"fine text {number}", "label": "fine"} for number in range(36)]
    rows += [{"text": f"rare text {number}", "label": "rare"} for number in range(6)]
    toy_settings["data"] = {"train": rows_file(tmp_path / "mail.jsonl", rows), "batch_size": 8}
    with caplog.at_level("INFO", "infoprompt"):
        plain = run(config_of(toy_settings, tmp_path / "plain"))
    assert plain.metric == "macro_f1"
    assert "86% of the training rows are fine, so macro_f1 chooses" in caplog.text
    assert run(config_of(toy_settings, tmp_path / "own", "evaluation.metric=accuracy")).metric == "accuracy"
    weighed = run(config_of(toy_settings, tmp_path / "weighed", "data.class_weights=balanced"))
    first = [json.loads((tmp_path / name / "history.json").read_text())[0] for name in ("plain", "weighed")]
    assert first[0]["train/cross_entropy"] != first[1]["train/cross_entropy"]
    assert weighed.metric == "macro_f1"


def test_a_run_reports_each_class_of_the_test_rows(toy_settings, tmp_path):
    result = run(config_of(toy_settings, tmp_path / "run"))
    kept = json.loads((tmp_path / "run/result.json").read_text())["classes"]
    predictions = json.loads((tmp_path / "run/predictions.json").read_text())
    assert list(kept) == predictions["classes"]
    assert [one["support"] for one in kept.values()] == [predictions["labels"].count(index) for index in range(2)]
    assert kept == result.classes
