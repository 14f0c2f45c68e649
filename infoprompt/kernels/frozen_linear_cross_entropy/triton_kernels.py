"""All words but the target, on a GPU.

With l_v the logits and y the target of a row,

    max = max_{v != y} l_v,   sum = sum_{v != y} exp(l_v - max),   weighted = sum_{v != y} exp(l_v - max) l'_v w_v

The log-sum-exp of these words is max + log(sum), and its gradient to the state h

    sum_{v != y} exp(l_v - max) / sum * dl_v/dh = weighted / sum,   for   dl_v/dh = l'_v w_v

where l' is the derivative of the cap: l = cap tanh(x / cap) has 1 - tanh(x / cap)^2, a logit without one has 1. `rows`
goes on from these sums. Few rows are bound by reading the matrix, many by the products: `triton_few_rows` and
`triton_many_rows`.

Shapes: N rows, V vocabulary, D hidden width.
"""

from torch import Tensor

from infoprompt.kernels.frozen_linear_cross_entropy import triton_few_rows, triton_many_rows
from infoprompt.kernels.frozen_linear_cross_entropy.rows import Others

SHIPPED = [*triton_few_rows.SHIPPED, *triton_many_rows.SHIPPED]


def others_by_triton(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None,
    softcap: float | None,
    with_grad: bool,
) -> Others:
    """The sums above, in float32; arguments as for `others_in_tiles`, of float32, bfloat16 or float16."""
    hidden_ND, target_N = hidden_ND.contiguous(), target_N.contiguous()
    bias_V = None if bias_V is None else bias_V.contiguous()
    others = triton_few_rows.others_of_few if triton_few_rows.are_few(hidden_ND) else triton_many_rows.others_of_many
    return others(hidden_ND, weight_VD, target_N, bias_V, softcap, with_grad)
