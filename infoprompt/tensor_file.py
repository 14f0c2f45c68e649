"""Tensors in a safetensors file, with errors of two kinds: it cannot be written, or it is damaged."""

import errno
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors; raises OSError if that fails, such as on a full disk."""
    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(whole, path, metadata=dict(metadata) if metadata else None)
    except SafetensorError as error:  # for whatever the operating system says
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else errno.EIO, str(error), str(path)) from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped: they are read when they are needed.

    Raises:
        ValueError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, RuntimeError, AttributeError, KeyError) as error:  # the last: a dtype torch has not
        raise ValueError(f"{path.name} is damaged: {error}") from None
    return tensors


def unfit(tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], dtype: torch.dtype) -> str | None:
    """What is wrong with tensors that must have exactly these names, shapes and dtype, and finite values, if anything.

    Args:
        tensors: what was read.
        shapes: by name.
        dtype: of all of them.
    """
    for what, names in (("lacks", shapes.keys() - tensors.keys()), ("has the unknown", tensors.keys() - shapes.keys())):
        if names:
            return f"{what} {', '.join(sorted(names))}"
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tensor.shape != shape:
            return f"has {name} of the shape {list(tensor.shape)}, which must be {list(shape)}"
        if tensor.dtype != dtype:
            return f"has {name} as {str(tensor.dtype).removeprefix('torch.')}, which must be {str(dtype)[6:]}"
        if not bool(tensor.isfinite().all()):
            return f"has {name} with values that are not finite"
    return None
