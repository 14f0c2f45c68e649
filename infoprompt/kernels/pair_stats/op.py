"""Statistics of the scores of all pairs: the public function, its autograd, and the choice of implementation.

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
from infoprompt.kernels.pair_stats.reference import PairStats, pair_scores, pair_stats_reference


def pair_stats(
    query_ND: Tensor,
    key_MD: Tensor,
    *,
    row_bias_N: Tensor | None = None,
    col_bias_M: Tensor | None = None,
    scale: Tensor | float = 1.0,
    positive_N: Tensor | None = None,
    exclude_positive: bool = False,
    clamp: float | None = None,
    impl: str = "auto",
) -> PairStats:
    """Log-sum-exp of each row and each column of the scores of all pairs, and the positives' scores, without storing S.

        S_ij = scale * q_i . k_j + row_bias_i + col_bias_j

    Both log-sum-exps come from one computation of S. A bilinear critic is folded into the queries first. A bias of
    -inf masks a row or a column. The gradient is exact, of first order, for any upstream gradient on the three outputs;
    it is 0 where a log-sum-exp is over nothing and for a positive that is masked or not there. For a contrast that
    stays exact where the positive wins by far, exclude the positives and take softplus(row_lse - positive).

    Args:
        query_ND, key_MD: [N, D] and [M, D], any float dtype.
        row_bias_N, col_bias_M: in nats, [N] and [M]; 0 if not given.
        scale: inverse temperature, a number or a tensor without dimensions.
        positive_N: column of each row's positive, [N], int64, -1 for none; row i's is key i if not given.
        exclude_positive: leaves the positives out of both log-sum-exps.
        clamp: limits the scores in the log-sum-exps to [-clamp, clamp], as SMILE's value wants it; without gradient.
        impl: see `infoprompt.kernels.implementation.choose`.
    Returns:
        In nats, float64 for float64 inputs, else float32.
    Raises:
        ValueError: shapes, dtypes or devices disagree, a positive does not exist (on a GPU it counts as none), `clamp`
            is used where a gradient is needed, or `impl` is unknown or cannot run here.
    Source: van den Oord et al. 2018, arXiv:1807.03748 (rows); Radford et al. 2021, arXiv:2103.00020 (rows and columns).
    """
    pairs = checked_pairs(query_ND, key_MD, scale, row_bias_N, col_bias_M, positive_N)
    if clamp is not None and torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in pairs):
        raise ValueError(f"clamp is {clamp}, but a clamped log-sum-exp has no gradient here. Use torch.no_grad().")
    if impl == "reference":
        score_NM = pair_scores(*pairs[:5])
        return pair_stats_reference(score_NM, pairs.positive_N, exclude_positive, clamp)
    return PairStats(*pair_stats_op(*pairs, exclude_positive, clamp, impl))


@torch.library.custom_op("infoprompt::pair_stats", mutates_args=())
def pair_stats_op(
    query_ND: Tensor,
    key_MD: Tensor,
    scale: Tensor,
    row_bias_N: Tensor | None,
    col_bias_M: Tensor | None,
    positive_N: Tensor,
    exclude_positive: bool,
    clamp: float | None,
    impl: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """`pair_stats` of inputs as in `Pairs`: the fields of `PairStats`."""
    pairs = Pairs(query_ND, key_MD, scale, row_bias_N, col_bias_M, positive_N)
    check_positives(pairs)
    implementation = implementation_of("pair_stats", pairs, impl)
    if is_empty(pairs):
        nothing_N, nothing_M = (x.new_full((len(x),), -torch.inf, dtype=pairs.wide) for x in (query_ND, key_MD))
        return nothing_N, nothing_N.clone(), nothing_M
    with torch.autocast(query_ND.device.type, enabled=False):
        positive_score_N, row_lse_N, col_lse_M = implementation.pair_stats(pairs, exclude_positive, clamp)
    return positive_score_N, row_lse_N, col_lse_M


@pair_stats_op.register_fake
def _(query_ND, key_MD, scale, *_):  # type: ignore[no-untyped-def]
    return tuple(x.new_empty(x.shape[0], dtype=scale.dtype) for x in (query_ND, query_ND, key_MD))


@torch.library.custom_op("infoprompt::pair_stats_backward", mutates_args=())
def pair_stats_backward_op(
    query_ND: Tensor,
    key_MD: Tensor,
    scale: Tensor,
    row_bias_N: Tensor | None,
    col_bias_M: Tensor | None,
    positive_N: Tensor,
    positive_score_N: Tensor,
    row_lse_N: Tensor,
    col_lse_M: Tensor,
    grad_positive_N: Tensor | None,
    grad_row_N: Tensor | None,
    grad_col_M: Tensor | None,
    exclude_positive: bool,
    needs: list[bool],
    impl: str,
) -> list[Tensor]:
    """The gradients asked for by `Needs`, in the dtype of sums.

    The log-sum-exps may be over more rows and columns than are given here, as those of all ranks are.
    """
    pairs = Pairs(query_ND, key_MD, scale, row_bias_N, col_bias_M, positive_N)
    implementation = implementation_of("pair_stats", pairs, impl)
    if is_empty(pairs):
        return zero_gradients(pairs, Needs(*needs))
    # what estimators make of nothing may be no number, and it has no gradient either way
    grad_row_N = None if grad_row_N is None else grad_row_N.masked_fill(row_lse_N == -torch.inf, 0)
    grad_col_M = None if grad_col_M is None else grad_col_M.masked_fill(col_lse_M == -torch.inf, 0)
    coefficient_N = torch.zeros_like(row_lse_N) if grad_positive_N is None else grad_positive_N
    if not exclude_positive and grad_row_N is not None:
        coefficient_N = coefficient_N + grad_row_N * (positive_score_N - row_lse_N).exp()
    if not exclude_positive and grad_col_M is not None:
        share_N = (positive_score_N - col_lse_M[pairs.column_N]).exp()
        coefficient_N = coefficient_N + grad_col_M[pairs.column_N] * share_N
    coefficient_N = coefficient_N.masked_fill(positive_score_N == -torch.inf, 0)
    stats = PairStats(positive_score_N, row_lse_N, col_lse_M)
    with torch.autocast(query_ND.device.type, enabled=False):
        return implementation.pair_stats_backward(pairs, stats, grad_row_N, grad_col_M, coefficient_N, Needs(*needs))


@pair_stats_backward_op.register_fake
def _(*inputs):  # type: ignore[no-untyped-def]
    return zero_gradients(Pairs(*inputs[:6]), Needs(*inputs[-2]))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:6], *output)
    ctx.exclude_positive, _, ctx.impl = inputs[6:]


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    pairs, needs = Pairs(*ctx.saved_tensors[:6]), Needs(*ctx.needs_input_grad[:5])
    gradients = pair_stats_backward_op(*ctx.saved_tensors, *grads, ctx.exclude_positive, list(needs), ctx.impl)
    return (*for_autograd(gradients, pairs, needs), None, None, None, None)


pair_stats_op.register_autograd(_backward, setup_context=_save)
pair_stats_backward_op.register_autograd(refuse_second_derivative, setup_context=None)
