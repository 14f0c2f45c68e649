"""Statistics of the scores of all pairs: the public function, its autograd, and the choice of implementation.

Shapes: N rows (queries), M keys, D hidden width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from infoprompt.kernels.implementation import choose
from infoprompt.kernels.pair_stats import chunked
from infoprompt.kernels.pair_stats.reference import PairStats, pair_stats_reference


def pair_stats(
    query_ND: Tensor, key_MD: Tensor, row_bias_N: Tensor, first_positive: int = 0, *, impl: str = "auto"
) -> PairStats:
    """Score of each row's positive and log-sum-exp of its negatives, of the scores of all pairs, without storing S.

        S_ij = q_i . k_j + row_bias_i

    A bilinear critic is folded into the queries first. The gradient is exact, of first order, for any upstream gradient
    on both outputs. InfoNCE is softplus(row_lse - positive), which stays exact where the positive wins by far.

    Args:
        query_ND, key_MD: [N, D] and [M, D], any float dtype.
        row_bias_N: in nats, [N].
        first_positive: key of the first row's positive; row i's is i keys further, and all others are its negatives.
        impl: see `infoprompt.kernels.implementation.choose`.
    Returns:
        In nats, float64 for float64 inputs, else float32.
    Raises:
        ValueError: shapes, dtypes or devices disagree, a row has no positive or no negative, or `impl` is unknown or
            cannot run here.
    Source: van den Oord et al. 2018, arXiv:1807.03748.
    """
    _check(query_ND, key_MD, row_bias_N, first_positive)
    if impl == "reference":
        return pair_stats_reference(query_ND, key_MD, row_bias_N, first_positive)
    dtype = torch.promote_types(query_ND.dtype, key_MD.dtype)
    bias_N = row_bias_N.to(torch.promote_types(dtype, torch.float32))
    return PairStats(*pair_stats_op(query_ND.to(dtype), key_MD.to(dtype), bias_N, first_positive, impl))


@torch.library.custom_op("infoprompt::pair_stats", mutates_args=())
def pair_stats_op(
    query_ND: Tensor, key_MD: Tensor, row_bias_N: Tensor, first_positive: int, impl: str
) -> tuple[Tensor, Tensor]:
    """The fields of `PairStats`, of features of one dtype and a bias in that of sums."""
    with _implementation(query_ND, impl) as made_by:
        positive_N, row_lse_N = made_by.pair_stats(query_ND, key_MD, row_bias_N, first_positive)
    return positive_N, row_lse_N


@torch.library.custom_op("infoprompt::pair_stats_backward", mutates_args=())
def pair_stats_backward_op(
    query_ND: Tensor,
    key_MD: Tensor,
    row_bias_N: Tensor,
    first_positive: int,
    row_lse_N: Tensor,
    grad_positive_N: Tensor,
    grad_row_N: Tensor,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and biases, in the inputs' dtypes."""
    inputs = (query_ND, key_MD, row_bias_N)
    with _implementation(query_ND, impl) as made_by:
        found = made_by.pair_stats_backward(*inputs, first_positive, row_lse_N, grad_positive_N, grad_row_N)
    query_grad_ND, key_grad_MD, bias_grad_N = (grad.to(x.dtype) for grad, x in zip(found, inputs, strict=True))
    return query_grad_ND, key_grad_MD, bias_grad_N


@contextmanager
def _implementation(query_ND: Tensor, impl: str) -> Iterator[Any]:
    """The module whose functions run; Triton is imported only where it is taken."""
    unfit = "float64 has no place in the kernels" if query_ND.dtype == torch.float64 else None
    made_by: Any = chunked
    if choose("pair_stats", impl, query_ND.device, unfit) == "triton":
        from infoprompt.kernels.pair_stats import triton_kernels

        made_by = triton_kernels
    # Triton starts its kernels on the current device, which need not be the tensors'
    with torch.autocast(query_ND.device.type, enabled=False), torch.cuda.device_of(query_ND):
        yield made_by


@pair_stats_op.register_fake
def _(query_ND, key_MD, row_bias_N, first_positive, impl):  # type: ignore[no-untyped-def]
    return torch.empty_like(row_bias_N), torch.empty_like(row_bias_N)


@pair_stats_backward_op.register_fake
def _(query_ND, key_MD, row_bias_N, *_):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (query_ND, key_MD, row_bias_N))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *features, ctx.first_positive, ctx.impl = inputs
    ctx.save_for_backward(*features, output[1])


def _backward(ctx: Any, grad_positive_N: Tensor, grad_row_N: Tensor) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "pair_stats has a first derivative only. For a second one (create_graph=True), use impl='reference'."
        )
    *features, row_lse_N = ctx.saved_tensors
    grads = pair_stats_backward_op(*features, ctx.first_positive, row_lse_N, grad_positive_N, grad_row_N, ctx.impl)
    return *grads, None, None


pair_stats_op.register_autograd(_backward, setup_context=_save)


def _check(query_ND: Tensor, key_MD: Tensor, row_bias_N: Tensor, first_positive: int) -> None:
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
    rows, keys = len(query_ND), len(key_MD)
    if row_bias_N.shape != (rows,):
        raise ValueError(f"row_bias_N is {list(row_bias_N.shape)}, but must be [{rows}].")
    if rows < 1 or keys < 2 or not 0 <= first_positive <= keys - rows:
        raise ValueError(
            f"There are {rows} rows and {keys} keys, and first_positive is {first_positive}, but there must be a row, "
            "and each row needs its positive and a negative among the keys."
        )
