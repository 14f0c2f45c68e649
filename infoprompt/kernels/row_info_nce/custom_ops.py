"""The statistics of the losses as operators that torch knows: what they give, and their gradients.

Which implementation runs is settled inside them, so that a compiler sees one call. `op` checks the arguments,
and brings all but the large ones to one dtype. Shapes: B rows, K negatives, L positions, E embedding width.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from infoprompt.kernels.implementation import choose
from infoprompt.kernels.row_info_nce import chunked

WIDEST = 8192
"""Widest vectors that the Triton kernels take."""


@torch.library.custom_op("infoprompt::gaussian_log_sum_exp", mutates_args=())
def gaussian_log_sum_exp(std_B: Tensor, noise_BK: Tensor, impl: str) -> tuple[Tensor, Tensor]:
    """log( sum_k exp(std_i * noise_ik) ) and its derivative by std, [B] each."""
    with _implementation(impl, std_B) as made_by:
        log_sum_B, tilt_B = made_by.gaussian_log_sum_exp(std_B, noise_BK)
    return log_sum_B, tilt_B


@torch.library.custom_op("infoprompt::vector_log_odds", mutates_args=())
def vector_log_odds(
    positive_B: Tensor, embeddings_BLE: Tensor, keep_BL: Tensor, direction_E: Tensor, with_mean: bool, impl: str
) -> tuple[Tensor, Tensor]:
    """log( sum_l c_il exp(e_il . u - p_i) ), [B], and its derivative by u, [B, E], or [0, E] without `with_mean`."""
    with _implementation(impl, positive_B, len(direction_E)) as made_by:
        log_odds_B, mean_BE = made_by.vector_log_odds(positive_B, embeddings_BLE, keep_BL, direction_E, with_mean)
    return log_odds_B, mean_BE


@contextmanager
def _implementation(impl: str, rows_B: Tensor, width: int = 0) -> Iterator[Any]:
    """The module that makes the statistics."""
    unfit = "float64 has no Triton kernels" if rows_B.dtype == torch.float64 else None
    if width > WIDEST:
        unfit = f"vectors are {width} wide, and the Triton kernels take {WIDEST}"
    made_by: Any = chunked
    if choose("row_info_nce", impl, rows_B.device, unfit) == "triton":
        from infoprompt.kernels.row_info_nce import triton_kernels

        made_by = triton_kernels
    # Autocast is still on inside an operator, and would round the products that are summed here. Triton starts its
    # kernels on the current device, which need not be the tensors'.
    with torch.autocast(rows_B.device.type, enabled=False), torch.cuda.device_of(rows_B):
        yield made_by


@gaussian_log_sum_exp.register_fake
def _(std_B: Tensor, noise_BK: Tensor, impl: str) -> tuple[Tensor, Tensor]:
    return torch.empty_like(std_B), torch.empty_like(std_B)


@vector_log_odds.register_fake
def _(
    positive_B: Tensor, embeddings_BLE: Tensor, keep_BL: Tensor, direction_E: Tensor, with_mean: bool, impl: str
) -> tuple[Tensor, Tensor]:
    size = len(positive_B) if with_mean else 0
    return torch.empty_like(positive_B), direction_E.new_empty(size, len(direction_E))


def _keep_derivative(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # there would be zeros for the derivative
    ctx.save_for_backward(output[1])


def _of_std(ctx: Any, grad_B: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    _refuse_second_derivative()
    (tilt_B,) = ctx.saved_tensors
    return (None if grad_B is None else grad_B * tilt_B), None, None


def _of_vectors(ctx: Any, grad_B: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    _refuse_second_derivative()
    (mean_BE,) = ctx.saved_tensors
    grad_E = None
    if grad_B is not None and ctx.needs_input_grad[3]:
        grad_E = (grad_B.unsqueeze(1) * mean_BE).sum(0)  # not a product of matrices, which autocast would round
    return (None if grad_B is None else -grad_B), None, None, grad_E, None, None


def _refuse_second_derivative() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "row_info_nce has no second derivative: its gradient was asked for with create_graph=True. Leave that out, "
            "or use impl='reference'."
        )


gaussian_log_sum_exp.register_autograd(_of_std, setup_context=_keep_derivative)
vector_log_odds.register_autograd(_of_vectors, setup_context=_keep_derivative)
