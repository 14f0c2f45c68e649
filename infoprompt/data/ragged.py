"""Lists of whole numbers behind each other in one array: a few bytes for each number, and read without a loop.

Shapes: B examples whose lists are read, L positions of the longest list, M rows, T tokens, or other numbers.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Found(NamedTuple):
    """Where the numbers of some lists stand."""

    filled_BL: np.ndarray
    """Which positions of the padded lists have a number, bool."""
    index_T: np.ndarray
    """Place in the array of each number that they have."""

    @classmethod
    def of(cls, starts_B: np.ndarray, lengths_B: np.ndarray, least: int = 0) -> "Found":
        """Of lists that start there; padded to the longest, and to at least so many positions."""
        places = np.arange(max(least, lengths_B.max()))
        filled_BL = places < lengths_B[:, None]
        return cls(filled_BL, (starts_B[:, None] + places)[filled_BL])

    def padded(self, values_T: np.ndarray, fill: int) -> Tensor:
        """The lists, padded on the right, [B, L], int64."""
        padded_BL = np.full(self.filled_BL.shape, fill, dtype=np.int64)
        padded_BL[self.filled_BL] = values_T[self.index_T]
        return torch.from_numpy(padded_BL)


@dataclass(frozen=True, eq=False)
class Ragged:
    """M lists of whole numbers; list m is `values_T[starts[m] : starts[m + 1]]`."""

    values_T: np.ndarray
    starts: np.ndarray
    """Where each list starts, and where the last one ends: M + 1 of them, int64."""

    @classmethod
    def of(cls, lists: Iterable[Sequence[int]]) -> "Ragged":
        """The same lists as an array."""
        kept = list(lists)
        return cls(compact([number for numbers in kept for number in numbers]), starts_of([*map(len, kept)]))

    @classmethod
    def joined(cls, parts: Sequence["Ragged"]) -> "Ragged":
        """The lists of all parts, behind each other."""
        lengths = np.concatenate([part.lengths_M for part in parts])
        return cls(compact(np.concatenate([part.values_T for part in parts])), starts_of(lengths))

    def part(self, start: int, end: int) -> "Ragged":
        """The lists from one to another."""
        starts = self.starts[start : end + 1]
        return Ragged(self.values_T[starts[0] : starts[-1]], starts - starts[0])

    @property
    def lengths_M(self) -> np.ndarray:
        """Numbers of each list."""
        return np.diff(self.starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, row: int) -> list[int]:
        numbers: list[int] = self.values_T[self.starts[row] : self.starts[row + 1]].tolist()
        return numbers

    def __iter__(self) -> Iterator[list[int]]:
        return map(self.__getitem__, range(len(self)))

    def find(self, rows_B: np.ndarray, least: int = 0) -> Found:
        """Where the numbers of these lists stand; see `Found.of`."""
        return Found.of(self.starts[rows_B], self.starts[rows_B + 1] - self.starts[rows_B], least)


def starts_of(lengths: np.ndarray | Sequence[int]) -> np.ndarray:
    """Where lists of these lengths start behind each other, and where the last one ends, int64."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def compact(numbers: np.ndarray | Sequence[int]) -> np.ndarray:
    """The numbers in the smallest type that they fit in."""
    values = np.asarray(numbers, dtype=None if isinstance(numbers, np.ndarray) else np.int32)
    low, high = values.min(initial=0), values.max(initial=0)
    types = (np.int8, np.int16, np.uint16, np.int32)
    return values.astype(next(kind for kind in types if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max))
