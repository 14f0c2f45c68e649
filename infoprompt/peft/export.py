"""An artifact as the folder that `peft.PeftModel.from_pretrained` loads (PEFT 0.21); needs no PEFT.

    adapter_config.json, adapter_model.safetensors    the prompt and, where the class has a place for it, the head
    head.safetensors                                  the head, where it has none
    infoprompt.json                                   config, task, backbone and scores of the artifact
    README.md                                         how to load it, how to read our scores, and where they differ

PEFT keeps one prompt for all examples, at the input (before the first token) or as keys and values at every layer.
Prompts made from each example, or that enter between the layers, or stand inside the text cannot be expressed.

Shapes: C classes, D hidden width, P prompt vectors, F features of a flat prefix.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infoprompt.artifact import Artifact
from infoprompt.artifact_files import own_folder, shared_values
from infoprompt.config import ConfigError
from infoprompt.embedded import published_name
from infoprompt.folder_lock import beside, held
from infoprompt.model.member import Member
from infoprompt.model.prompts.prefix import PrefixPrompt
from infoprompt.model.prompts.static import StaticPrompt
from infoprompt.peft.host import Host, check_prefix, choose_host, differences
from infoprompt.peft.read import CONFIG_FILE, TENSOR, TENSOR_FILE, flat_prefix
from infoprompt.peft.readme import readme
from infoprompt.settings.prompt import InputPromptSettings
from infoprompt.tensor_file import save_tensors

PEFT_VERSION = "0.21.2"
HEAD_FILE, CARD_FILE = "head.safetensors", "infoprompt.json"
FILES = (CONFIG_FILE, TENSOR_FILE, HEAD_FILE, CARD_FILE, "README.md")


@dataclass(frozen=True)
class Export:
    """What was written."""

    host: Host
    """The transformers model to load it into."""
    differences: list[str]
    """Why PEFT's scores differ from ours; empty if they are equal to rounding."""


def export_to_peft(artifact: Artifact, folder: str | Path) -> Export:
    """Write the folder, whole or not at all.

    The vectors of kinds `residual` and `p_tuning` are written as their networks put them out; a variational head is
    linear in the state when predicting, and is written as that.

    Raises:
        ConfigError: PEFT cannot express this prompt.
        ArtifactError: the folder holds something else, which would be lost.
    """
    folder = Path(folder)
    _check_expressible(artifact)
    config, model = artifact.config, artifact.model
    model_type: str = model.backbone.config.model_type
    host = choose_host(config, artifact.task, model_type)
    if config.prompt.kind == "prefix":
        check_prefix(model_type)
    found = differences(config, artifact.task, model.backbone, host)
    prompt_PF, head = prompt_tensor(model), linear_scores(model)
    adapter, aside = {TENSOR: prompt_PF}, None
    if head is not None and host.head:
        adapter |= {f"base_model.{host.head}.{name}": tensor for name, tensor in head.items()}
    elif head is not None:
        aside = head
    settings = _adapter_config(artifact, host, len(prompt_PF))
    card = {**artifact.card, "config": shared_values(config)}
    text = readme(artifact.config, artifact.task, model.backbone, host, found, settings["base_model_name_or_path"])
    with held(beside(folder), f"The folder to write is {folder}", "an export"), own_folder(folder, FILES) as new:
        save_tensors(new / TENSOR_FILE, adapter, metadata={"format": "pt"})
        if aside is not None:
            save_tensors(new / HEAD_FILE, aside, metadata={"format": "pt"})
        (new / CONFIG_FILE).write_text(json.dumps(settings, indent=1), encoding="utf-8")
        (new / CARD_FILE).write_text(json.dumps(card, indent=1, ensure_ascii=False), encoding="utf-8")
        (new / "README.md").write_text(text, encoding="utf-8")
    return Export(host, found)


@torch.no_grad()
def prompt_tensor(model: Member) -> Tensor:
    """The prompt as PEFT stores it, float32 on the CPU: [P, E] of an input prompt, [P, F] of a prefix."""
    if isinstance(model.prompt, PrefixPrompt):
        return flat_prefix(model.prompt.table_N2HPK.detach()).cpu().float()
    assert isinstance(model.prompt, StaticPrompt)
    return model.prompt.vectors().detach().cpu().float().contiguous()


@torch.no_grad()
def linear_scores(model: Member) -> dict[str, Tensor] | None:
    """`weight`, [C, D], and `bias`, [C], of the scores as a linear function of the pooled state; None if not linear."""
    form = model.head.linear_form(model.gaussian)
    if form is None:
        return None
    weight_CD, bias_C = form
    return {"weight": weight_CD.detach().cpu().contiguous(), "bias": bias_C.detach().cpu().contiguous()}


def _check_expressible(artifact: Artifact) -> None:
    prompt, settings = artifact.model.prompt, artifact.config.prompt
    if trained_by := artifact.config.backbone.trained_by:
        raise ConfigError(
            f"In training {trained_by}, so the backbone was changed, which is no part of PEFT's folder for a prompt. "
            "Train with backbone.frozen=true and without LoRA."
        )
    if artifact.config.data.template is not None:
        raise ConfigError(
            "data.template puts words around a text, which PEFT's folder has no place for. Use the artifact itself, or "
            "train without data.template."
        )
    if not isinstance(prompt, StaticPrompt | PrefixPrompt):
        raise ConfigError(
            f"prompt.kind is {settings.kind}, which PEFT cannot express: it keeps one prompt for all examples, either "
            "at the input or as keys and values at every layer. Use the artifact itself, or train with prompt.kind "
            "static, residual, p_tuning or prefix."
        )
    if isinstance(settings, InputPromptSettings) and settings.template == "warp":
        raise ConfigError(
            "prompt.template is warp, which places vectors inside the text, but PEFT puts all of them before it. Use "
            "the artifact itself, or train with prompt.template=before."
        )


def _adapter_config(artifact: Artifact, host: Host, num_vectors: int) -> dict[str, Any]:
    backbone, card = artifact.model.backbone, artifact.card["backbone"]
    prefix = isinstance(artifact.model.prompt, PrefixPrompt)
    own = {"prefix_projection": False} if prefix else {"prompt_tuning_init": "RANDOM"}
    base = published_name(card["name"])
    return {
        "peft_type": "PREFIX_TUNING" if prefix else "PROMPT_TUNING",
        "task_type": host.task_type,
        "base_model_name_or_path": base,
        "revision": card["revision"],
        "inference_mode": True,
        "num_virtual_tokens": num_vectors,
        "token_dim": backbone.num_kv_heads * backbone.head_size if prefix else backbone.embedding_size,
        "num_layers": backbone.num_layers,
        "num_attention_heads": backbone.num_kv_heads,
        "num_transformer_submodules": 1,
        "peft_version": PEFT_VERSION,
        **own,
    }
