"""Frozen linear layers in 8 or 4 bits, by bitsandbytes.

A pass unpacks one layer's matrix at a time, and backward does so again: it keeps the packed form alone. Embeddings,
norms and the output of a language-model head stay in the backbone's number format.

LLM.int8 takes rows of weights and of states in 8 bits, and columns of states with outliers apart. So an example's
numbers depend a little on its batch. NF4's scales are quantised too.

Sources: Dettmers et al. 2022, arXiv:2208.07339, and 2023, arXiv:2305.14314.
"""

import logging
from typing import Any

import torch
from torch import nn

from infoprompt.config import BackboneSettings, ConfigError

BYTES_PER_WEIGHT = {"int8": 1.0, "nf4": 0.5 + 1 / 64 + 4 / (64 * 256)}
"""Of a matrix, without int8's scale of each row; of nf4 with a scale for 64 weights, itself in 8 bits."""


def loading_arguments(settings: BackboneSettings, device: torch.device | str) -> dict[str, Any]:
    """What `from_pretrained` takes for it; empty where the weights stay as they are.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    if settings.quantization == "none":
        return {}
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of what it lacks, and of a cast at every pass
    try:
        import bitsandbytes  # noqa: F401 - what transformers would miss only while it loads
        from transformers import BitsAndBytesConfig
    except ImportError:
        raise ConfigError(
            f"backbone.quantization is {settings.quantization}, but bitsandbytes, which does it, is not installed. Run "
            "`pip install 'infoprompt[quantization]'`, or set it to none."
        ) from None
    form = {
        "int8": {"load_in_8bit": True},
        "nf4": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": getattr(torch, settings.dtype),
        },
    }[settings.quantization]
    return {"quantization_config": BitsAndBytesConfig(**form), "device_map": {"": torch.device(device)}}


def keep_one_packing(model: nn.Module) -> None:
    """Have no layer repack its weights for inference on some processors, of which backward knows nothing."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
