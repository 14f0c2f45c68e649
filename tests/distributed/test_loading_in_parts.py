"""Under ZeRO-3 a rank reads its part of a backbone: the same weights as a whole one, and never the model in memory."""

import logging
import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, DebertaV2Config, DebertaV2ForMaskedLM
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, WeightConverter

from infoprompt.config import ConfigError, build_config
from infoprompt.engine.deepspeed_loading import DeepSpeedPartitions
from infoprompt.engine.engine import gathered, partitioned_loading
from infoprompt.engine.ranks import start_ranks, stop_ranks
from infoprompt.model.backbone import in_parts, load, weight_files
from infoprompt.model.backbone.families import FAMILIES
from infoprompt.model.backbone.load import Backbone, load_backbone
from tests.proofs import zero3_memory

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]

Found = tuple[dict[str, Tensor], str, list[list[str]]]


def found(load: Callable[[], Backbone]) -> Found | str:
    """Tensors by name, the fingerprint, and the names that share one parameter; or the error."""
    try:
        backbone = load()
    except ConfigError as error:
        return str(error)
    tensors = dict(backbone.model.named_buffers())
    for name, parameter in backbone.model.named_parameters():
        with gathered([parameter]):
            tensors[name] = parameter.detach().clone()
    names: dict[int, list[str]] = {}
    for name, parameter in backbone.model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return tensors, backbone.fingerprint(), sorted(group for group in names.values() if len(group) > 1)


def load_both(folder: str, dtype: str, lm_head: bool) -> tuple[Found | str, Found | str, list[str]]:
    """What a whole load and one in parts come to, and what the second has warned of."""
    config = build_config(
        {
            "backbone": {"name": folder, "dtype": dtype},
            "engine": {"kind": "deepspeed", "zero_stage": 3, "device": "cpu", "timeout_seconds": 60},
        }
    )
    ranks = start_ranks(config.engine)
    whole = found(partial(load_backbone, config.backbone, lm_head=lm_head))
    warned: list[str] = []

    def parted() -> Backbone:
        with partitioned_loading(config, ranks):
            backbone = load_backbone(config.backbone, ranks.device, gathered, lm_head=lm_head)
        assert all(hasattr(parameter, "ds_id") for parameter in backbone.parameters())
        return backbone

    def keep(record: logging.LogRecord) -> bool:
        warned.append(record.getMessage())
        return False

    load.log.addFilter(keep)
    parts = found(parted)
    load.log.removeFilter(keep)
    return whole, parts, warned


def load_all(cases: list[tuple[str, str, bool]]) -> list[tuple[Found | str, Found | str, list[str]]]:
    in_parts.PIECE_NUMEL = weight_files.PIECE_NUMEL = 97  # tiny tensors shall have several pieces, the last a part
    results = [load_both(*case) for case in cases]
    stop_ranks()
    return results


def load_fused(folder: str) -> tuple[Found | str, Found | str, list[str]]:
    """As `load_both`, of a Llama whose file has two weights of a layer in one tensor."""
    parts = ["mlp.gate_proj.weight", "mlp.up_proj.weight"]
    fused = WeightConverter("mlp.gate_up_proj.weight", parts, operations=[Chunk(dim=0)])
    register_checkpoint_conversion_mapping("llama", [fused], overwrite=True)
    (result,) = load_all([(folder, "float32", False)])
    return result


def load_damaged(folder: str) -> Found | str:
    """The error on each rank, where on one a part of one weight is not what it should be."""
    part, seen = DeepSpeedPartitions.part, []

    def damage(self: DeepSpeedPartitions, parameter: Any) -> None:
        part(self, parameter)
        seen.append(parameter)
        if self.ranks.rank == 1 and len(seen) == 5:
            parameter.ds_tensor[0] += 1

    DeepSpeedPartitions.part = damage  # type: ignore[method-assign]
    ((_, error, _),) = load_all([(folder, "float32", False)])
    return error


def measure(folder: str) -> zero3_memory.Growth:
    grown = zero3_memory.growth(folder)
    stop_ranks()
    return grown


def assert_same(whole: Any, parts: Any) -> None:
    assert not isinstance(whole, str), whole
    assert not isinstance(parts, str), parts
    assert parts[0].keys() == whole[0].keys()
    for name, tensor in whole[0].items():
        assert parts[0][name].dtype == tensor.dtype, name
        assert torch.equal(parts[0][name], tensor), name
    assert parts[1:] == whole[1:]


def test_every_family_has_the_weights_fingerprint_and_ties_of_a_whole_load(run_distributed, tiny_backbones):
    cases = [(tiny_backbones[family], "float32", False) for family in FAMILIES]
    cases += [(tiny_backbones[family], "bfloat16", True) for family in FAMILIES]
    for results in run_distributed(__file__, "load_all", cases):
        for whole, parts, warned in results:
            assert_same(whole, parts)
            assert not warned


