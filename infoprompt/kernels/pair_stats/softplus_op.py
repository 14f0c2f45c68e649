"""Sums of softplus of the scores of all pairs: the public function and its autograd.

Shapes: N queries, M keys, D width.
"""

from typing import Any

import torch
from torch import Tensor

from infoprompt.kernels.pair_stats.dispatch import (
    for_autograd,
    implementation_of,
    is_empty,
    refuse_second_derivative,
    zero_gradients,
)
from infoprompt.kernels.pair_stats.gradients import Needs
from infoprompt.kernels.pair_stats.pairs import Pairs, check_positives, checked_pairs
from infoprompt.kernels.pair_stats.reference import PairSoftplus, pair_scores, pair_softplus_reference


def pair_softplus(
    query_ND: Tensor,
    key_MD: Tensor,
    *,
    row_bias_N: Tensor | None = None,
    col_bias_M: Tensor | None = None,
    scale: Tensor | float = 1.0,
    positive_N: Tensor | None = None,
    impl: str = "auto",
) -> PairSoftplus:
    """Sum of softplus over the non-positives of each row of the scores of all pairs, without storing the scores.

        S_ij = scale * q_i . k_j + row_bias_i + col_bias_j,    row_sum_i = sum over j != pos(i) of log(1 + exp S_ij)

    With softplus(-positive) it is the loss of a discriminator of pairs: JSD's and SMILE's with the mean over the
    negatives, SigLIP's with their sum. Masks and gradients as in `pair_stats`.

    Args:
        query_ND, key_MD, row_bias_N, col_bias_M, scale, positive_N, impl: as in `pair_stats`.
    Returns:
        The positives' scores and the sums, in nats, float64 for float64 inputs, else float32.
    Raises:
        ValueError: as `pair_stats`.
    Source: Nowozin et al. 2016, arXiv:1606.00709 (JSD); Zhai et al. 2023, arXiv:2303.15343 (SigLIP).
    """
    pairs = checked_pairs(query_ND, key_MD, scale, row_bias_N, col_bias_M, positive_N)
    if impl == "reference":
        return pair_softplus_reference(pair_scores(*pairs[:5]), pairs.positive_N)
    return PairSoftplus(*_pair_softplus(*pairs, impl))


@torch.library.custom_op("infoprompt::pair_softplus", mutates_args=())
def _pair_softplus(
    query_ND: Tensor,
    key_MD: Tensor,
    scale: Tensor,
    row_bias_N: Tensor | None,
    col_bias_M: Tensor | None,
    positive_N: Tensor,
    impl: str,
) -> tuple[Tensor, Tensor]:
    pairs = Pairs(query_ND, key_MD, scale, row_bias_N, col_bias_M, positive_N)
    check_positives(pairs)
    implementation = implementation_of("pair_softplus", pairs, impl)
    if is_empty(pairs):
        nothing_N = query_ND.new_zeros(len(query_ND), dtype=pairs.wide)
        return nothing_N - torch.inf, nothing_N
    with torch.autocast(query_ND.device.type, enabled=False):
        positive_score_N, row_sum_N = implementation.pair_softplus(pairs)
    return positive_score_N, row_sum_N


@_pair_softplus.register_fake
def _(query_ND, key_MD, scale, *_):  # type: ignore[no-untyped-def]
    return tuple(query_ND.new_empty(query_ND.shape[0], dtype=scale.dtype) for _ in range(2))


@torch.library.custom_op("infoprompt::pair_softplus_backward", mutates_args=())
def _pair_softplus_backward(
    query_ND: Tensor,
    key_MD: Tensor,
    scale: Tensor,
    row_bias_N: Tensor | None,
    col_bias_M: Tensor | None,
    positive_N: Tensor,
    positive_score_N: Tensor,
    grad_positive_N: Tensor | None,
    grad_sum_N: Tensor | None,
    needs: list[bool],
    impl: str,
) -> list[Tensor]:
    """The gradients asked for by `Needs`, in the dtype of sums."""
    pairs = Pairs(query_ND, key_MD, scale, row_bias_N, col_bias_M, positive_N)
    implementation = implementation_of("pair_softplus", pairs, impl)
    if is_empty(pairs):
        return zero_gradients(pairs, Needs(*needs))
    nothing_N = torch.zeros_like(positive_score_N)
    coefficient_N = nothing_N if grad_positive_N is None else grad_positive_N
    coefficient_N = coefficient_N.masked_fill(positive_score_N == -torch.inf, 0)
    grad_sum_N = nothing_N if grad_sum_N is None else grad_sum_N
    with torch.autocast(query_ND.device.type, enabled=False):
        return implementation.pair_softplus_backward(pairs, grad_sum_N, coefficient_N, Needs(*needs))


@_pair_softplus_backward.register_fake
def _(*inputs):  # type: ignore[no-untyped-def]
    return zero_gradients(Pairs(*inputs[:6]), Needs(*inputs[-2]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:6], output[0])
    ctx.impl = inputs[6]


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    pairs, needs = Pairs(*ctx.saved_tensors[:6]), Needs(*ctx.needs_input_grad[:5])
    gradients = _pair_softplus_backward(*ctx.saved_tensors, *grads, list(needs), ctx.impl)
    return (*for_autograd(gradients, pairs, needs), None, None)


_pair_softplus.register_autograd(_backward, setup_context=_save)
_pair_softplus_backward.register_autograd(refuse_second_derivative, setup_context=None)
