"""A whole run on a toy task: it learns, what it leaves behind works, and bad input stops it early."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import infoprompt
from infoprompt.artifact import Artifact
from infoprompt.artifact_files import ArtifactError
from infoprompt.config import ConfigError, build_config, load_config, override_config
from infoprompt.data.rows import Example
from infoprompt.evaluate import evaluate_artifact
from infoprompt.train import run


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_backbones, toy_data):
    """One finished run, its config and its result."""
    folder = tmp_path_factory.mktemp("finished")
    config = build_config(
        {
            "backbone": {"name": tiny_backbones["bert"]},
            "data": {"train": toy_data["train"], "test": toy_data["test"]},
            "optim": {"lr": 3e-2, "epochs": 25},
            "engine": {"kind": "plain"},
            "tracking": {"enabled": False, "every_steps": 1},
            "run": {"output_dir": str(folder / "run")},
        }
    )
    return config, run(config)


def test_a_run_learns_the_task(finished):
    _, result = finished
    # chance is 0.5: 28 of 40 right by chance has a probability of 0.008
    assert result.test["accuracy"] >= 0.7
    assert result.dev["accuracy"] >= 0.8
    assert result.steps_to_95 <= result.best_step <= result.steps


def test_the_result_file_says_what_the_result_says(finished):
    _, result = finished
    written = json.loads((Path(result.output_dir) / "result.json").read_text())
    assert written == {"state": "finished", **result.as_json()}


def test_the_resolved_config_beside_the_run_loads_back(finished):
    config, result = finished
    assert load_config(Path(result.output_dir) / "config.yaml") == config


def test_every_update_has_its_record_and_terms_in_nats(finished):
    _, result = finished
    history = json.loads((Path(result.output_dir) / "history.json").read_text())
    steps = [row["step"] for row in history if "train/loss" in row]
    assert steps == list(range(1, result.steps + 1))
    for name in ("head", "representation"):
        assert all(
            row[f"train/mi_{name}_infonce_bound"] <= row[f"train/mi_{name}_infonce_ceiling"]
            for row in history
            if "train/loss" in row
        )
        assert history[0][f"train/{name}_active_share"] == 1.0
    assert history[0]["train/mi_representation_infonce_ceiling"] == pytest.approx(math.log(33))


def test_neither_artifact_nor_resume_state_holds_the_backbone(finished):
    _, result = finished
    for file in Path(result.output_dir).rglob("*.safetensors"):
        names = infoprompt_tensors(file)
        assert names
        assert not any("backbone" in name for name in names)


def infoprompt_tensors(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return list(opened.keys())


def test_the_artifact_scores_what_the_run_scored(finished, toy_data):
    _, result = finished
    artifact = Artifact.from_pretrained(result.artifact)
    assert evaluate_artifact(artifact, toy_data["test"], {}) == pytest.approx(result.test)


def test_prediction_is_ordered_and_does_not_depend_on_the_batch(finished):
    _, result = finished
    artifact = Artifact.from_pretrained(result.artifact)
    texts = ["the film was good", "it was an awful car and they the the movie", "great"] * 3
    predictions = artifact.predict(texts, batch_size=2)
    labels = [prediction.label for prediction in predictions]
    assert labels == labels[:3] * 3
    assert all(p.label == max(p.probabilities, key=lambda label: p.probabilities[label]) for p in predictions)
    assert all(sum(p.probabilities.values()) == pytest.approx(1) for p in predictions)
    alone = artifact.predict([texts[1]])[0]
    assert alone.probabilities == pytest.approx(predictions[1].probabilities, abs=1e-5)


def test_an_artifact_saved_again_predicts_the_same_to_the_last_bit(finished, tmp_path):
    _, result = finished
    artifact = Artifact.from_pretrained(result.artifact)
    artifact.save_pretrained(tmp_path / "copy")
    artifact.save_pretrained(tmp_path / "copy")  # in the place of the one before
    copy = Artifact.from_pretrained(tmp_path / "copy")
    (tmp_path / "notes.txt").write_text("not to be lost")
    with pytest.raises(ArtifactError, match=r"holds other files \(copy, notes\.txt\)"):
        artifact.save_pretrained(tmp_path)
    rows = [Example(text="the film was good")]
    assert torch.equal(artifact.probabilities(rows), copy.probabilities(rows))


def test_a_damaged_artifact_and_one_for_another_backbone_are_refused(finished, tmp_path, tiny_backbones):
    _, result = finished
    with pytest.raises(ArtifactError, match="no artifact"):
        Artifact.from_pretrained(tmp_path / "absent")
    with pytest.raises(ArtifactError, match="other weights"):
        Artifact.from_pretrained(result.artifact, backbone=tiny_backbones["electra"])
    artifact = Artifact.from_pretrained(result.artifact)
    artifact.save_pretrained(tmp_path / "copy")
    file = tmp_path / "copy" / "prompt.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"damaged: prompt\.safetensors"):
        Artifact.from_pretrained(tmp_path / "copy")


def test_an_example_of_another_kind_is_refused_by_number(finished):
    _, result = finished
    with pytest.raises(ValueError, match="Example 2 is of the kind pair"):
        Artifact.from_pretrained(result.artifact).predict(["good", Example(text="good", pair="bad")])


@pytest.mark.parametrize(
    "overrides",
    [
        ["objective.preset=paper"],
        ["objective.preset=release"],
        ["prompt.kind=static", "prompt.init=labels"],
        ["prompt.kind=static", "head.pooling=mask", "prompt.init=mask"],
        ["prompt.kind=none", "objective.head_weight=0", "objective.representation_weight=0"],
        ["head.kind=variational", "prompt.kind=none", "objective.head_weight=0", "objective.representation_weight=0"],
        ["data.micro_batch_size=4", "data.few_shot.per_class=8", "head.pooling=first", "prompt.template=front"],
    ],
    ids=" ".join,
)
def test_every_kind_of_run_trains_and_its_artifact_agrees(toy_settings, toy_data, overrides):
    result = run(override_config(build_config(toy_settings), [*overrides, "optim.epochs=2"]))
    artifact = Artifact.from_pretrained(result.artifact)
    assert evaluate_artifact(artifact, toy_data["test"], {}) == pytest.approx(result.test)


def test_the_same_seed_gives_the_same_run_and_another_seed_another(toy_settings):
    config = build_config(toy_settings)
    histories = []
    for seed in (0, 0, 1):
        result = run(override_config(config, [f"seed={seed}", "optim.epochs=2"]))
        histories.append((Path(result.output_dir) / "history.json").read_text())
    assert histories[0] == histories[1]
    assert histories[0] != histories[2]


def test_an_earlier_run_in_the_folder_is_moved_aside(toy_settings):
    config = override_config(build_config(toy_settings), ["optim.max_steps=2"])
    first = run(config)
    run(config)
    assert (Path(f"{first.output_dir}.1") / "result.json").exists()
    assert (Path(first.output_dir) / "result.json").exists()


def test_training_stops_when_dev_no_longer_improves(toy_settings):
    config = override_config(build_config(toy_settings), ["evaluation.patience=2", "optim.epochs=50", "optim.lr=1e-12"])
    result = run(config)
    assert result.steps == 3 * math.ceil(108 / 8)


def test_max_steps_before_the_first_evaluation_still_gives_a_result(toy_settings):
    result = run(override_config(build_config(toy_settings), ["optim.max_steps=2", "evaluation.every_steps=100"]))
    assert result.steps == 2
    assert result.dev


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.metric=bleu", "evaluation.metric is bleu, which is not a known metric"),
        ("data.train=/nowhere/rows.jsonl", "/nowhere/rows.jsonl"),
        ("run.output_dir=/proc/nowhere", "run.output_dir is /proc/nowhere, but it cannot be written"),
        ("backbone.max_length=10", "prompt.length is 4, but of 10 positions"),
    ],
)
def test_bad_input_is_refused_before_training(toy_settings, override, message):
    with pytest.raises(ConfigError) as caught:
        run(override_config(build_config(toy_settings), [override]))
    assert message in str(caught.value)


def test_the_public_names_are_there():
    assert all(getattr(infoprompt, name) for name in infoprompt.__all__)


def test_prediction_needs_neither_deepspeed_nor_ray_nor_mlflow(finished):
    _, result = finished
    code = (
        "import sys\nfor name in ('deepspeed', 'ray', 'mlflow'): sys.modules[name] = None\n"
        "from infoprompt import Artifact\nprint(Artifact.from_pretrained(sys.argv[1]).predict(['good'])[0].label)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, result.artifact], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("good", "bad")


def test_a_metric_that_is_not_the_tasks_own_can_choose_the_best_state(toy_settings):
    result = run(override_config(build_config(toy_settings), ["evaluation.metric=matthews", "optim.epochs=1"]))
    assert result.metric == "matthews"
    assert set(result.test) == {"accuracy", "macro_f1", "matthews"}


def test_a_head_that_the_family_cannot_serve_is_refused_before_its_weights_are_read(toy_settings, monkeypatch):
    monkeypatch.setattr("infoprompt.model.backbone.load.AutoTokenizer", None)  # read right before the weights
    toy_settings |= {"prompt": {"kind": "static"}, "head": {"kind": "text"}}
    with pytest.raises(ConfigError, match=r"head\.kind needs the probability of label texts, .* cannot offer"):
        run(build_config(toy_settings))
