"""Every recipe trains, saves and predicts on the embedded backbone."""

from pathlib import Path

import pytest

from infoprompt.artifact import Artifact
from infoprompt.config import load_config
from infoprompt.pretraining.pretrain import pretrain
from infoprompt.train import run

ROOT = Path(__file__).parents[2]
RECIPES = sorted({*(ROOT / "configs" / "recipes").glob("*.yaml")} - {ROOT / "configs/recipes/predictions_file.yaml"})


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains_saves_and_predicts(path, toy_data, tiny_bert, tmp_path):
    small = [
        f"data.train={toy_data['train']}",
        f"data.test={toy_data['test']}",
        "data.few_shot.total=16",
        "optim.max_steps=3",
        "evaluation.every_steps=3",
        "engine.kind=plain",
        "tracking.enabled=false",
        "tracking.every_steps=1",
        f"run.output_dir={tmp_path / 'run'}",
    ]
    if load_config(path).head.kind == "label_words":  # MiniLM comes without what scores words
        small.append(f"backbone.name={tiny_bert}")
    config = load_config(path, small)
    if getattr(config.prompt, "table", None) is not None:
        config = load_config(path, [*small, f"prompt.table={tmp_path / 'table'}"])
        pretrain(config)
    if config.data.unlabelled is not None:  # the rest of so few rows is refused
        config = load_config(path, [*small, f"data.unlabelled={toy_data['unlabelled']}"])
    result = run(config)
    assert result.steps == (3 if config.updates else 0)
    assert 0 <= result.test["accuracy"] <= 1
    assert 0 < result.touched_parameters <= result.trained_parameters
    artifact = Artifact.from_pretrained(result.artifact)
    first, second = artifact.predict(["the film was great", "it was an awful movie"])
    assert first.probabilities.keys() == {"good", "bad"}
    assert (first.probabilities == second.probabilities) == (path.stem == "majority")