@pytest.fixture
def changed(tmp_path, tiny_backbones):
    """A copy of a tiny model's folder whose tensors a function has changed."""

    def change(family: str, change: Any) -> str:
        folder = tmp_path / f"{family}-{len(list(tmp_path.iterdir()))}"
        shutil.copytree(tiny_backbones[family], folder)
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
        save_file(change(tensors), folder / "model.safetensors", {"format": "pt"})
        return str(folder)

    return change


def test_shards_prefixes_other_names_and_copies_of_tied_weights_load_as_they_do_whole(
    run_distributed, tiny_backbones, changed, tmp_path
):
    shards = tmp_path / "shards"
    shutil.copytree(tiny_backbones["llama"], shards)
    AutoModelForCausalLM.from_pretrained(shards).save_pretrained(shards, max_shard_size="20KB")
    (shards / "model.safetensors").unlink()
    assert len(list(shards.glob("model-*.safetensors"))) > 2
    bare = changed("bert", lambda tensors: {name.removeprefix("bert."): tensor for name, tensor in tensors.items()})
    old = changed(
        "bert",
        lambda tensors: {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
            for name, tensor in tensors.items()
        },
    )
    table = "bert.embeddings.word_embeddings.weight"
    copied = changed("bert", lambda tensors: tensors | {"cls.predictions.decoder.weight": tensors[table].clone()})
    other = changed("bert", lambda tensors: tensors | {"cls.predictions.decoder.weight": tensors[table] + 1})
    moved = changed("bert", lambda tensors: {"cls.predictions.decoder.weight": tensors.pop(table)} | tensors)
    newer = tmp_path / "newer"
    shutil.copytree(tiny_backbones["deberta-v2"], newer)
    DebertaV2ForMaskedLM(DebertaV2Config.from_pretrained(newer, legacy=False)).save_pretrained(newer)
    file = newer / "config.json"
    file.write_text(file.read_text().replace('"legacy": false,', ""))
    cases = [(folder, "float32", True) for folder in (str(shards), bare, old, copied, other, moved, str(newer))]
    for results in run_distributed(__file__, "load_all", [*cases, (bare, "bfloat16", False)]):
        for whole, parts, warned in results:
            assert_same(whole, parts)
            assert not warned


def test_what_lacks_a_weight_or_a_safetensors_file_is_refused_and_the_way_out_is_said(
    run_distributed, tiny_backbones, changed, tmp_path
):
    lacking = changed(
        "bert", lambda tensors: {name: tensor for name, tensor in tensors.items() if "layer.1" not in name}
    )
    wider = changed("llama", lambda tensors: tensors | {"model.norm.weight": torch.ones(3)})
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_backbones["bert"], pickled)
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    bare = changed("bert", lambda tensors: {name: tensors[name] for name in tensors if "cls." not in name})
    cases = [(folder, "float32", folder is bare) for folder in (lacking, bare, wider, str(pickled))]
    for lacks, headless, wide, pickles in run_distributed(__file__, "load_all", cases):
        assert lacks[0] == lacks[1]
        assert "whose file lacks" in lacks[1]
        assert headless[0] == headless[1]
        assert "has no language-model head" in headless[1]
        assert "model.norm.weight has the shape [3]" in wide[1]
        assert not isinstance(pickles[0], str)
        assert "has neither model.safetensors nor model.safetensors.index.json" in pickles[1]
        assert "Save it again as safetensors" in pickles[1]


def test_a_weight_that_is_made_of_others_is_loaded_by_transformers_and_a_line_tells(run_distributed, changed):
    def fuse(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        for layer in range(2):
            own = [tensors.pop(f"model.layers.{layer}.mlp.{name}_proj.weight") for name in ("gate", "up")]
            tensors[f"model.layers.{layer}.mlp.gate_up_proj.weight"] = torch.cat(own)
        return tensors

    first, second = run_distributed(__file__, "load_fused", changed("llama", fuse))
    for whole, parts, _ in (first, second):
        assert_same(whole, parts)
    assert [len(warned) for _, _, warned in (first, second)] == [1, 0]
    assert "rank 0 reads the whole file into memory" in first[2][0]


def test_a_part_that_differs_from_the_file_is_named_on_every_rank(run_distributed, tiny_bert):
    errors = run_distributed(__file__, "load_damaged", tiny_bert)
    assert errors[0] == errors[1]
    assert "differs from" in errors[0]


def test_a_rank_grows_by_its_share_a_tensor_and_little_more(run_distributed, tmp_path):
    zero3_memory.make_backbone(tmp_path, "64M", "40MB")
    for grown in run_distributed(__file__, "measure", str(tmp_path)):
        assert grown.share > 60
        assert grown.loading <= grown.bound, grown
        assert grown.fingerprint <= grown.bound, grown
