"""Cross-entropy of a frozen language-model head, without its logits: the public function, and autograd.

Shapes: N rows, V vocabulary, D hidden width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from infoprompt.kernels.frozen_linear_cross_entropy.chunked import others_in_tiles, wide_dtype
from infoprompt.kernels.frozen_linear_cross_entropy.reference import frozen_linear_cross_entropy_reference
from infoprompt.kernels.frozen_linear_cross_entropy.rows import Others, hidden_gradient, row_statistics
from infoprompt.kernels.implementation import Impl, choose

NAME = "frozen_linear_cross_entropy"


def frozen_linear_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None = None,
    *,
    softcap: float | None = None,
    impl: Impl = "auto",
) -> Tensor:
    """Loss of each row, in nats, [N], float32 or wider; see `frozen_linear_cross_entropy_reference` for the formula.

    The gradient to the hidden states is made in the forward pass, where they require one, and kept as two tensors [N,
    D]. So the backward pass does not read the head, and neither logits [N, V] nor a gradient [V, D] are ever held.
    There is no second derivative.

    Args:
        hidden_ND: states, [N, D]; taken in the weight's dtype, under autocast too.
        weight_VD, bias_V: the head, [V, D] and [V], not trained.
        target_N: index of each row's word, [N], int64. On a GPU one out of range is not looked for, as that would wait
            for the GPU: its loss is infinite.
        softcap: bound of the logits, above 0.
        impl: see `choose`. On a CPU, bfloat16 is computed in float32, exact but slow.
    Raises:
        ValueError: shapes, dtypes or the cap do not fit, the head is trained, or (on a CPU) a target is out of range.
    """
    _check_tensors(hidden_ND, weight_VD, target_N, bias_V)
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap is {softcap}, but must be above 0. Use None for logits without bounds.")
    hidden_ND = hidden_ND.to(weight_VD.dtype)
    if impl == "reference":
        return frozen_linear_cross_entropy_reference(hidden_ND, weight_VD, target_N, bias_V, softcap)
    with_grad = hidden_ND.requires_grad and torch.is_grad_enabled()
    loss_N, *_ = _rows(hidden_ND, weight_VD, target_N, bias_V, softcap, with_grad, impl)
    return loss_N


@torch.library.custom_op(f"infoprompt::{NAME}", mutates_args=())
def _rows(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None,
    softcap: float | None,
    with_grad: bool,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if target_N.device.type == "cpu":
        _check_targets(target_N, len(weight_VD))
    unfit = "its kernels do not sum in float64" if weight_VD.dtype == torch.float64 else None
    others_of: Callable[..., Others] = others_in_tiles
    if choose(NAME, impl, hidden_ND.device, unfit) == "triton":
        from infoprompt.kernels.frozen_linear_cross_entropy.triton_kernels import others_by_triton

        others_of = others_by_triton
    with torch.autocast(hidden_ND.device.type, enabled=False):
        others = others_of(hidden_ND, weight_VD, target_N, bias_V, softcap, with_grad)
        return row_statistics(others, hidden_ND, weight_VD, target_N, bias_V, softcap)


@_rows.register_fake
def _(hidden_ND, weight_VD, target_N, bias_V, softcap, with_grad, impl):  # type: ignore[no-untyped-def]
    (rows, width), wide, new = hidden_ND.shape, wide_dtype(weight_VD.dtype), hidden_ND.new_empty
    with_rows = rows if with_grad else 0
    return (
        new(rows, dtype=wide),
        new(with_rows, width, dtype=wide),
        new(with_rows, width),
        new(with_rows, dtype=wide),
        new(with_rows, dtype=wide),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # else zeros [N, D] are made for the parts that have no gradient
    ctx.save_for_backward(*output[1:])


def _backward(ctx: Any, grad_loss_N: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError(f"create_graph=True needs a second derivative, and {NAME} has none. Use impl='reference'.")
    grad_ND = None if grad_loss_N is None else _rows_backward(grad_loss_N, *ctx.saved_tensors)
    return grad_ND, *[None] * 6


@torch.library.custom_op(f"infoprompt::{NAME}_backward", mutates_args=())
def _rows_backward(
    grad_loss_N: Tensor, others_ND: Tensor, target_ND: Tensor, slope_N: Tensor, rest_N: Tensor
) -> Tensor:
    return hidden_gradient(grad_loss_N, others_ND, target_ND, slope_N, rest_N)


@_rows_backward.register_fake
def _(grad_loss_N, others_ND, target_ND, slope_N, rest_N):  # type: ignore[no-untyped-def]
    return torch.empty_like(target_ND)


_rows.register_autograd(_backward, setup_context=_keep)


def _check_tensors(hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, bias_V: Tensor | None) -> None:
    if hidden_ND.dim() != 2 or weight_VD.dim() != 2 or hidden_ND.shape[1] != weight_VD.shape[1]:
        raise ValueError(
            f"hidden_ND is {list(hidden_ND.shape)} and weight_VD {list(weight_VD.shape)}, but they must be [N, D] and "
            f"[V, D] with one D."
        )
    if not (hidden_ND.is_floating_point() and weight_VD.is_floating_point() and weight_VD.numel()):
        raise ValueError(
            f"hidden_ND is {hidden_ND.dtype} and weight_VD {weight_VD.dtype}, {list(weight_VD.shape)}, but both "
            f"must be floating point, and weight_VD not empty."
        )
    if target_N.shape != hidden_ND.shape[:1] or target_N.dtype != torch.int64:
        raise ValueError(
            f"target_N is {list(target_N.shape)} of {target_N.dtype}, but must be [{len(hidden_ND)}], a word's index "
            f"for each row of hidden_ND, of torch.int64."
        )
    if bias_V is not None and bias_V.shape != weight_VD.shape[:1]:
        raise ValueError(f"bias_V is {list(bias_V.shape)}, but must be [{len(weight_VD)}], as weight_VD has words.")
    trained = weight_VD.requires_grad or (bias_V is not None and bias_V.requires_grad)
    if trained and torch.is_grad_enabled():
        raise ValueError(
            f"weight_VD or bias_V requires a gradient, but {NAME} makes none for the head. For a trained head use "
            f"torch.nn.functional.linear_cross_entropy, or cross_entropy of the logits; for a frozen one call "
            f"requires_grad_(False)."
        )


def _check_targets(target_N: Tensor, num_words: int) -> None:
    outside = target_N[(target_N < 0) | (target_N >= num_words)]
    if len(outside):
        raise ValueError(
            f"target_N has {int(outside[0])}, but weight_VD has {num_words} words, 0 to {num_words - 1}. Select the "
            "rows with a target before."
        )
