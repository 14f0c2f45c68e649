"""Finding a backbone, and making sure that it is whole and of a family that can do what the run needs."""

import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)
from transformers.utils import logging as transformers_logging

from infoprompt.config import BackboneSettings, ConfigError
from infoprompt.embedded import backbone_source
from infoprompt.model.backbone.attention import IMPLEMENTATIONS
from infoprompt.model.backbone.backbone import Backbone, Gather, whole
from infoprompt.model.backbone.families import FAMILIES, Family, check_family
from infoprompt.model.backbone.in_parts import (
    PARTITIONS,
    NotPlain,
    Weights,
    differing,
    load_in_parts,
    plain_names,
    weight_files,
)
from infoprompt.model.backbone.lora import with_lora
from infoprompt.model.backbone.quantized import keep_one_packing, loading_arguments

__all__ = ["FAMILIES", "Backbone", "Gather", "check_family", "load_backbone", "whole"]

log = logging.getLogger(__name__)

WITH_HEAD = {
    "encoder": AutoModelForMaskedLM,
    "decoder": AutoModelForCausalLM,
    "encoder-decoder": AutoModelForSeq2SeqLM,
}


def load_backbone(
    settings: BackboneSettings,
    device: torch.device | str = "cpu",
    gather: Gather = whole,
    *,
    needs: frozenset[str] = frozenset(),
    lm_head: bool = False,
) -> Backbone:
    """Load, freeze if asked, add LoRA if asked, and check that every weight was found.

    Args:
        settings: which model, and how it is held.
        device: where the weights go, unless DeepSpeed has partitioned them.
        gather: how to make partitioned weights whole.
        needs: what the run asks of the family beside input vectors, keys of `families.NEEDS`.
        lm_head: whether words or texts are scored by the model itself.
    Raises:
        ConfigError: the model cannot be found, is of a family that cannot do what is needed, or its file lacks weights.
    """
    if not settings.frozen and settings.dtype != "float32":
        raise ConfigError(
            f"backbone.dtype is {settings.dtype}, but backbone.frozen is false and what is trained must be float32. "
            "Set backbone.dtype=float32, or backbone.frozen=true."
        )
    source = backbone_source(settings.name)
    _check_folder(settings.name, source)
    _quiet()
    try:
        config = AutoConfig.from_pretrained(source, revision=settings.revision, trust_remote_code=False)
        family = check_config(settings.name, config, needs)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=settings.revision, trust_remote_code=False)
        model, report, weights = _load(settings, source, config, family, lm_head, device)
        if any(key.startswith("lm_predictions.") for key in report["unexpected_keys"]):
            config.legacy = False  # a published DeBERTa-v3, whose head is of the newer form though no config says so
            model, report, weights = _load(settings, source, config, family, lm_head, device)
    except (ConfigError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever transformers, tokenizers or safetensors make of a file that is damaged
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"backbone.name is {settings.name!r}, which could not be loaded: {lines[0]:.300} "
            "Check the name and the hub access (`infoprompt doctor`), or give a folder with a whole model, or use "
            "minilm."
        ) from error
    _give_padding(tokenizer, model, settings.name)
    _check_complete(settings.name, model, sorted(report["missing_keys"]), lm_head)
    if settings.quantization != "none":
        keep_one_packing(model)  # it was loaded to its device
    elif not any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        model.to(device)
    _check_against_files(model, settings.name, weights)
    if family.kind == "encoder-decoder" and not lm_head:
        model = model.get_encoder()
    backbone = Backbone(
        model,
        tokenizer,
        settings.name,
        gather,
        frozen=settings.frozen,
        lm_head=lm_head,
        gradient_checkpointing=settings.gradient_checkpointing,
        unpadded=settings.unpadded,
        skip_unread=settings.skip_unread,
    )
    return with_lora(backbone, settings)


def _check_folder(name: str, source: str) -> None:
    """Raise ConfigError for a folder that does not say what model it holds."""
    folder = Path(source)
    if not folder.is_dir():
        return
    if not (folder / "config.json").is_file():
        problem = "has no config.json"
    else:
        try:
            values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            known = isinstance(values, dict) and isinstance(values.get("model_type"), str)
            problem = "" if known else "has a config.json without model_type"
        except (OSError, ValueError, RecursionError) as error:
            problem = f"has a config.json that cannot be read ({str(error)[:100]})"
    if problem:
        raise ConfigError(
            f"backbone.name is {name!r}, but this folder {problem}, so nothing says which model it holds. Give the "
            "folder that `save_pretrained` wrote, with configuration, tokenizer and weights, or a hub name, or minilm."
        )


