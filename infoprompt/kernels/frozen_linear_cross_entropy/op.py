"""Cross-entropy of a frozen language-model head, without its logits: the public function, and autograd.

Shapes: N rows, V words, D hidden width.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from infoprompt.kernels.frozen_linear_cross_entropy.chunked import others_in_tiles, wide_dtype
from infoprompt.kernels.frozen_linear_cross_entropy.reference import frozen_linear_cross_entropy_reference
from infoprompt.kernels.frozen_linear_cross_entropy.rows import Others, hidden_gradient, row_statistics
from infoprompt.kernels.implementation import Impl, choose

NAME = "frozen_linear_cross_entropy"
Reduction = Literal["mean", "sum", "none"]


def frozen_linear_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None = None,
    *,
    ignore_index: int = -100,
    softcap: float | None = None,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
    impl: Impl = "auto",
) -> Tensor:
    """Loss of each row, or their sum or mean; see `frozen_linear_cross_entropy_reference` for the formula.

    The gradient to the hidden states is made in the forward pass, where they require one, and kept as two tensors
    [N, D]: the backward pass does not read the head, and neither logits [N, V] nor a gradient [V, D] are ever held.

    Args:
        hidden_ND: states, [N, D]; taken in the weight's dtype, under autocast too.
        weight_VD, bias_V: the head, [V, D] and [V], not trained.
        target_N: index of each row's word, [N], int64. On a GPU one out of range is not looked for, as that would wait
            for the GPU: its loss is infinite.
        ignore_index: target of a row without loss and gradient. It costs what others cost: where they are many, select
            the rows before.
        softcap: bound of the logits, above 0.
        z_loss: weight of the squared log-sum-exp.
        label_smoothing: share of the target that all words have alike, 0 to 1.
        reduction: `mean` is over the rows that are not ignored, and NaN if there are none, as torch's is.
        impl: see `choose`. On a CPU, bfloat16 is computed in float32, exact but slow.
    Returns:
        Nats, float32 or wider; [N] for `none`, else a scalar. It has no second derivative.
    Raises:
        ValueError: shapes, dtypes or settings do not fit, the head is trained, or (on a CPU) a target is out of range.
    """
    _check_tensors(hidden_ND, weight_VD, target_N, bias_V)
    _check_settings(softcap, label_smoothing, reduction)
    hidden_ND = hidden_ND.to(weight_VD.dtype)
    if impl == "reference":
        loss_N = frozen_linear_cross_entropy_reference(
            hidden_ND,
            weight_VD,
            target_N,
            bias_V,
            ignore_index=ignore_index,
            softcap=softcap,
            z_loss=z_loss,
            label_smoothing=label_smoothing,
        )
        return _reduced(loss_N, target_N != ignore_index, reduction)
    with_grad = hidden_ND.requires_grad and torch.is_grad_enabled()
    loss_N, lse_N, gap_N, *_ = _rows(
        hidden_ND, weight_VD, target_N, bias_V, ignore_index, softcap, label_smoothing > 0, with_grad, impl
    )
    if label_smoothing:
        loss_N = loss_N + label_smoothing * gap_N
    if z_loss:
        loss_N = loss_N + z_loss * lse_N.square()
    return _reduced(loss_N, target_N != ignore_index, reduction)


def _reduced(loss_N: Tensor, kept_N: Tensor, reduction: str) -> Tensor:
    loss_N = loss_N.where(kept_N, 0.0)
    if reduction == "none":
        return loss_N
    return loss_N.sum() / kept_N.sum() if reduction == "mean" else loss_N.sum()


@torch.library.custom_op(f"infoprompt::{NAME}", mutates_args=())
def _rows(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None,
    ignore_index: int,
    softcap: float | None,
    with_gap: bool,
    with_grad: bool,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    if target_N.device.type == "cpu":
        _check_targets(target_N[target_N != ignore_index], len(weight_VD))
    with torch.autocast(hidden_ND.device.type, enabled=False):
        others = _others(hidden_ND, weight_VD, target_N, bias_V, softcap, with_gap, with_grad, impl)
        return row_statistics(others, hidden_ND, weight_VD, target_N, bias_V, ignore_index, softcap, with_gap)


def _others(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None,
    softcap: float | None,
    with_gap: bool,
    with_grad: bool,
    impl: str,
) -> Others:
    with_mean, unfit = with_gap and softcap is not None, None
    if weight_VD.dtype == torch.float64:
        unfit = "its kernels do not sum in float64"
    elif with_mean:
        unfit = "its kernels do not average capped logits"
    if choose(NAME, impl, hidden_ND.device, unfit) == "triton":
        from infoprompt.kernels.frozen_linear_cross_entropy.triton_kernels import others_by_triton

        return others_by_triton(hidden_ND, weight_VD, target_N, bias_V, softcap, with_grad)
    return others_in_tiles(hidden_ND, weight_VD, target_N, bias_V, softcap, with_grad, with_mean)


@_rows.register_fake
def _(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None,
    ignore_index: int,
    softcap: float | None,
    with_gap: bool,
    with_grad: bool,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    (rows, width), wide = hidden_ND.shape, wide_dtype(weight_VD.dtype)
    with_rows = rows if with_grad else 0
    mean_rows = 0 if not with_gap else 1 if softcap is None else with_rows
    new = hidden_ND.new_empty
    return (
        new(rows, dtype=wide),
        new(rows, dtype=wide),
        new(rows if with_gap else 0, dtype=wide),
        new(with_rows, width, dtype=wide),
        new(with_rows, width),
        new(with_rows, dtype=wide),
        new(with_rows, dtype=wide),
        new(mean_rows, width, dtype=wide),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.with_gap = inputs[6]
    ctx.mark_non_differentiable(*output[3:])
    ctx.set_materialize_grads(False)  # else zeros [N, D] are made for the parts that have no gradient
    ctx.save_for_backward(*output[3:])


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError(f"create_graph=True needs a second derivative, and {NAME} has none. Use impl='reference'.")
    zero_N = torch.zeros_like(ctx.saved_tensors[2])
    loss_N, lse_N, gap_N = (zero_N if grad is None else grad for grad in grads[:3])
    return _rows_backward(loss_N, lse_N, gap_N if ctx.with_gap else None, *ctx.saved_tensors), *[None] * 8


@torch.library.custom_op(f"infoprompt::{NAME}_backward", mutates_args=())
def _rows_backward(
    grad_loss_N: Tensor,
    grad_lse_N: Tensor,
    grad_gap_N: Tensor | None,
    others_ND: Tensor,
    target_ND: Tensor,
    slope_N: Tensor,
    rest_N: Tensor,
    mean_MD: Tensor,
) -> Tensor:
    return hidden_gradient(grad_loss_N, grad_lse_N, grad_gap_N, others_ND, target_ND, slope_N, rest_N, mean_MD)


@_rows_backward.register_fake
def _(
    grad_loss_N: Tensor,
    grad_lse_N: Tensor,
    grad_gap_N: Tensor | None,
    others_ND: Tensor,
    target_ND: Tensor,
    slope_N: Tensor,
    rest_N: Tensor,
    mean_MD: Tensor,
) -> Tensor:
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


def _check_settings(softcap: float | None, label_smoothing: float, reduction: str) -> None:
    if softcap is not None and not softcap > 0:
        raise ValueError(f"softcap is {softcap}, but must be above 0. Use None for logits without bounds.")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing is {label_smoothing}, but is a share, from 0 to 1.")
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction is {reduction!r}, but must be one of {', '.join(get_args(Reduction))}.")


def _check_targets(target_N: Tensor, num_words: int) -> None:
    outside = target_N[(target_N < 0) | (target_N >= num_words)]
    if len(outside):
        raise ValueError(
            f"target_N has {int(outside[0])}, but weight_VD has {num_words} words, 0 to {num_words - 1}. Give a row "
            f"without a target the value of ignore_index."
        )
