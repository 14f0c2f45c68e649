"""The inputs of an op on pairs: checked once, in the dtypes that every implementation counts on.

Shapes: N queries, M keys, D width.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Pairs(NamedTuple):
    """Queries and keys, and what makes scores of their dot products."""

    query_ND: Tensor
    key_MD: Tensor
    """One dtype, that of the queries."""
    scale: Tensor
    """A scalar, in the dtype of the statistics: float64 for float64 inputs, else float32; the biases too."""
    row_bias_N: Tensor | None
    col_bias_M: Tensor | None
    positive_N: Tensor
    """int64; -1 for none."""

    @property
    def wide(self) -> torch.dtype:
        """Of the statistics, and of sums."""
        return self.scale.dtype

    @property
    def column_N(self) -> Tensor:
        """The positives' columns, any column where there is none."""
        return self.positive_N.clamp(min=0)

    def of(self, rows: slice) -> "Pairs":
        """Some of the rows, with all keys."""
        row_bias_N = None if self.row_bias_N is None else self.row_bias_N[rows]
        return self._replace(query_ND=self.query_ND[rows], row_bias_N=row_bias_N, positive_N=self.positive_N[rows])


def checked_pairs(
    query_ND: Tensor,
    key_MD: Tensor,
    scale: Tensor | float,
    row_bias_N: Tensor | None,
    col_bias_M: Tensor | None,
    positive_N: Tensor | None,
) -> Pairs:
    """Inputs as a caller gives them, in the dtypes of `Pairs`.

    Raises:
        ValueError: shapes, dtypes or devices disagree.
    """
    if query_ND.ndim != 2 or key_MD.ndim != 2 or query_ND.shape[1] != key_MD.shape[1]:
        raise ValueError(
            f"query_ND is {list(query_ND.shape)} and key_MD {list(key_MD.shape)}, but both must be matrices of one "
            "width."
        )
    if not (query_ND.is_floating_point() and key_MD.is_floating_point()) or query_ND.device != key_MD.device:
        raise ValueError(
            f"query_ND is {query_ND.dtype} on {query_ND.device} and key_MD {key_MD.dtype} on {key_MD.device}, "
            "but both must be of a float dtype, on one device."
        )
    dtype = torch.promote_types(query_ND.dtype, key_MD.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    rows, keys = query_ND.shape[0], key_MD.shape[0]
    if not isinstance(scale, Tensor):
        scale = torch.full((), scale, dtype=wide, device=query_ND.device)
    elif scale.ndim != 0:
        raise ValueError(f"scale is {list(scale.shape)}, but must be a number or a tensor without dimensions.")
    if positive_N is None:
        if rows > keys:
            raise ValueError(
                f"positive_N is not given, so row i's is key i, but there are {rows} rows and {keys} keys."
            )
        positive_N = torch.arange(rows, device=query_ND.device)
    _check_vector("row_bias_N", row_bias_N, rows)
    _check_vector("col_bias_M", col_bias_M, keys)
    _check_vector("positive_N", positive_N, rows)
    if positive_N.dtype != torch.int64:
        raise ValueError(f"positive_N is {positive_N.dtype}, but holds columns, so it must be torch.int64.")
    return Pairs(
        query_ND.to(dtype),
        key_MD.to(dtype),
        scale.to(query_ND.device, wide),
        None if row_bias_N is None else row_bias_N.to(wide),
        None if col_bias_M is None else col_bias_M.to(wide),
        positive_N,
    )


def check_positives(pairs: Pairs) -> None:
    """Refuse columns that do not exist; on a GPU that would cost a wait for the device, and is not done.

    Raises:
        ValueError: a positive is above M - 1 or below -1.
    """
    keys = pairs.key_MD.shape[0]
    if pairs.positive_N.device.type == "cpu" and ((pairs.positive_N < -1) | (pairs.positive_N >= keys)).any():
        raise ValueError(
            f"positive_N holds columns of {keys} keys, from 0 to {keys - 1}, or -1 for none; some are not."
        )


def _check_vector(name: str, vector: Tensor | None, length: int) -> None:
    if vector is not None and vector.shape != (length,):
        raise ValueError(f"{name} is {list(vector.shape)}, but must be [{length}].")
