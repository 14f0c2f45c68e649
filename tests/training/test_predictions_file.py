"""Predictions from elsewhere, scored as a run's own: the whole result, and what is refused."""

import json
from pathlib import Path

import pytest
from sklearn.metrics import accuracy_score, f1_score

from infoprompt.config import ConfigError, load_config
from infoprompt.data.splits import load_splits
from infoprompt.train import run
from launcher.results import collect, markdown

RECIPE = Path(__file__).parents[2] / "configs" / "recipes" / "predictions_file.yaml"


@pytest.fixture
def scored(toy_data, tiny_bert, tmp_path):
    """The config of a run that scores `rows`, written to a file of that name."""

    def config(rows, name="{task}-{seed}.jsonl", *overrides):
        lines = [json.dumps(row) for row in rows]
        place = tmp_path / name.replace("{task}", Path(toy_data["train"]).parent.name).replace("{seed}", "3")
        place.write_text("\n".join(lines if name.endswith("jsonl") else ["label", *(row["label"] for row in rows)]))
        given = {
            "data.train": toy_data["train"],
            "data.test": toy_data["test"],
            "backbone.name": tiny_bert,
            "evaluation.predictions": tmp_path / name,
            "run.output_dir": tmp_path / "run",
            "engine.kind": "plain",
            "tracking.enabled": "false",
            "seed": 3,
        }
        return load_config(RECIPE, [f"{key}={value}" for key, value in given.items()] + list(overrides))

    return config


def test_they_are_scored_as_a_runs_own(scored, toy_data):
    truth = [json.loads(line)["label"] for line in Path(toy_data["test"]).read_text().splitlines()]
    guessed = ["good" if place % 3 else label for place, label in enumerate(truth)]
    result = run(scored([{"label": label} for label in guessed]))
    assert result.test["accuracy"] == pytest.approx(accuracy_score(truth, guessed))
    assert result.test["macro_f1"] == pytest.approx(f1_score(truth, guessed, average="macro"))
    assert (result.dev, result.artifact, result.steps) == ({}, "", 0)
    folder = Path(result.output_dir)
    kept = json.loads((folder / "predictions.json").read_text())
    assert [kept["classes"][place] for place in kept["predictions"]] == guessed
    assert json.loads((folder / "result.json").read_text())["test"] == result.test
    assert not (folder / "artifact").exists()
    assert f"{result.test['accuracy']:.4f}" in markdown(collect([folder]))


def test_dev_rows_and_a_csv_file_are_read_too(scored, toy_data):
    truth = [json.loads(line) for line in Path(toy_data["test"]).read_text().splitlines()]
    config = scored(truth, "guessed.csv")
    assert run(config).test["accuracy"] == 1
    dev = load_splits(config.data, config.data_seed).validation
    rows = [*({"label": row["label"]} for row in truth), *({"label": row.label, "part": "dev"} for row in dev)]
    assert run(scored(rows)).dev["accuracy"] == 1


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"label": "good"}] * 39, "39 predictions of test rows, but the run has 40 of them"),
        ([{"label": "goood"}], r"line 1 of .*3\.jsonl has the label 'goood', but .* has the labels 'good', 'bad'"),
        ([{"text": "a film"}], "has no label"),
        ([{"label": "good", "part": "train"}], "has the part 'train', but parts are test and dev"),
        ([{"label": "good"}] * 40 + [{"label": "good", "part": "dev"}], "1 predictions of dev rows"),
    ],
)
def test_rows_that_do_not_fit_are_refused(scored, rows, told):
    with pytest.raises(ConfigError, match=told):
        run(scored(rows))


def test_a_file_that_is_not_there_is_named(scored, tmp_path):
    config = scored([{"label": "good"}], "guessed.jsonl")
    (tmp_path / "guessed.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"evaluation\.predictions is .*guessed\.jsonl, but there is no such file"):
        run(config)


def test_a_run_that_trains_or_saves_a_model_is_refused(scored):
    for override in ("head.fit=gradient", "prompt.kind=static", "run.save_artifact=true", "run.final_on_all=true"):
        with pytest.raises(ConfigError, match=r"no model to train or to save|head\.fit is start"):
            scored([{"label": "good"}], "{task}-{seed}.jsonl", override)
