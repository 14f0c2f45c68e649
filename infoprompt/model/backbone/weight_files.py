"""Reads safetensors files in pieces, so that no tensor need be whole in memory and no page stays mapped.

Format: 8 bytes with the length of the header, the header as JSON, the numbers (github.com/huggingface/safetensors).
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

PIECE_NUMEL = 2**20
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class _Place:
    path: Path
    start: int
    """Byte of the file at which its numbers begin."""
    dtype: torch.dtype
    shape: torch.Size


class WeightFiles:
    """The tensors of one model's files, by their names there."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Read the headers.

        Args:
            paths: of all files; of a name in several of them the last counts, as in transformers.
        Raises:
            SafetensorError: a file is damaged or too short.
        """
        self.paths = paths
        self._places: dict[str, _Place] = {}
        for path in paths:
            with safe_open(path, framework="pt"), path.open("rb") as file:  # the first checks that the file is whole
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(size))
            header.pop("__metadata__", None)
            self._places |= {
                name: _Place(path, 8 + size + item["data_offsets"][0], dtype, torch.Size(item["shape"]))
                for name, item in header.items()
                if (dtype := _DTYPES.get(item["dtype"])) is not None
            }

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Shape of each tensor; those of a number format that no weight is read in are left out."""
        return {name: place.shape for name, place in self._places.items()}

    def read(self, name: str, into: Tensor, first: int = 0) -> None:
        """Fill a tensor with consecutive numbers of another, flattened; each is cast to its dtype.

        Args:
            name: of the tensor in the files.
            into: contiguous, of any shape and dtype, on any device.
            first: number of the flattened tensor to begin with.
        """
        place = self._places[name]
        assert first + into.numel() <= prod(place.shape), name
        piece = torch.empty(min(into.numel(), PIECE_NUMEL), dtype=place.dtype)
        with place.path.open("rb", buffering=0) as file:
            file.seek(place.start + first * place.dtype.itemsize)
            for part in into.view(-1).split(PIECE_NUMEL) if into.numel() else ():
                _fill(file.fileno(), piece[: part.numel()])
                part.copy_(piece[: part.numel()])

    def same(self, name: str, values: Tensor, first: int = 0) -> bool:
        """Whether a tensor holds what `read` would fill it with."""
        read = torch.empty(min(values.numel(), PIECE_NUMEL), dtype=values.dtype)
        for start in range(0, values.numel(), PIECE_NUMEL):
            part = values.view(-1)[start : start + PIECE_NUMEL]
            self.read(name, read[: part.numel()], first + start)
            # By their bits: a value that is not a number equals nothing.
            if not torch.equal(part.cpu().view(torch.uint8), read[: part.numel()].view(torch.uint8)):
                return False
        return True

    def equal(self, name: str, other: str) -> bool:
        """Whether two tensors of the files have the same shape and numbers."""
        numel, one = prod(self.shapes[name]), self._places[name]
        if self.shapes[name] != self.shapes[other]:
            return False
        piece = torch.empty(min(numel, PIECE_NUMEL), dtype=one.dtype)
        for start in range(0, numel, PIECE_NUMEL):
            part = piece[: numel - start]
            self.read(name, part, start)
            if not self.same(other, part, start):
                return False
        return True


def _fill(file: int, piece: Tensor) -> None:
    left = piece.view(torch.uint8).numpy().data
    while left:
        count = os.readv(file, [left])
        if count == 0:
            raise OSError("the file has become shorter")
        left = left[count:]
