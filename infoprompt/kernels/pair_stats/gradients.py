"""From the gradient of the scores, a panel of rows at a time, to those of queries, keys, biases and scale.

Every statistic's gradient has one form: dS = weight + (coefficient_i at row i's positive), where the weight is zero at
the positives. So the panels hold weights alone, and the positives are rank-one corrections in the dtype of sums:
subtracting 1 from a probability near 1 in bfloat16 would leave nothing of the difference.

    dq_i = scale * ( sum_j weight_ij k_j + coefficient_i k_pos(i) )        d row_bias_i = sum_j dS_ij
    dk_j = scale * ( sum_i weight_ij q_i + sum over pos(i) = j of coefficient_i q_i )
    d scale = sum_ij dS_ij q_i . k_j

Shapes: N queries, M keys, D width, R rows of a panel.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from infoprompt.kernels.pair_stats.pairs import Pairs


class Needs(NamedTuple):
    """Which gradients are asked for."""

    query: bool
    key: bool
    scale: bool
    row_bias: bool
    col_bias: bool


def panels(num_rows: int, panel_rows: int) -> Iterator[slice]:
    """Rows 0 to N, some at a time."""
    for start in range(0, num_rows, panel_rows):
        yield slice(start, min(start + panel_rows, num_rows))


def of_inputs(
    pairs: Pairs, weights: Callable[[slice], Tensor], coefficient_N: Tensor, panel_rows: int, needs: Needs
) -> list[Tensor]:
    """The gradients asked for, in order of `Needs`, in the dtype of sums.

    Args:
        pairs: inputs.
        weights: makes the panel of some rows, [R, M], in the dtype of sums, or in that of the queries for the GPU's
            tensor cores to multiply.
        coefficient_N: gradient of each row's positive score, 0 for a row without one.
        panel_rows: R.
    """
    query_ND, key_MD, wide, column_N = pairs.query_ND, pairs.key_MD, pairs.wide, pairs.column_N
    num_rows, num_keys, width = query_ND.shape[0], key_MD.shape[0], query_ND.shape[1]
    by_query, by_key = needs.query or (needs.scale and not needs.key), needs.key
    query_grad_ND = query_ND.new_zeros(num_rows if by_query else 0, width, dtype=wide)
    key_grad_MD = key_MD.new_zeros(num_keys if by_key else 0, width, dtype=wide)
    row_grad_N, col_grad_M = coefficient_N.clone(), key_MD.new_zeros(num_keys, dtype=wide)
    for rows in panels(num_rows, panel_rows):
        weight_RM = weights(rows)
        if by_query:
            _add_product(query_grad_ND[rows], weight_RM, key_MD)
        if by_key:
            _add_product(key_grad_MD, weight_RM.T, query_ND[rows])
        if needs.row_bias:
            row_grad_N[rows] += weight_RM.sum(1, dtype=wide)
        if needs.col_bias:
            col_grad_M += weight_RM.sum(0, dtype=wide)
    # index_put_ adds in one order on a GPU too, where index_add_ does not
    if by_query:
        query_grad_ND += coefficient_N.unsqueeze(1) * key_MD[column_N]
    if by_key:
        key_grad_MD.index_put_((column_N,), coefficient_N.unsqueeze(1) * query_ND, accumulate=True)
    if needs.col_bias:
        col_grad_M.index_put_((column_N,), coefficient_N, accumulate=True)
    found = (
        query_grad_ND * pairs.scale if needs.query else None,
        key_grad_MD * pairs.scale if needs.key else None,
        (query_grad_ND * query_ND if by_query else key_grad_MD * key_MD).sum() if needs.scale else None,
        row_grad_N if needs.row_bias else None,
        col_grad_M if needs.col_bias else None,
    )
    return [grad for grad in found if grad is not None]


def _add_product(total_XD: Tensor, weight_XY: Tensor, features_YD: Tensor) -> None:
    if weight_XY.dtype == total_XD.dtype:
        total_XD.addmm_(weight_XY, features_YD.to(total_XD.dtype))
    else:
        total_XD += torch.mm(weight_XY, features_YD, out_dtype=total_XD.dtype)
