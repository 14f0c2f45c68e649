"""Every recipe trains, saves and predicts on the embedded backbone, or on a tiny one where that cannot."""

import json
from pathlib import Path

import pytest

from infoprompt.artifact import Artifact
from infoprompt.config import load_config
from infoprompt.data.rows import Example
from infoprompt.pretraining.pretrain import pretrain
from infoprompt.train import run

ROOT = Path(__file__).parents[2]
RECIPES = sorted({*(ROOT / "configs" / "recipes").glob("*.yaml")} - {ROOT / "configs/recipes/predictions_file.yaml"})


CHOICES = Example("the film", choices=("it was good", "it was bad"), label="choice1")
GIVEN = {
    "single": ["the film was great", "it was an awful movie"],
    "choice": [CHOICES, Example("the car", choices=("was it", "a good film"))],
}
LABELS = {"single": {"bad", "good"}, "choice": {"choice1", "choice2"}}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains_saves_and_predicts(path, toy_data, tiny_bert, tiny_backbones, tmp_path):
    head = load_config(path).head.kind
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
    if head == "label_words":  # MiniLM comes without what scores words
        small.append(f"backbone.name={tiny_bert}")
    if head == "choice_text":
        rows = tmp_path / "choices.jsonl"
        given = [{"text": f"{CHOICES.text} {number}", "choices": CHOICES.choices} for number in range(40)]
        lines = [json.dumps({**row, "label": f"choice{number % 2 + 1}"}) for number, row in enumerate(given)]
        rows.write_text("\n".join(lines))
        small += [f"backbone.name={tiny_backbones['llama']}", f"data.train={rows}", f"data.test={rows}"]
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
    first, second = artifact.predict(GIVEN[artifact.task.kind])
    assert first.probabilities.keys() == LABELS[artifact.task.kind]
    assert (first.probabilities == second.probabilities) == (path.stem == "majority")