def _load(
    settings: BackboneSettings,
    source: str,
    config: Any,
    family: Family,
    lm_head: bool,
    device: torch.device | str,
) -> tuple[Any, Any, Weights | None]:
    auto = WITH_HEAD[family.kind] if lm_head else AutoModel
    arguments = {
        "dtype": getattr(torch, settings.dtype),
        "attn_implementation": attention_form(settings, config, family, torch.device(device).type),
        "trust_remote_code": False,
        **({"add_pooling_layer": False} if family.pooler and not lm_head else {}),
    }
    read_whole = partial(
        auto.from_pretrained,
        source,
        config=config,
        revision=settings.revision,
        output_loading_info=True,
        **arguments,
        **loading_arguments(settings, device),
    )
    partitions = PARTITIONS.get()
    if partitions is None:
        return (*read_whole(), None)
    files = weight_files(settings.name, source, settings.revision)
    try:
        return load_in_parts(auto, source, config, files, partitions, **arguments)
    except NotPlain as reason:
        if partitions.ranks.is_first:
            log.warning("%s: rank 0 reads the whole file into memory, because %s.", settings.name, reason)
        model, report = read_whole()
        return model, report, Weights(files, plain_names(model, files))


def attention_form(settings: BackboneSettings, config: Any, family: Family, device: str) -> str:
    """The attention that a model is loaded with on a kind of device (`cpu`, `cuda`), by its name in transformers."""
    if family.positions == "distances":
        return "eager"  # transformers knows no other for it, and ours replaces it
    capped = getattr(config, "attn_logit_softcapping", None) is not None  # which torch's kernels cannot
    # A step in bfloat16 takes a fifth less time on a CPU with the plain form: EXPERIMENTS.md has both.
    slow = settings.attention == "auto" and device == "cpu" and settings.dtype == "bfloat16"
    return IMPLEMENTATIONS["eager" if capped or slow or settings.attention == "eager" else "sdpa"]


def check_config(name: str, config: Any, needs: frozenset[str]) -> Family:
    """The family of a model, if it can do what is needed; raises ConfigError if not.

    Args:
        name: `backbone.name`.
        config: the model's own configuration.
        needs: see `load_backbone`.
    """
    family = check_family(name, config.model_type, needs)
    changed = getattr(config, "is_decoder", False) or getattr(config, "use_bidirectional_attention", False)
    if changed and family.kind != "encoder-decoder":
        raise ConfigError(
            f"backbone.name is {name!r}, of the family {config.model_type}, but its config.json turns the "
            f"{family.kind} into another kind of model (is_decoder or use_bidirectional_attention). Use a plain one."
        )
    if "layers" in needs and getattr(config, "conv_kernel_size", 0) > 0:
        raise ConfigError(
            f"prompt.kind needs a prompt that enters between the layers, but backbone.name {name!r} mixes neighbours "
            "by a convolution (conv_kernel_size), in which slots cannot be hidden. Use another prompt.kind or model."
        )
    return family


def _give_padding(tokenizer: Any, model: Any, name: str) -> None:
    # Only an id for positions that nobody attends to, so no row is added to the table. Many decoders' tokenizers have
    # none, or one that was added to the tokenizer alone and lies behind the table's end.
    weight = model.get_input_embeddings().weight
    rows = getattr(weight, "ds_shape", weight.shape)[0]
    if tokenizer.pad_token is not None and tokenizer.pad_token_id < rows:
        return
    if tokenizer.eos_token is None:
        raise ConfigError(
            f"backbone.name is {name!r}, whose tokenizer has neither a padding nor an end token. Name one of its "
            "tokens as pad_token in tokenizer_config.json."
        )
    tokenizer.pad_token = tokenizer.eos_token


def _check_complete(name: str, model: Any, missing: list[str], lm_head: bool) -> None:
    if not missing:
        return
    bare = model.base_model is model
    of_head = [key for key in missing if not bare and not key.startswith(f"{model.base_model_prefix}.")]
    if lm_head and (len(of_head) == len(missing) or missing == ["lm_head.weight"]):
        raise ConfigError(
            f"backbone.name is {name!r}, whose file has no language-model head ({', '.join(missing[:3])} are missing), "
            "so it cannot score words or texts itself. Use head.kind=linear, the file of the pretrained model, "
            "or a backbone that has one, such as smollm2."
        )
    raise ConfigError(
        f"backbone.name is {name!r}, whose file lacks {len(missing)} weights of the model "
        f"({', '.join(missing[:3])} ...), so they would be random. Use a complete model file."
    )


def _check_against_files(model: nn.Module, name: str, weights: Weights | None) -> None:
    # transformers has skipped weights silently under ZeRO-3 (transformers #45313).
    partitions = PARTITIONS.get()
    if partitions is None or weights is None:
        return
    if different := differing(model, weights, partitions.ranks):
        raise ConfigError(
            f"backbone.name is {name!r}, but after loading, the weight {different[0]} differs from "
            f"{weights.files.paths[0].parent}. Use engine.zero_stage=0, or another version of transformers."
        )


def _quiet() -> None:
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
