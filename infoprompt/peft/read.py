"""Reading the folder in which PEFT keeps a prompt; it needs no PEFT.

    adapter_config.json          `peft_type`, `num_virtual_tokens` and others
    adapter_model.safetensors    `prompt_embeddings`, and the head, if there is one

An input prompt's tensor is [P, E]. A prefix is stored flat, [P, N * 2 * H * K]: for each vector the layer, then key
before value, then the head, then the channel.

Shapes: P prompt vectors, E embedding width, F features of a flat prefix, N layers, H key-value heads, K head width.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from infoprompt.config import ConfigError
from infoprompt.files import read_object
from infoprompt.tensor_file import read_tensors

CONFIG_FILE, TENSOR_FILE, PICKLE_FILE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
TENSOR = "prompt_embeddings"

# What P-tuning's network has put out is kept, not the network: its folder is read like prompt tuning's.
INPUT_TYPES = ("PROMPT_TUNING", "P_TUNING")
PREFIX_TYPES = ("PREFIX_TUNING",)


@dataclass(frozen=True)
class PeftPrompt:
    """A prompt as PEFT keeps it."""

    tensor_PF: Tensor
    """float32; [P, E] of an input prompt, flat of a prefix."""
    config: dict[str, Any]
    """`adapter_config.json`."""


def read_peft_prompt(folder: str, types: tuple[str, ...]) -> PeftPrompt:
    """The prompt of a folder; its head, if it has one, is not read.

    Args:
        folder: `prompt.start_from`.
        types: the values of `peft_type` that will do.
    Raises:
        ConfigError: there is no such folder, it holds pickle only, or a prompt of another type.
    """
    path = Path(folder)
    named = f"prompt.start_from is {folder}"
    if not (path / CONFIG_FILE).is_file():
        raise ConfigError(f"{named}, but there is no {CONFIG_FILE}. Give a folder that PEFT's save_pretrained wrote.")
    try:
        config = read_object(path / CONFIG_FILE)
    except ValueError as error:
        raise ConfigError(f"{named}, but its {error}. Copy the whole folder again.") from None
    if config.get("peft_type") not in types:
        raise ConfigError(
            f"{named}, whose peft_type is {config.get('peft_type')}, but this prompt.kind starts from "
            f"{' or '.join(types)}. Use prompt.kind=static for input vectors, prefix for PREFIX_TUNING."
        )
    if not (path / TENSOR_FILE).is_file():
        if (path / PICKLE_FILE).is_file():
            raise ConfigError(
                f"{named}, which keeps its prompt in {PICKLE_FILE}. That is a pickle, which can run code, and is not "
                "read. Load it with PEFT where you trust it, and save it with safe_serialization=True."
            )
        raise ConfigError(f"{named}, but there is no {TENSOR_FILE}. Copy the whole folder.")
    try:
        tensors = read_tensors(path / TENSOR_FILE)
    except ValueError as error:
        raise ConfigError(f"{named}, but its {error}. Copy the whole folder again.") from None
    if TENSOR not in tensors or tensors[TENSOR].dim() != 2:
        raise ConfigError(
            f"{named}, whose {TENSOR_FILE} has no matrix {TENSOR}. Save it again with PEFT 0.10 or newer."
        )
    count = config.get("num_virtual_tokens")
    if type(count) is not int or not 1 <= count <= len(tensors[TENSOR]):
        raise ConfigError(
            f"{named}, whose num_virtual_tokens is {count!r}, but its matrix has {len(tensors[TENSOR])} rows. Copy the "
            "whole folder again."
        )
    # For an encoder-decoder PEFT keeps twice the rows, and reads the first half.
    tensor_PF = tensors[TENSOR][:count].float()
    if not bool(tensor_PF.isfinite().all()):
        raise ConfigError(f"{named}, whose {TENSOR} has values that are not finite. Train that prompt again.")
    return PeftPrompt(tensor_PF, config)


def input_start(folder: str, length: int, width: int) -> Tensor:
    """Input vectors to start from, [P, E], float32.

    Args:
        folder: `prompt.start_from`, of PROMPT_TUNING or P_TUNING.
        length: `prompt.length`.
        width: of the backbone's word embeddings.
    Raises:
        ConfigError: as `read_peft_prompt`; or there are more or fewer vectors, or of another width.
    """
    found = read_peft_prompt(folder, INPUT_TYPES).tensor_PF
    _check_length(folder, len(found), length)
    if found.shape[1] != width:
        raise ConfigError(
            f"prompt.start_from is {folder}, whose vectors are {found.shape[1]} wide, but the word embeddings of "
            f"backbone.name are {width} wide. Use the backbone that the prompt was trained on."
        )
    return found


def prefix_start(folder: str, length: int, num_layers: int, num_kv_heads: int, head_size: int) -> Tensor:
    """Keys and values to start from, [N, 2, H, P, K], float32.

    Args:
        folder: `prompt.start_from`, of PREFIX_TUNING.
        length: `prompt.length`.
        num_layers: of the backbone.
        num_kv_heads: its heads of keys and values.
        head_size: their width.
    Raises:
        ConfigError: as `read_peft_prompt`; or the prefix is of another length, or of another backbone's shape.
    """
    prompt = read_peft_prompt(folder, PREFIX_TYPES)
    _check_length(folder, len(prompt.tensor_PF), length)
    ours = {"num_layers": num_layers, "num_attention_heads": num_kv_heads, "token_dim": num_kv_heads * head_size}
    for key, value in ours.items():
        if prompt.config.get(key) != value:
            raise ConfigError(
                f"prompt.start_from is {folder}, whose {key} is {prompt.config.get(key)}, but keys and values of "
                f"backbone.name ask for {value}. Use the backbone that the prefix was trained on."
            )
    return split_prefix(prompt.tensor_PF, num_layers, num_kv_heads)


def split_prefix(flat_PF: Tensor, num_layers: int, num_kv_heads: int) -> Tensor:
    """PEFT's flat prefix as keys and values of each layer, [N, 2, H, P, K]."""
    parts_PN2HK = flat_PF.reshape(len(flat_PF), num_layers, 2, num_kv_heads, -1)
    return parts_PN2HK.permute(1, 2, 3, 0, 4).contiguous()


def flat_prefix(table_N2HPK: Tensor) -> Tensor:
    """The inverse of `split_prefix`, [P, N * 2 * H * K]."""
    return table_N2HPK.permute(3, 0, 1, 2, 4).flatten(1).contiguous()


def _check_length(folder: str, found: int, length: int) -> None:
    if found != length:
        raise ConfigError(
            f"prompt.length is {length}, but the prompt in prompt.start_from {folder} has {found} vectors. "
            f"Use prompt.length={found}."
        )
