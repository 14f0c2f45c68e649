"""Attention with a prompt's keys and values before the text's own, as transformers' models call it.

Two forms under the names in `IMPLEMENTATIONS`: through torch's fused kernels, and written out, as the yardstick and
for scores that the kernels cannot cap. Masks are bool, true where attended. The prefix comes as an argument from the
layer, not from the module or a cache, so that a layer computed again in backward finds the same one.

Shapes: B examples, H heads, Q queries, L positions (of keys), P prompt vectors, K head width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from infoprompt.model.backbone.packing import by_groups

Prefix = tuple[Tensor, ...]
"""Keys and values, each [B or 1, H of keys, P, K], and, if examples have prefixes of different lengths, which of them
an example has, [B, P] bool."""

# The names must not hold the word sdpa: by it transformers refuses families for which it has no kernel of that name.
IMPLEMENTATIONS = {"sdpa": "infoprompt_fused", "eager": "infoprompt_written_out"}


def fused_attention(
    module: nn.Module,
    query_BHQK: Tensor,
    key_BHLK: Tensor,
    value_BHLK: Tensor,
    mask: Tensor | None,
    prompt_prefix: Prefix | None = None,
    prompt_adapter: Prefix | None = None,
    position_bias: Tensor | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """softmax(q k^T scaling + bias) v over prefix and text, [B, Q, H, K].

    Args:
        module: the attention layer that asks.
        query_BHQK: queries.
        key_BHLK: keys, of as many heads or (grouped) of fewer.
        value_BHLK: values, likewise.
        mask: [B or 1, 1, Q, L] bool; None if nothing is hidden but, in a causal layer, the future.
        prompt_prefix: keys and values that every query sees; they carry no position.
        prompt_adapter: likewise, but with a softmax of their own.
        position_bias: added to the scores, [B or 1, H, Q, L].
        arguments: scaling, dropout and others of transformers.
    """
    if prompt_prefix is not None:
        mask = _mask(module, mask, query_BHQK, key_BHLK, arguments)
        key_BHLK, value_BHLK = _joined(prompt_prefix, key_BHLK, value_BHLK)
        mask, position_bias = _widened(mask, position_bias, prompt_prefix, key_BHLK)
    seen_BQHK, _ = sdpa_attention_forward(
        module, query_BHQK, key_BHLK, value_BHLK, mask, position_bias=position_bias, **arguments
    )
    if prompt_adapter is not None:
        seen_BQHK = seen_BQHK + adapter_attention(query_BHQK, prompt_adapter, arguments.get("scaling"))
    return seen_BQHK, None


def written_out_attention(
    module: nn.Module,
    query_BHQK: Tensor,
    key_BHLK: Tensor,
    value_BHLK: Tensor,
    mask: Tensor | None,
    prompt_prefix: Prefix | None = None,
    prompt_adapter: Prefix | None = None,
    position_bias: Tensor | None = None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """The same in plain torch; scores can be capped to c tanh(score / c), as in Gemma 2."""
    mask = _mask(module, mask, query_BHQK, key_BHLK, arguments)
    if prompt_prefix is not None:
        key_BHLK, value_BHLK = _joined(prompt_prefix, key_BHLK, value_BHLK)
        mask, position_bias = _widened(mask, position_bias, prompt_prefix, key_BHLK)
    group = query_BHQK.shape[1] // key_BHLK.shape[1]
    key_BHLK, value_BHLK = (tensor.repeat_interleave(group, 1) for tensor in (key_BHLK, value_BHLK))
    scaling = query_BHQK.shape[-1] ** -0.5 if scaling is None else scaling
    score_BHQL = query_BHQK @ key_BHLK.transpose(2, 3) * scaling
    if softcap is not None:
        score_BHQL = softcap * torch.tanh(score_BHQL / softcap)
    if position_bias is not None:
        score_BHQL = score_BHQL + position_bias
    if mask is not None:
        score_BHQL = score_BHQL.masked_fill(~mask, torch.finfo(score_BHQL.dtype).min)
    weight_BHQL = F.dropout(score_BHQL.float().softmax(-1).to(query_BHQK.dtype), dropout)
    seen_BQHK = (weight_BHQL @ value_BHLK).transpose(1, 2).contiguous()
    if prompt_adapter is not None:
        seen_BQHK = seen_BQHK + adapter_attention(query_BHQK, prompt_adapter, scaling)
    return seen_BQHK, None


def adapter_attention(query_BHQK: Tensor, adapter_kv: Prefix, scaling: float | None) -> Tensor:
    """softmax(q k^T scaling) v over a prompt's keys alone, [B, Q, H, K], to be added to the text's own attention.

    Source: LLaMA-Adapter, Zhang et al. 2023 (arXiv:2303.16199), section 3.2.
    """
    group = query_BHQK.shape[1] // adapter_kv[0].shape[1]
    key_BHPK, value_BHPK = (part.to(query_BHQK.dtype).repeat_interleave(group, 1) for part in adapter_kv[:2])
    scaling = query_BHQK.shape[-1] ** -0.5 if scaling is None else scaling
    score_BHQP = query_BHQK @ key_BHPK.transpose(2, 3) * scaling
    if len(adapter_kv) > 2:  # of an example without any, the values are zeros
        score_BHQP = score_BHQP.masked_fill(~adapter_kv[2][:, None, None, :], torch.finfo(score_BHQP.dtype).min)
    return (score_BHQP.float().softmax(-1).to(value_BHPK.dtype) @ value_BHPK).transpose(1, 2)


def _joined(prefix: Prefix, key_BHLK: Tensor, value_BHLK: Tensor) -> tuple[Tensor, Tensor]:
    rows = len(key_BHLK)
    pairs = zip(prefix[:2], (key_BHLK, value_BHLK), strict=True)
    key, value = (torch.cat([own.to(text.dtype).expand(rows, -1, -1, -1), text], 2) for own, text in pairs)
    return key, value


def _mask(
    module: nn.Module, mask: Tensor | None, query: Tensor, key: Tensor, arguments: dict[str, Any]
) -> Tensor | None:
    # Without a mask a causal layer relies on the kernel's own, which would hide the prefix from the first queries.
    causal = arguments.get("is_causal")
    causal = getattr(module, "is_causal", False) if causal is None else causal
    if mask is None and causal and query.shape[2] > 1:
        return torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()[None, None]
    return mask


def _widened(
    mask: Tensor | None, bias: Tensor | None, prefix: Prefix, key_BHLK: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Mask and bias for prefix and text, whose keys are now behind each other in `key_BHLK`."""
    size = (prefix[0].shape[2], 0)
    bias = None if bias is None else F.pad(bias, size)
    if len(prefix) == 2:
        return None if mask is None else F.pad(mask, size, value=True), bias
    seen_B11P = prefix[2][:, None, None, :]
    if mask is None:
        mask = seen_B11P.new_ones(1, 1, 1, key_BHLK.shape[2] - size[0])
    rows, heads, queries = len(key_BHLK), mask.shape[1], mask.shape[2]
    parts = (part.expand(rows, heads, queries, -1) for part in (seen_B11P, mask))
    return torch.cat(list(parts), 3), bias


for _name, _function in (("sdpa", fused_attention), ("eager", written_out_attention)):
    AttentionInterface.register(IMPLEMENTATIONS[_name], by_groups(_function))
    AttentionMaskInterface.register(IMPLEMENTATIONS[_name], sdpa_mask)
