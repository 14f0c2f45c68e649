"""Cross-entropy of a language-model head: the formula in plain torch, which holds all logits.

Shapes: N rows, V vocabulary, D hidden width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def frozen_linear_cross_entropy_reference(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Loss of each row.

        l_v = h . w_v + b_v,   with a cap   l_v = cap * tanh((h . w_v + b_v) / cap)
        loss = log sum_v exp(l_v) - l_y

    Args:
        hidden_ND: states, [N, D], any float dtype.
        weight_VD, bias_V: the head, [V, D] and [V], same dtype.
        target_N: index y of each row's word, [N], int64.
        softcap: the cap.
    Returns:
        Loss in nats, [N], float32 or wider.
    Source: softcap: Gemma 2, arXiv:2408.00118, section 2.
    """
    logits_NV = F.linear(hidden_ND, weight_VD, bias_V)
    logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    if softcap is not None:
        logits_NV = softcap * torch.tanh(logits_NV / softcap)
    return -logits_NV.log_softmax(1).gather(1, target_N.unsqueeze(1)).squeeze(1)
