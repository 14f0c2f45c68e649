"""Runs with words around the text: asked without training, behind demonstrations, calibrated, and trained."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from infoprompt.artifact import Artifact
from infoprompt.config import ConfigError, build_config, load_config, override_config
from infoprompt.data.pattern import without_content
from infoprompt.data.rows import Example
from infoprompt.evaluate import evaluate_artifact
from infoprompt.train import run

RECIPES = Path(__file__).parents[2] / "configs" / "recipes"
ASKED = {
    "prompt": {"kind": "none"},
    "objective": {"head_weight": 0, "representation_weight": 0},
    "head": {"kind": "label_words", "fit": "start"},
    "data": {"template": "film: {text}\nit was"},
}


@pytest.fixture
def settings(toy_settings, tiny_backbones):
    def of(family, *overrides, **changes):
        parts = (toy_settings, ASKED, changes)
        values = {}
        for part in parts:
            for name, section in part.items():
                values[name] = {**values.get(name, {}), **section}
        values["backbone"] = {"name": tiny_backbones[family]}
        return override_config(build_config(values), list(overrides))

    return of


def bias_of(result):
    return load_file(Path(result.artifact) / "prompt.safetensors")["head.bias_C"]


@pytest.mark.parametrize(
    ("family", "head"),
    [("bert", "label_words"), ("llama", "label_words"), ("llama", "text"), ("t5", "text")],
)
@pytest.mark.parametrize("demonstrations", [0, 3])
def test_a_model_that_is_asked_makes_no_update_and_its_artifact_says_the_same(settings, family, head, demonstrations):
    overrides = [f"data.demonstrations={demonstrations}", f"head.kind={head}", "data.few_shot.total=12"]
    config = settings(family, *overrides)
    result = run(config)
    assert (result.steps, result.trained_parameters) == (0, 2)
    artifact = Artifact.from_pretrained(result.artifact)
    assert artifact.config.data.template == ASKED["data"]["template"]
    shown = artifact.config.data.demonstrations
    assert (len(shown) if demonstrations else shown) == demonstrations
    assert evaluate_artifact(artifact, config.data.test, {}) == result.test
    assert bias_of(result).tolist() == [0, 0]


def test_contextual_calibration_takes_off_what_texts_without_content_have(settings):
    plain = run(settings("llama"))
    asked = Artifact.from_pretrained(plain.artifact)
    free = without_content(Example(text="a"))
    mean_C = asked.probabilities(free).mean(0)
    calibrated = run(settings("llama", "head.calibration=contextual", "run.output_dir=" + plain.output_dir + "_c"))
    expected_C = -mean_C.log()
    torch.testing.assert_close(bias_of(calibrated), expected_C - expected_C.mean())
    texts = [Example(text=text) for text in ("the film was great", "it was an awful car")]
    weighted_BC = asked.probabilities(texts) / mean_C  # equation 1 of the paper, with W = diag(p)^-1
    own_BC = Artifact.from_pretrained(calibrated.artifact).probabilities(texts)
    torch.testing.assert_close(own_BC, weighted_BC / weighted_BC.sum(1, keepdim=True))


def test_calibration_by_prior_reads_the_texts_without_labels_or_else_the_training_rows(settings, toy_data):
    plain = run(settings("bert", "data.few_shot.total=10"))
    folder = plain.output_dir
    prior = ["data.few_shot.total=10", "head.calibration=prior"]
    rows = run(settings("bert", *prior, f"run.output_dir={folder}_rows"))
    texts = run(settings("bert", *prior, f"data.unlabelled={toy_data['unlabelled']}", f"run.output_dir={folder}_texts"))
    lines = Path(toy_data["unlabelled"]).read_text().splitlines()
    mean_C = Artifact.from_pretrained(plain.artifact).probabilities([Example(text=line) for line in lines]).mean(0)
    difference = (-mean_C.log()).diff().item()
    # texts that are held out or trained on are left out of the unlabelled ones
    assert bias_of(texts).diff().item() == pytest.approx(difference, abs=0.02)
    assert not torch.equal(bias_of(rows), bias_of(texts))


def test_several_words_a_class_and_length_normalization_are_kept_by_the_artifact(settings):
    words = {"good": ["good", "great film"], "bad": ["bad", "awful"]}
    config = settings("llama", head={"kind": "text", "words": words, "length_normalization": True, "end_token": False})
    result = run(config)
    artifact = Artifact.from_pretrained(result.artifact)
    assert artifact.model.head.words == [2, 2]
    assert evaluate_artifact(artifact, config.data.test, {}) == result.test


def test_a_prompt_is_trained_between_the_words(settings):
    trained = {"prompt": {"kind": "static", "length": 4}, "head": {"fit": "gradient", "calibration": "contextual"}}
    result = run(settings("llama", "optim.max_steps=4", **trained))
    assert result.steps == 4
    kept = load_file(Path(result.artifact) / "prompt.safetensors")
    assert kept.keys() == {"prompt.vectors_PE", "head.bias_C"}


def test_the_recipe_shows_rows_of_its_seed(toy_settings, toy_data, tiny_bert, tmp_path):
    shown = []
    for seed in (0, 0, 1):
        given = {key: toy_settings[key] for key in ("engine", "tracking")}
        config = load_config(
            RECIPES / "few_shot_in_context.yaml",
            [
                f"backbone.name={tiny_bert}",
                f"data.train={toy_data['train']}",
                f"seed={seed}",
                f"run.output_dir={tmp_path / str(len(shown))}",
                "data.demonstrations=2",
                *(f"{section}.{key}={json.dumps(value)}" for section in given for key, value in given[section].items()),
            ],
        )
        artifact = Artifact.from_pretrained(run(config).artifact)
        shown.append(artifact.config.data.demonstrations)
    assert shown[0] == shown[1] != shown[2]
    assert [sorted(row["label"] for row in rows) for rows in shown] == [["bad", "good"]] * 3


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["prompt.kind=static"], "head.fit is start, but prompt.kind is static"),
        (["data.template=null", "head.calibration=contextual"], "of a text without content nothing is left"),
        (["head.words={best: [great]}"], "head.words names best, which is not a label"),
        (["head.words={good: []}"], "head.words of good is empty"),
        (["head={kind: linear, pooling: entities, fit: start}"], "head.pooling is entities, but data.template"),
        (["head.fit=gradient"], "there is nothing to train. .* head.fit=start"),
    ],
)
def test_what_does_not_fit_is_refused(settings, overrides, told):
    with pytest.raises(ConfigError, match=told):
        run(settings("bert", *overrides))
