"""Which state a head reads: both entities' markers, what follows the head where nothing is given, and old artifacts."""

import json
from pathlib import Path

import pytest
import torch

from infoprompt import Artifact, ArtifactSet
from infoprompt.checkpoint import write_manifest
from infoprompt.config import ConfigError, build_config, load_config, override_config
from infoprompt.data.rows import Example, Span
from infoprompt.model.backbone.load import load_backbone
from infoprompt.train import run

NO_INFORMATION = {"head_weight": 0, "representation_weight": 0}
GIVEN = [
    Example("the good car", head=Span(4, 8), tail=Span(9, 12)),
    Example("the good car", head=Span(9, 12), tail=Span(4, 8)),
]


def relation_settings(toy_settings, **sections) -> dict:
    data = {"task": "semeval2010_task8", "few_shot": {"total": 32}, "batch_size": 8}
    return {
        **toy_settings,
        "data": data,
        "optim": {"lr": 1e-2, "max_steps": 4},
        "evaluation": {"test": False},
        **sections,
    }


@pytest.mark.parametrize(
    "sections",
    [
        {},  # an instance prompt and both terms, on kept states
        {"head": {"kind": "variational", "init": "random"}, "prompt": {"kind": "static", "template": "before"}},
        {"prompt": {"kind": "none"}, "objective": NO_INFORMATION},  # a head on kept states alone
        {"backbone": {"frozen": False}, "prompt": {"kind": "static"}, "objective": NO_INFORMATION},  # none are kept
    ],
    ids=["analytic", "variational", "head_only", "fine_tuning"],
)
def test_entities_are_read_in_training_and_from_the_artifact(toy_settings, sections):
    sections = {**sections, "head": {"pooling": "entities", **sections.get("head", {})}}
    sections["backbone"] = {**toy_settings["backbone"], **sections.get("backbone", {})}
    result = run(build_config(relation_settings(toy_settings, **sections)))
    if sections["backbone"].get("frozen") is False:
        return
    artifact = Artifact.from_pretrained(result.artifact)
    one, other = artifact.probabilities(GIVEN)
    assert torch.isfinite(one).all()
    if "prompt" not in sections:
        again = run(build_config(relation_settings(toy_settings, **sections)))  # of the states that were kept
        assert again.dev == result.dev
        several = ArtifactSet.from_pretrained({"a": Path(result.artifact), "b": Path(result.artifact)})
        found = several.predict(GIVEN, ["a", "b"])
        for prediction, scores in zip(found, (one, other), strict=True):
            assert list(prediction.probabilities.values()) == pytest.approx(scores.tolist(), abs=1e-5)
    assert not torch.allclose(one, other)  # the order of the entities is read
    assert [prediction.label for prediction in artifact.predict(GIVEN)] == [
        artifact.task.labels[int(scores.argmax())] for scores in (one, other)
    ]


def test_label_words_are_read_where_the_model_says_them_if_no_pooling_is_given(toy_settings, tiny_backbones):
    words = {"label_texts": {"good": "good", "bad": "bad"}}
    for family, pooling in (("bert", "mask"), ("gpt2", "last")):
        settings = {
            **toy_settings,
            "data": {**toy_settings["data"], **words},
            "backbone": {"name": tiny_backbones[family]},
            "prompt": {"kind": "static"},
            "objective": NO_INFORMATION,
            "head": {"kind": "label_words"},
            "optim": {"max_steps": 2},
            "run": {"output_dir": f"{toy_settings['run']['output_dir']}-{family}"},
        }
        artifact = Artifact.from_pretrained(run(build_config(settings)).artifact)
        assert artifact.model.pooling == artifact.config.head.pooling == pooling
        with pytest.raises(ConfigError, match=f"head.pooling is first, but .* Use head.pooling={pooling}, or leave"):
            run(build_config({**settings, "head": {"kind": "label_words", "pooling": "first"}}))


def test_the_pooling_follows_the_head_and_what_is_given_stays():
    config = build_config({})
    assert config.head.pooling == "mean"
    assert override_config(config, ["head.kind=label_words"]).head.pooling is None
    assert override_config(config, ["head.kind=label_words", "head.pooling=mask"]).head.pooling == "mask"
    assert build_config({"head": {"kind": "variational"}}).head.pooling == "mean"
    first = build_config({"head": {"pooling": "first"}})
    assert override_config(first, ["head.kind=text"]).head.pooling == "first"


def test_an_artifact_that_says_its_pooling_still_loads(toy_settings):
    result = run(build_config({**toy_settings, "optim": {"max_steps": 1}}))
    folder = Path(result.artifact)
    card = json.loads((folder / "config.json").read_text())
    assert card["config"]["head"]["pooling"] == "mean"
    (folder / "config.json").write_text(json.dumps(card))
    write_manifest(folder)
    assert Artifact.from_pretrained(folder).model.pooling == "mean"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "this folder has no config.json, so nothing says which model it holds. Give the folder that"),
        ("{}", "has a config.json without model_type"),
        ("[1]", "has a config.json without model_type"),
        ('{"model_type": 3}', "has a config.json without model_type"),
        ("{", "has a config.json that cannot be read"),
        ('{"model_type": "no_such_model"}', "which could not be loaded: .* Check the name"),
        ('{"model_type": "bert", "hidden_size": "wide"}', "which could not be loaded: .* Check the name"),
        ('{"model_type": "bert"}', "which could not be loaded: .* Check the name"),
    ],
)
def test_a_folder_that_holds_no_model_is_refused_with_the_way_out(content, message, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_backbone(build_config({"backbone": {"name": str(tmp_path)}}).backbone)


def test_a_model_file_that_is_cut_off_is_refused(tiny_bert, tmp_path):
    for path in Path(tiny_bert).iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content[: len(content) // 2] if path.suffix == ".safetensors" else content)
    with pytest.raises(ConfigError, match="could not be loaded"):
        load_backbone(build_config({"backbone": {"name": str(tmp_path)}}).backbone)


def test_every_recipe_keeps_the_pooling_it_had():
    poolings = {}
    for path in (Path(__file__).parents[2] / "configs" / "recipes").glob("*.yaml"):
        poolings[path.stem] = load_config(path, ["data.train=rows.csv"]).head.pooling
    open_ones = [name for name, pooling in poolings.items() if pooling is None]  # until the backbone is known
    assert sorted(open_ones) == ["few_shot_in_context", "zero_shot"]
    assert set(poolings.values()) == {"mean", "mask", None}
    assert [name for name, pooling in poolings.items() if pooling == "mask"] == ["warp"]
