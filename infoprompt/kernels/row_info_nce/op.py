"""InfoNCE with one positive and own negatives per row: the public functions.

Shapes: B rows, K negatives, L positions, E embedding width.
"""

import torch
from torch import Tensor

from infoprompt.kernels.implementation import Impl
from infoprompt.kernels.row_info_nce import custom_ops
from infoprompt.kernels.row_info_nce.reference import (
    against,
    embedded_row_info_nce_reference,
    exact_gaussian_row_info_nce_reference,
    gaussian_row_info_nce_reference,
)


def gaussian_row_info_nce(
    positive_B: Tensor, mean_B: Tensor, std_B: Tensor, noise_BK: Tensor, *, impl: Impl = "auto"
) -> Tensor:
    """InfoNCE loss against K draws of N(mean, std^2), in nats, [B]; see `gaussian_row_info_nce_reference`.

    No [B, K] is made or kept beside the noise, which gets no gradient.

    Raises:
        ValueError: shapes disagree, the noise requires a gradient, or `impl` is unknown or cannot run here.
    """
    _check_rows(positive_B, mean_B=mean_B, std_B=std_B, noise_BK=noise_BK)
    if noise_BK.requires_grad:
        raise ValueError("noise_BK requires a gradient, but draws have none. Detach it.")
    if impl == "reference":
        return gaussian_row_info_nce_reference(positive_B, mean_B, std_B, noise_BK)
    positive_B, mean_B, std_B = _alike(positive_B, mean_B, std_B)
    log_sum_B, _ = custom_ops.gaussian_log_sum_exp(std_B, noise_BK, impl)
    return against(mean_B - positive_B + log_sum_B)


def exact_gaussian_row_info_nce(positive_B: Tensor, mean_B: Tensor, std_B: Tensor, num_negatives: int) -> Tensor:
    """InfoNCE loss against the expectation of K such draws, in nats, [B]; see its reference, which is all there is.

    Raises:
        ValueError: shapes disagree, or K is below 1.
    """
    _check_rows(positive_B, mean_B=mean_B, std_B=std_B)
    if num_negatives < 1:
        raise ValueError(f"num_negatives is {num_negatives}, but must be at least 1.")
    return exact_gaussian_row_info_nce_reference(positive_B, mean_B, std_B, num_negatives)


def embedded_row_info_nce(
    positive_B: Tensor, embeddings_BLE: Tensor, keep_BL: Tensor, direction_E: Tensor, *, impl: Impl = "auto"
) -> Tensor:
    """InfoNCE loss against the scores e_l . u of a row's own vectors, in nats, [B]; see its reference.

    Positive and direction get gradients, for which [B, E] is kept and nothing of [B, L, E]. Embeddings that require a
    gradient too get it at the price of the plain formula.

    Raises:
        ValueError: shapes disagree, or `impl` is unknown or cannot run here.
    """
    _check_rows(positive_B, embeddings_BLE=embeddings_BLE)
    _check_width(embeddings_BLE, direction_E)
    if keep_BL.shape != embeddings_BLE.shape[:2]:
        raise ValueError(f"keep_BL is {list(keep_BL.shape)}, but must have the shape {list(embeddings_BLE.shape[:2])}.")
    if impl == "reference" or (embeddings_BLE.requires_grad and torch.is_grad_enabled()):
        return embedded_row_info_nce_reference(positive_B, embeddings_BLE, keep_BL, direction_E)
    positive_B, direction_E = _alike(positive_B, direction_E, beside=embeddings_BLE)
    with_mean = direction_E.requires_grad and torch.is_grad_enabled()
    log_odds_B, _ = custom_ops.vector_log_odds(positive_B, embeddings_BLE, keep_BL, direction_E, with_mean, impl)
    return against(log_odds_B)


def token_scores(embeddings_BLE: Tensor, direction_E: Tensor) -> Tensor:
    """Score e_j . u of every token embedding, [B, L], in float32 or wider."""
    _check_width(embeddings_BLE, direction_E)
    dtype = torch.promote_types(embeddings_BLE.dtype, torch.float32)
    return embeddings_BLE.to(dtype) @ direction_E.to(dtype)


def _alike(*tensors: Tensor, beside: Tensor | None = None) -> list[Tensor]:
    """Contiguous, and in the widest of their dtypes, float32 or wider."""
    dtype = torch.float32
    for tensor in (*tensors, *([] if beside is None else [beside])):
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype).contiguous() for tensor in tensors]


def _check_rows(positive_B: Tensor, **others: Tensor) -> None:
    for name, other in others.items():
        if other.shape[0] != positive_B.shape[0]:
            raise ValueError(f"{name} has {other.shape[0]} rows, but positive_B has {positive_B.shape[0]}.")


def _check_width(embeddings_BLE: Tensor, direction_E: Tensor) -> None:
    if embeddings_BLE.shape[-1] != direction_E.shape[0]:
        raise ValueError(
            f"direction_E has {direction_E.shape[0]} entries, but embeddings_BLE is {embeddings_BLE.shape[-1]} wide."
        )
