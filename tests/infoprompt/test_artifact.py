"""An artifact loads as it was saved, or is refused with the way out, never with a traceback of another library."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from infoprompt.artifact import Artifact
from infoprompt.artifact_files import ArtifactError
from infoprompt.checkpoint import write_manifest


@pytest.fixture
def folder(make_artifact, tiny_bert, tmp_path):
    make_artifact(tiny_bert, prompt={"kind": "static", "length": 2})
    return tmp_path / "artifact"


def refused(folder, match):
    with pytest.raises(ArtifactError, match=match) as error:
        Artifact.from_pretrained(folder)
    assert "rain it again" in str(error.value) or "version that wrote it" in str(error.value)


TENSORS = {
    "NaN": lambda tensors: {name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()},
    "one less": lambda tensors: {name: tensors[name] for name in sorted(tensors)[1:]},
    "one more": lambda tensors: {**tensors, "../x": torch.zeros(1)},
    "one row": lambda tensors: {name: tensor[:1] for name, tensor in tensors.items()},
    "turned": lambda tensors: {name: tensor.T if tensor.dim() == 2 else tensor for name, tensor in tensors.items()},
    "double": lambda tensors: {name: tensor.double() for name, tensor in tensors.items()},
    "whole numbers": lambda tensors: {name: tensor.long() for name, tensor in tensors.items()},
}


@pytest.mark.parametrize("change", TENSORS)
def test_tensors_that_do_not_fit_the_config_are_refused_by_name(folder, change):
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "prompt.safetensors").items()}
    changed = {name: tensor.contiguous() for name, tensor in TENSORS[change](tensors).items()}
    save_file(changed, folder / "prompt.safetensors")
    write_manifest(folder)
    refused(folder, r"does not fit its own config: its prompt\.safetensors (has|lacks) ")


CARDS = {
    "longer prompt": lambda card: card["config"]["prompt"].update(length=8),
    "prompt of one": lambda card: card["config"]["prompt"].update(length=1),
    "a prompt for which there is no memory": lambda card: card["config"]["prompt"].update(kind="prefix", length=10**9),
    "no task": lambda card: card.pop("task"),
    "empty task": lambda card: card.update(task={}),
    "a class too many": lambda card: card["task"]["labels"].append("more"),
    "an unknown metric": lambda card: card["task"].update(metrics=["luck"]),
    "an unknown kind": lambda card: card["task"].update(kind="luck"),
    "no backbone": lambda card: card.pop("backbone"),
    "a fingerprint that is a number": lambda card: card["backbone"].update(fingerprint=1),
    "no settings": lambda card: card.update(config=None),
    "no prompt": lambda card: card["config"].pop("prompt"),
    "an unknown setting": lambda card: card["config"]["prompt"].update(luck=1),
    "another version": lambda card: card.update(format_version=2),
    "a version that is text": lambda card: card.update(format_version="1"),
}


@pytest.mark.parametrize("change", CARDS)
def test_a_card_of_another_shape_is_refused(folder, change):
    card = json.loads((folder / "config.json").read_text())
    CARDS[change](card)
    (folder / "config.json").write_text(json.dumps(card))
    write_manifest(folder)
    refused(folder, "artifact")


@pytest.mark.parametrize("name", ["config.json", "prompt.safetensors", "manifest.json"])
@pytest.mark.parametrize("content", ["", "[]", "{", "null", '{"a": 1}', '{"config.json": 1}', "[" * 100_000])
def test_a_file_that_is_something_else_is_refused(folder, name, content):
    (folder / name).write_text(content)
    if name != "manifest.json":
        write_manifest(folder)
    refused(folder, "artifact")


def test_a_manifest_must_name_all_files_and_none_elsewhere(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    whole = dict(manifest)
    for name in ("config.json", "prompt.safetensors"):
        (folder / "manifest.json").write_text(json.dumps({key: whole[key] for key in whole if key != name}))
        refused(folder, f"does not name {name}")
    for name in ("../config.json", "/etc/passwd", "a/b", "..", ""):
        (folder / "manifest.json").write_text(json.dumps({**whole, name: whole["config.json"]}))
        refused(folder, "is no name of a file in the folder")
