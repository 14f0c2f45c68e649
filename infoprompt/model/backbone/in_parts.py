"""Loads a model of which each rank keeps a part (ZeRO-3): one tensor is whole at a time, and never the model.

transformers reads the whole file on its way. Here the model is built without weights. Rank 0 reads tensor after tensor,
and each is parted over the ranks before the next.
"""

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from infoprompt.config import ConfigError
from infoprompt.model.backbone.weight_files import PIECE_NUMEL, WeightFiles
from infoprompt.ranks import Ranks

_IF_THERE = {"_raise_exceptions_for_gated_repo": False, "_raise_exceptions_for_missing_entries": False}


class Partitions(Protocol):
    """How an engine keeps parameters in parts."""

    ranks: Ranks

    def part(self, parameter: nn.Parameter) -> None:
        """Have each rank keep its part of what the first rank holds; all ranks take part."""

    def whole_models(self) -> AbstractContextManager[None]:
        """Context in which transformers parts no model that it makes; elsewhere it does, but reads whole files."""


PARTITIONS: ContextVar[Partitions | None] = ContextVar("PARTITIONS", default=None)
"""Of the engine in whose context a backbone is loaded; None where weights stay whole."""


class NotPlain(Exception):
    """A weight of the model is not a tensor of the file, but made of several, or of none."""


@dataclass(frozen=True)
class Weights:
    """Where the weights of a model are: its files, and its names for tensors of them."""

    files: WeightFiles
    names: Mapping[str, str]


def weight_files(name: str, source: str, revision: str | None) -> WeightFiles:
    """The model's safetensors files, which are fetched where the hub has them; raises ConfigError if there are none."""
    single = cached_file(source, SAFE_WEIGHTS_NAME, revision=revision, **_IF_THERE)
    if single is not None:
        return WeightFiles([Path(single)])
    index = cached_file(source, SAFE_WEIGHTS_INDEX_NAME, revision=revision, **_IF_THERE)
    if index is None:
        raise ConfigError(
            f"backbone.name is {name!r}, which has neither {SAFE_WEIGHTS_NAME} nor {SAFE_WEIGHTS_INDEX_NAME}, and "
            "engine.zero_stage=3 reads no other weights, such as pytorch_model.bin. Save it again as safetensors: load "
            "model and tokenizer elsewhere, call `save_pretrained(FOLDER)` of both, and name that folder. Or use "
            "engine.zero_stage=0."
        )
    shards, _ = get_checkpoint_shard_files(source, index, revision=revision)
    return WeightFiles([Path(shard) for shard in shards])


def load_in_parts(
    auto: Any, source: str, config: Any, files: WeightFiles, partitions: Partitions, **arguments: Any
) -> tuple[Any, dict[str, Any], Weights]:
    """Model, report of keys, and where its weights are; the model has no values where the report misses any.

    Args:
        auto: transformers' class, such as `AutoModel`.
        source: folder or hub name.
        config: the model's own configuration.
        files: of the model.
        partitions: the engine's.
        arguments: for `from_config`, such as the dtype.
    Raises:
        NotPlain: only transformers can load this model.
        ValueError: a tensor of the file has another shape than the model's.
    """
    from transformers.initialization import no_tie_weights

    if getattr(config, "quantization_config", None) is not None:
        raise NotPlain("its weights are quantised")
    if cached_file(source, "adapter_config.json", **_IF_THERE) is not None:
        raise NotPlain("an adapter lies beside it")
    with partitions.whole_models(), torch.random.fork_rng(devices=[]), no_tie_weights(), _without_weights():
        model = auto.from_config(copy.deepcopy(config), **arguments)
    names, unexpected = names_in_files(model, files)
    missing = model.state_dict().keys() - names.keys()
    for target, tied_to in model.all_tied_weights_keys.items():
        if {target, tied_to} <= names.keys() and files.equal(names[target], names[tied_to]):
            missing.add(target)  # a copy of what it is tied to
    model.tie_weights(missing_keys=missing, recompute_mapping=False)
    missing = {key for key in missing if not _may_miss(model, key)}
    if not missing:
        _check_shapes(model, names, files)
        _fill(model, names, files, partitions)
    return model, {"missing_keys": missing, "unexpected_keys": unexpected}, Weights(files, names)


