"""InfoNCE with one positive and own negatives per row: the public functions, and the choice of implementation.

Letters: B rows, K negatives, L tokens, E embedding width.
"""

from typing import Literal

import torch
from torch import Tensor

from infoprompt.kernels.row_info_nce.reference import (
    exact_gaussian_row_info_nce_reference,
    gaussian_row_info_nce_reference,
    row_info_nce_reference,
)

Impl = Literal["auto", "reference"]


def row_info_nce(
    positive_B: Tensor, negative_BK: Tensor, keep_BK: Tensor | None = None, *, impl: Impl = "auto"
) -> Tensor:
    """InfoNCE loss of each row against its own negatives, in nats, [B]; see `row_info_nce_reference`.

    Raises:
        ValueError: shapes disagree, or `impl` is unknown.
    """
    _check_impl(impl)
    _check_rows(positive_B, negative_BK=negative_BK, **({} if keep_BK is None else {"keep_BK": keep_BK}))
    if keep_BK is not None and keep_BK.shape != negative_BK.shape:
        raise ValueError(f"keep_BK is {list(keep_BK.shape)}, but must have the shape {list(negative_BK.shape)}.")
    return row_info_nce_reference(positive_B, negative_BK, keep_BK)


def gaussian_row_info_nce(
    positive_B: Tensor, mean_B: Tensor, std_B: Tensor, noise_BK: Tensor, *, impl: Impl = "auto"
) -> Tensor:
    """InfoNCE loss against K draws of N(mean, std^2), in nats, [B]; see `gaussian_row_info_nce_reference`.

    Raises:
        ValueError: shapes disagree, or `impl` is unknown.
    """
    _check_impl(impl)
    _check_rows(positive_B, mean_B=mean_B, std_B=std_B, noise_BK=noise_BK)
    return gaussian_row_info_nce_reference(positive_B, mean_B, std_B, noise_BK)


def exact_gaussian_row_info_nce(
    positive_B: Tensor, mean_B: Tensor, std_B: Tensor, num_negatives: int, *, impl: Impl = "auto"
) -> Tensor:
    """InfoNCE loss against the expectation of K such draws, in nats, [B]; see its reference.

    Raises:
        ValueError: shapes disagree, K is below 1, or `impl` is unknown.
    """
    _check_impl(impl)
    _check_rows(positive_B, mean_B=mean_B, std_B=std_B)
    if num_negatives < 1:
        raise ValueError(f"num_negatives is {num_negatives}, but must be at least 1.")
    return exact_gaussian_row_info_nce_reference(positive_B, mean_B, std_B, num_negatives)


def token_scores(embeddings_BLE: Tensor, direction_E: Tensor) -> Tensor:
    """Score e_j . u of every token embedding, [B, L], in float32 or wider."""
    if embeddings_BLE.shape[-1] != direction_E.shape[0]:
        raise ValueError(
            f"direction_E has {direction_E.shape[0]} entries, but embeddings_BLE is {embeddings_BLE.shape[-1]} wide."
        )
    wide = torch.promote_types(embeddings_BLE.dtype, torch.float32)
    return embeddings_BLE.to(wide) @ direction_E.to(wide)


def _check_impl(impl: str) -> None:
    if impl not in ("auto", "reference"):
        raise ValueError(f"impl is {impl!r}, but must be 'auto' or 'reference'.")


def _check_rows(positive_B: Tensor, **others: Tensor) -> None:
    for name, other in others.items():
        if other.shape[0] != positive_B.shape[0]:
            raise ValueError(f"{name} has {other.shape[0]} rows, but positive_B has {positive_B.shape[0]}.")
