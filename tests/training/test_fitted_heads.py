"""Runs whose head is found at once: no update, and all else as of a run that trains."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from infoprompt.artifact import Artifact
from infoprompt.config import ConfigError, build_config, override_config
from infoprompt.train import run

ALONE = {
    "prompt": {"kind": "none"},
    "objective": {"head_weight": 0, "representation_weight": 0},
}


def config(toy_settings, fit, *overrides):
    return override_config(build_config({**toy_settings, **ALONE, "head": {"fit": fit}}), list(overrides))


def states(result, texts):
    """Pooled states of plain texts by the artifact's backbone."""
    artifact = Artifact.from_pretrained(result.artifact)
    batch = artifact.read(texts).batch(range(len(texts)))
    return artifact.model(batch).pooled_BD


def test_the_majority_scores_as_every_run_says_it_would(toy_settings):
    result = run(config(toy_settings, "majority"))
    kept = json.loads((Path(result.output_dir) / "predictions.json").read_text())
    assert result.test == kept["majority"]
    assert (result.steps, result.best_step, result.encoder_passes) == (0, 0, 1)


@torch.no_grad()
def test_the_nearest_label_text_is_predicted(toy_settings):
    result = run(config(toy_settings, "start"))
    texts = ["the film was great", "an awful car", "they and it"]
    near = torch.nn.functional.cosine_similarity(
        states(result, texts)[:, None], states(result, ["bad", "good"])[None], dim=2
    )
    predicted = Artifact.from_pretrained(result.artifact).predict(texts)
    assert [prediction.label for prediction in predicted] == [["bad", "good"][index] for index in near.argmax(1)]


def test_a_fitted_run_goes_on_from_its_state_and_leaves_what_others_leave(toy_settings):
    first = run(config(toy_settings, "logistic_regression"))
    folder = Path(first.output_dir)
    head = load_file(folder / "artifact" / "prompt.safetensors")
    history = json.loads((folder / "history.json").read_text())
    assert [row["step"] for row in history] == [0]
    assert history[0]["dev/accuracy"] == first.dev["accuracy"] > 0.5
    again = run(config(toy_settings, "logistic_regression"), resume="auto")
    assert again.as_json() == first.as_json()
    assert json.loads((folder / "history.json").read_text()) == history  # not fitted once more
    for name, tensor in load_file(folder / "artifact" / "prompt.safetensors").items():
        assert torch.equal(tensor, head[name])


def test_with_the_held_out_rows_it_is_fitted_once_more(toy_settings):
    results, heads = [], []
    for final in ("false", "true"):
        results.append(run(config(toy_settings, "logistic_regression", f"run.final_on_all={final}")))
        heads.append(load_file(Path(results[-1].artifact) / "prompt.safetensors")["head.linear.weight"])
    assert results[0].dev == results[1].dev
    assert not torch.equal(*heads)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["prompt.kind=static"], "head.fit is start, but prompt.kind is static"),
        (["backbone.frozen=false"], "head.fit is start, but backbone.frozen is false"),
        (["prompt.kind=instance", "objective.head_weight=0.1"], "information terms"),
        (["head.warm_start_steps=5"], "which are updates of the head"),
    ],
)
def test_a_fit_that_does_not_go_with_what_is_trained_is_refused(toy_settings, overrides, told):
    with pytest.raises(ConfigError, match=told):
        config(toy_settings, "start", *overrides)


def test_examples_without_a_class_each_are_refused(toy_settings, tmp_path):
    path = tmp_path / "values.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"a film {number}", "label": number / 10}) for number in range(30)))
    data = {"train": str(path), "task": "regression", "batch_size": 8}
    with pytest.raises(ConfigError, match=r"head\.fit is majority, but .* is of the kind regression"):
        run(config({**toy_settings, "data": data}, "majority"))
