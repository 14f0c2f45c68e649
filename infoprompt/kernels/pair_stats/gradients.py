"""From the gradient of the scores, a panel of rows at a time, to those of queries, keys and biases.

The scores' gradient is dS = weight + (coefficient_i at row i's positive), where the weight is zero at the positives.
So the panels hold weights alone, and the positives are corrections of rank one in the dtype of sums.

    weight_ij = g_i exp(S_ij - row_lse_i)     g the upstream gradient of row_lse, the coefficient that of the positive
    dq_i = sum_j weight_ij k_j + coefficient_i k_pos(i)        d row_bias_i = sum_j dS_ij
    dk_j = sum_i weight_ij q_i + coefficient_i q_i where pos(i) = j

Shapes: N rows (queries), M keys, D hidden width, R rows of a panel.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def panels(num_rows: int, panel_rows: int) -> Iterator[slice]:
    """Rows 0 to N, some at a time."""
    for start in range(0, num_rows, panel_rows):
        yield slice(start, min(start + panel_rows, num_rows))


def of_inputs(
    query_ND: Tensor,
    key_MD: Tensor,
    first_positive: int,
    weights: Callable[[slice], Tensor],
    coefficient_N: Tensor,
    panel_rows: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and biases, in the dtype of sums.

    Args:
        query_ND, key_MD, first_positive: inputs.
        weights: makes the panel of some rows, [R, M], in the dtype of sums, or in that of the queries for the GPU's
            tensor cores to multiply.
        coefficient_N: gradient of each row's positive score, in the dtype of sums.
        panel_rows: R.
    """
    wide, own = coefficient_N.dtype, slice(first_positive, first_positive + len(query_ND))
    query_grad_ND, key_grad_MD = (torch.zeros_like(x, dtype=wide) for x in (query_ND, key_MD))
    bias_grad_N = coefficient_N.clone()
    for rows in panels(len(query_ND), panel_rows):
        weight_RM = weights(rows)
        _add_product(query_grad_ND[rows], weight_RM, key_MD)
        _add_product(key_grad_MD, weight_RM.T, query_ND[rows])
        bias_grad_N[rows] += weight_RM.sum(1, dtype=wide)
    query_grad_ND += coefficient_N.unsqueeze(1) * key_MD[own]
    key_grad_MD[own] += coefficient_N.unsqueeze(1) * query_ND
    return query_grad_ND, key_grad_MD, bias_grad_N


def _add_product(total_ND: Tensor, weight_NM: Tensor, features_MD: Tensor) -> None:
    if weight_NM.dtype == total_ND.dtype:
        total_ND.addmm_(weight_NM, features_MD.to(total_ND.dtype))
    else:
        total_ND += torch.mm(weight_NM, features_MD, out_dtype=total_ND.dtype)
