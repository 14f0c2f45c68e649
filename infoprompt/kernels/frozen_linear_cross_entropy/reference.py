"""Cross-entropy of a language-model head: the formula in plain torch, which holds all logits.

Shapes: N rows, V words, D hidden width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def frozen_linear_cross_entropy_reference(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None = None,
    *,
    ignore_index: int = -100,
    softcap: float | None = None,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Loss of each row.

        l_v = h . w_v + b_v,   with a cap   l_v = cap * tanh((h . w_v + b_v) / cap)
        lse = log sum_v exp(l_v)
        loss = (1 - s) (lse - l_y) + s (lse - mean_v l_v) + z lse^2

    Args:
        hidden_ND: states, [N, D], any float dtype.
        weight_VD, bias_V: the head, [V, D] and [V], same dtype.
        target_N: index y of each row's word, [N], int64; a row with `ignore_index` has no loss and no gradient.
        softcap, z_loss, label_smoothing: cap, z and s.
    Returns:
        Loss in nats, [N], float32 or wider.
    Source: softcap: Gemma 2, arXiv:2408.00118, section 2; z: PaLM, arXiv:2204.02311, section 5; smoothing: Szegedy et
        al. 2015, arXiv:1512.00567, section 7.
    """
    logits_NV = F.linear(hidden_ND, weight_VD, bias_V)
    logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
    if softcap is not None:
        logits_NV = softcap * torch.tanh(logits_NV / softcap)
    kept_N = target_N != ignore_index
    log_prob_NV = logits_NV.log_softmax(1)
    target_log_prob_N = log_prob_NV.gather(1, target_N.where(kept_N, 0).unsqueeze(1)).squeeze(1)
    loss_N = -(1 - label_smoothing) * target_log_prob_N
    if label_smoothing:
        loss_N = loss_N - label_smoothing * log_prob_NV.mean(1)
    if z_loss:
        loss_N = loss_N + z_loss * logits_NV.logsumexp(1).square()
    return loss_N.where(kept_N, 0.0)