def names_in_files(model: Any, files: WeightFiles) -> tuple[dict[str, str], set[str]]:
    """The tensor of the files for each name of the model's, and tensors that have none; raises NotPlain.

    The rules are those of transformers 5: prefixes, and a list of renamings and conversions for each family.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    known, prefix = model.state_dict(), model.base_model_prefix
    names: dict[str, str] = {}
    unexpected = set()
    for key in files.shapes:
        name, converted = rename_source_key(key, renamings, converters, prefix, known)
        if name not in known and key in known:
            name, converted = key, None
        if name not in known:
            unexpected.add(key)
        elif converted is not None:
            raise NotPlain(f"{name} is made of {key} and perhaps others")
        else:
            names[name] = key
    return names, unexpected


def plain_names(model: Any, files: WeightFiles) -> dict[str, str]:
    """The tensors of the files whose names are the model's own, up to the prefix of its body."""
    prefix = f"{model.base_model_prefix}."
    return {
        name: key
        for name, parameter in model.named_parameters()
        for key in (name, prefix + name, name.removeprefix(prefix))
        if files.shapes.get(key) == getattr(parameter, "ds_shape", parameter.shape)
    }


@torch.no_grad()
def differing(model: nn.Module, weights: Weights, ranks: Ranks) -> list[str]:
    """Names of parameters that differ from the files on any rank; each compares its part, piece by piece."""
    compared = [(name, weights.names[name], item) for name, item in model.named_parameters() if name in weights.names]
    same = [weights.files.same(key, *_own_part(parameter)) for _, key, parameter in compared]
    agreed = ranks.each_true(same)
    return [name for (name, _, _), right in zip(compared, agreed, strict=True) if not right]


def numbers(parameter: nn.Parameter) -> Iterator[Tensor]:
    """A parameter, flattened, piece by piece. Of one in parts every rank must take all pieces: each has one sender."""
    part: Any = parameter
    if not hasattr(part, "ds_id"):
        yield from part.detach().reshape(-1).split(PIECE_NUMEL)
        return
    size = part.ds_tensor.numel()
    device = sending_device(part)
    received = torch.empty_like(part.ds_tensor[:PIECE_NUMEL], device=device)
    for rank in range(part.ds_zero_partition_world_size):
        own = rank == part.ds_zero_partition_rank
        for start in range(0, min(size, part.ds_numel - rank * size), PIECE_NUMEL):
            count = min(PIECE_NUMEL, size - start, part.ds_numel - rank * size - start)
            piece = part.ds_tensor[start : start + count].to(device) if own else received[:count]
            dist.broadcast(piece, src=rank)
            yield piece


def sending_device(part: Any) -> torch.device:
    """Where collectives want tensors; a part that is offloaded lies elsewhere."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else part.ds_tensor.device


@contextmanager
def _without_weights() -> Iterator[None]:
    """Parameters made here have a shape and no memory; buffers have their values."""

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        if parameter is None or parameter.is_meta:
            return parameter
        return nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)

    hook = register_module_parameter_registration_hook(on_meta)  # type: ignore[arg-type]
    try:
        yield
    finally:
        hook.remove()


def _may_miss(model: Any, key: str) -> bool:
    if not any(re.search(pattern, key) for pattern in model._keys_to_ignore_on_load_missing or ()):
        return False
    if key in dict(model.named_parameters()):
        raise NotPlain(f"{key} is in no file")
    return True


def _check_shapes(model: Any, names: Mapping[str, str], files: WeightFiles) -> None:
    for name, tensor in model.state_dict().items():
        if name in names and files.shapes[names[name]] != tensor.shape:
            raise ValueError(
                f"{names[name]} has the shape {list(files.shapes[names[name]])}, the model's {list(tensor.shape)}."
            )


@torch.no_grad()
def _fill(model: nn.Module, names: Mapping[str, str], files: WeightFiles, partitions: Partitions) -> None:
    keys: dict[nn.Parameter, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in names:
            keys.setdefault(parameter, names[name])
    filled: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, empty in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if empty not in filled:
                filled[empty] = nn.Parameter(torch.empty_like(empty, device="cpu"), empty.requires_grad)
                if partitions.ranks.is_first:
                    files.read(keys[empty], filled[empty].data)
                partitions.part(filled[empty])
            setattr(module, name, filled[empty])
    for name, buffer in model.named_buffers():
        if name in names:
            files.read(names[name], buffer)


def _own_part(parameter: nn.Parameter) -> tuple[Tensor, int]:
    part: Any = parameter
    if not hasattr(part, "ds_id"):
        return part.data, 0
    first = part.ds_tensor.numel() * part.ds_zero_partition_rank
    return part.ds_tensor[: max(0, part.ds_numel - first)], min(first, part.ds_numel)
