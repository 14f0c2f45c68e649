"""InfoNCE with one positive and own negatives per row: the public functions.

Shapes: B rows, K negatives, L tokens, V vocabulary, E embedding width.
"""

import torch
from torch import Tensor

from infoprompt.kernels.implementation import Impl
from infoprompt.kernels.row_info_nce import custom_ops
from infoprompt.kernels.row_info_nce.reference import (
    against,
    drawn_gaussian_row_info_nce_reference,
    embedded_row_info_nce_reference,
    exact_gaussian_row_info_nce_reference,
    gaussian_row_info_nce_reference,
    row_info_nce_reference,
    token_row_info_nce_reference,
)


def row_info_nce(
    positive_B: Tensor, negative_BK: Tensor, keep_BK: Tensor | None = None, *, impl: Impl = "auto"
) -> Tensor:
    """InfoNCE loss of each row against its own negatives, in nats, [B]; see `row_info_nce_reference`.

    Raises:
        ValueError: shapes disagree, or `impl` is unknown or cannot run here.
    """
    _check_rows(positive_B, negative_BK=negative_BK)
    _check_keep("keep_BK", keep_BK, negative_BK.shape)
    if impl == "reference":
        return row_info_nce_reference(positive_B, negative_BK, keep_BK)
    (positive_B,) = _alike(positive_B, beside=negative_BK)
    return against(custom_ops.row_log_odds(positive_B, negative_BK, keep_BK, impl))


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
        raise ValueError("noise_BK requires a gradient, but draws have none. Detach it, or use row_info_nce.")
    if impl == "reference":
        return gaussian_row_info_nce_reference(positive_B, mean_B, std_B, noise_BK)
    positive_B, mean_B, std_B = _alike(positive_B, mean_B, std_B)
    log_sum_B, _ = custom_ops.gaussian_log_sum_exp(std_B, noise_BK, impl)
    return against(mean_B - positive_B + log_sum_B)


def drawn_gaussian_row_info_nce(
    positive_B: Tensor,
    mean_B: Tensor,
    std_B: Tensor,
    num_negatives: int,
    seed: int,
    offset: int = 0,
    first_row: int = 0,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """InfoNCE loss against K draws of N(mean, std^2) that are made inside, in nats, [B].

    What a row's k-th draw is depends on (seed, offset, its number, k) alone, see `philox.gaussian_draws`; nothing of
    the size [B, K] is made. So ranks that give `first_row` draw what one rank with all their rows would.

    Args:
        positive_B, mean_B, std_B: as in `gaussian_row_info_nce_reference`, [B].
        num_negatives: K, at least 1.
        seed, offset: from 0, below 2^63; another of either (an update's number, say) gives other draws.
        first_row: number of the first row, from 0; row numbers stay below 2^32.
    Raises:
        ValueError: shapes disagree, a number is out of its range, or `impl` is unknown or cannot run here.
    """
    _check_rows(positive_B, mean_B=mean_B, std_B=std_B)
    numbers = {
        "num_negatives": (num_negatives, 1, 2**31),
        "seed": (seed, 0, 2**63),
        "offset": (offset, 0, 2**63),
        "first_row": (first_row, 0, 2**32 - len(positive_B) + 1),
    }
    for name, (number, low, high) in numbers.items():
        if not low <= number < high:
            raise ValueError(f"{name} is {number}, but must be at least {low} and below {high}.")
    if impl == "reference":
        return drawn_gaussian_row_info_nce_reference(positive_B, mean_B, std_B, num_negatives, seed, offset, first_row)
    positive_B, mean_B, std_B = _alike(positive_B, mean_B, std_B)
    log_sum_B, _ = custom_ops.drawn_gaussian_log_sum_exp(std_B, num_negatives, seed, offset, first_row, impl)
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
    positive_B: Tensor,
    embeddings_BLE: Tensor,
    keep_BL: Tensor | None,
    direction_E: Tensor,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """InfoNCE loss against the scores e_l . u of a row's own vectors, in nats, [B]; see its reference.

    Positive and direction get gradients, for which [B, E] is kept and nothing of [B, L, E]. Embeddings that require a
    gradient too get it at the price of the plain formula.

    Raises:
        ValueError: shapes disagree, or `impl` is unknown or cannot run here.
    """
    _check_rows(positive_B, embeddings_BLE=embeddings_BLE)
    _check_width("embeddings_BLE", embeddings_BLE, direction_E)
    _check_keep("keep_BL", keep_BL, embeddings_BLE.shape[:2])
    if impl == "reference" or (embeddings_BLE.requires_grad and torch.is_grad_enabled()):
        return embedded_row_info_nce_reference(positive_B, embeddings_BLE, keep_BL, direction_E)
    return _of_vectors(positive_B, embeddings_BLE, None, keep_BL, direction_E, impl)


def token_row_info_nce(
    positive_B: Tensor,
    token_ids_BL: Tensor,
    keep_BL: Tensor | None,
    table_VE: Tensor,
    direction_E: Tensor,
    *,
    impl: Impl = "auto",
) -> Tensor:
    """InfoNCE loss against the scores of a row's tokens, rows of a frozen table, in nats, [B]; see its reference.

    [B, L, E] is never made. The backward pass does not read the table, so a table that is partitioned over ranks needs
    to be whole in the forward pass only.

    Raises:
        ValueError: shapes disagree, the table requires a gradient, or `impl` is unknown or cannot run here.
    """
    _check_rows(positive_B, token_ids_BL=token_ids_BL)
    _check_width("table_VE", table_VE, direction_E)
    _check_keep("keep_BL", keep_BL, token_ids_BL.shape)
    if table_VE.requires_grad:
        raise ValueError(
            "table_VE requires a gradient, but the table of token_row_info_nce is frozen. Freeze or detach it, or give "
            "its rows to embedded_row_info_nce."
        )
    if impl == "reference":
        return token_row_info_nce_reference(positive_B, token_ids_BL, keep_BL, table_VE, direction_E)
    return _of_vectors(positive_B, table_VE, token_ids_BL, keep_BL, direction_E, impl)


def token_scores(embeddings_BLE: Tensor, direction_E: Tensor) -> Tensor:
    """Score e_j . u of every token embedding, [B, L], in float32 or wider."""
    _check_width("embeddings_BLE", embeddings_BLE, direction_E)
    dtype = torch.promote_types(embeddings_BLE.dtype, torch.float32)
    return embeddings_BLE.to(dtype) @ direction_E.to(dtype)


def _of_vectors(
    positive_B: Tensor,
    vectors: Tensor,
    token_ids_BL: Tensor | None,
    keep_BL: Tensor | None,
    direction_E: Tensor,
    impl: str,
) -> Tensor:
    positive_B, direction_E = _alike(positive_B, direction_E, beside=vectors)
    with_mean = direction_E.requires_grad and torch.is_grad_enabled()
    log_odds_B, _ = custom_ops.vector_log_odds(positive_B, vectors, token_ids_BL, keep_BL, direction_E, with_mean, impl)
    return against(log_odds_B)


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


def _check_keep(name: str, keep: Tensor | None, shape: torch.Size) -> None:
    if keep is not None and keep.shape != shape:
        raise ValueError(f"{name} is {list(keep.shape)}, but must have the shape {list(shape)}.")


def _check_width(name: str, vectors: Tensor, direction_E: Tensor) -> None:
    if vectors.shape[-1] != direction_E.shape[0]:
        raise ValueError(f"direction_E has {direction_E.shape[0]} entries, but {name} is {vectors.shape[-1]} wide.")
