"""LoRA: PEFT's low-rank changes of a backbone's linear layers, trained while all its own weights stay frozen.

    W x + alpha / rank * B A x,  A [rank, in], B [out, rank]

Source: Hu et al. 2021, arXiv:2106.09685.
"""

import logging
import math
from typing import Any

import torch
from torch import nn

from infoprompt.config import BackboneSettings, ConfigError
from infoprompt.model.backbone.backbone import Backbone

# Families that PEFT's own table leaves out.
_TARGETS = {"camembert": ["query", "value"], "albert": ["query", "value"], "modernbert": ["Wqkv"]}


def with_lora(backbone: Backbone, settings: BackboneSettings) -> Backbone:
    """The backbone itself, with LoRA where the settings ask for it; it changes nothing until it is trained.

    What is trained is float32, whatever the backbone's number format.

    Raises:
        ConfigError: PEFT is not installed, or no layer has a name of `backbone.lora_targets`.
    """
    if settings.lora_rank is None:
        return backbone
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # PEFT loads it where it is, and it tells what it lacks
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.lora import LoraLayer
    except ImportError:
        raise ConfigError(
            f"backbone.lora_rank is {settings.lora_rank}, but PEFT, which makes it, is not installed. Run "
            "`pip install 'infoprompt[peft]'`, or leave the setting out."
        ) from None
    model_type = backbone.config.model_type
    asked = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=2 * settings.lora_rank if settings.lora_alpha is None else settings.lora_alpha,
        target_modules=settings.lora_targets or _TARGETS.get(model_type),
        fan_in_fan_out=model_type == "gpt2",
    )
    unfit = ConfigError(
        f"backbone.lora_targets is {settings.lora_targets}, but backbone.name {backbone.name!r} has no linear layers "
        "of these names. Name others, or leave it out for the family's own."
    )
    try:
        inject_adapter_in_model(asked, backbone.model, low_cpu_mem_usage=True)
    except ValueError:
        raise unfit from None
    for module in [*backbone.model.modules()]:
        if isinstance(module, LoraLayer):
            base: Any = module.get_base_layer()
            for part in (*module.lora_A.values(), *module.lora_B.values()):
                part.weight = nn.Parameter(base.weight.new_zeros(part.weight.shape, dtype=torch.float32))
    if any(parameter.is_meta for parameter in backbone.model.parameters()):
        raise unfit
    for name, parameter in backbone.model.named_parameters():
        parameter.requires_grad_(_is_lora(name))
    backbone.frozen = False
    return backbone


@torch.no_grad()
def start_lora(backbone: Backbone) -> None:
    """Start values as PEFT's, drawn by torch's generator of the CPU: A uniform (Kaiming), B zero."""
    for name, parameter in backbone.model.named_parameters():
        if _is_lora(name):
            start = torch.zeros(parameter.shape)
            if ".lora_A." in name:
                nn.init.kaiming_uniform_(start, a=math.sqrt(5))
            parameter.copy_(start)


def _is_lora(name: str) -> bool:
    return ".lora_" in name
