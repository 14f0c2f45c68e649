"""Tensors in a safetensors file, with errors of two kinds: it cannot be written, or it is damaged."""

import errno
import json
import math
import mmap
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

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


_DTYPES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8"},
    **{torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL"},
}


def mapped_tensors(
    file: BinaryIO, shapes: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[dict[str, Tensor], Callable[[Mapping[str, str]], mmap.mmap]]:
    """Tensors to fill that are the content of a safetensors file; `save_tensors` would hold them in memory twice.

    Args:
        file: empty, open for reading and writing.
        shapes: dtype and shape of each.
        metadata: of the file.
    Returns:
        The tensors, and what writes other metadata of the same length and gives the content of the file.
    Raises:
        OSError: the disk has no room for them.
    """
    entries: dict[str, dict[str, Any]] = {}
    end = 0
    for name in sorted(shapes, key=lambda each: (-shapes[each][0].itemsize, each)):  # so that each is aligned
        dtype, shape = shapes[name]
        start, end = end, end + math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}

    def header(values: Mapping[str, str]) -> bytes:
        text = json.dumps({"__metadata__": dict(values), **entries}).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def written(values: Mapping[str, str]) -> mmap.mmap:
        mapped[:first] = header(values)
        return mapped

    first = len(header(metadata))
    os.posix_fallocate(file.fileno(), 0, first + end)  # writing to a mapping of a full disk ends the process
    mapped = mmap.mmap(file.fileno(), first + end)
    written(metadata)
    tensors = {}
    for name, (dtype, shape) in shapes.items():
        offset, count = first + entries[name]["data_offsets"][0], math.prod(shape)
        empty = torch.empty(0, dtype=dtype)  # of which nothing can be mapped
        flat = torch.frombuffer(mapped, dtype=dtype, count=count, offset=offset) if count else empty
        tensors[name] = flat.view(shape)
    return tensors, written
