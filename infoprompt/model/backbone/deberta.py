"""DeBERTa-v2's attention with distances of our own and room for a prefix.

transformers' form reads distances off indices and takes no further arguments, so a prompt between two tokens would push
them apart, and a prefix has no way in. Here both come in the one argument that its layers hand on untouched.

Shapes: B examples, L positions, H heads, K head width, P prompt vectors, S embedded distances, D hidden width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from infoprompt.model.backbone.attention import Prefix, adapter_attention


@dataclass(frozen=True)
class Distances:
    """What stands in the layers' argument `relative_pos`."""

    position_BL: Tensor
    prompt_prefix: Prefix | None = None
    prompt_adapter: Prefix | None = None


def take_distances(layers: Sequence[Any]) -> None:
    """Have the attention of each layer read `Distances`."""
    for layer in layers:
        layer.attention.self.forward = MethodType(_attend, layer.attention.self)


def _attend(
    attention: Any,
    hidden_states: Tensor,
    attention_mask: Tensor,
    output_attentions: bool = False,
    query_states: Tensor | None = None,
    relative_pos: Distances | None = None,
    rel_embeddings: Tensor | None = None,
) -> tuple[Tensor, None]:
    """Attention whose scores are content to content, plus content to distance and distance to content.

    Source: DeBERTa, He et al. 2021 (arXiv:2006.03654), equations 2 to 4. The prefix has content alone.
    """
    assert isinstance(relative_pos, Distances)
    query_BHLK, key_BHLK, value_BHLK = (
        _heads(attention, projection(hidden_states))
        for projection in (attention.query_proj, attention.key_proj, attention.value_proj)
    )
    kinds = len({"c2p", "p2c"} & set(attention.pos_att_type))
    scale = (query_BHLK.shape[-1] * (1 + kinds)) ** -0.5
    score_BHLL = query_BHLK @ key_BHLK.transpose(2, 3)
    if attention.relative_attention:
        score_BHLL = score_BHLL + _by_distance(
            attention, query_BHLK, key_BHLK, relative_pos.position_BL, rel_embeddings
        )
    score_BHLL = (score_BHLL * scale).masked_fill(~attention_mask.bool(), torch.finfo(score_BHLL.dtype).min)
    if relative_pos.prompt_prefix is not None:
        keys, values = (
            part.to(score_BHLL.dtype).expand(len(hidden_states), -1, -1, -1) for part in relative_pos.prompt_prefix[:2]
        )
        score_BHLP = query_BHLK @ keys.transpose(2, 3) * scale
        if len(relative_pos.prompt_prefix) > 2:
            score_BHLP = score_BHLP.masked_fill(
                ~relative_pos.prompt_prefix[2][:, None, None, :], torch.finfo(score_BHLP.dtype).min
            )
        score_BHLL = torch.cat([score_BHLP, score_BHLL], 3)
        value_BHLK = torch.cat([values, value_BHLK], 2)
    weight = attention.dropout(score_BHLL.softmax(-1))
    seen_BLHK = (weight @ value_BHLK).transpose(1, 2)
    if relative_pos.prompt_adapter is not None:
        seen_BLHK = seen_BLHK + adapter_attention(query_BHLK, relative_pos.prompt_adapter, scale)
    return seen_BLHK.flatten(2), None


def _by_distance(attention: Any, query: Tensor, key: Tensor, position_BL: Tensor, table: Tensor | None) -> Tensor:
    assert table is not None
    span = attention.pos_ebd_size
    table_1SD = attention.pos_dropout(table)[: 2 * span].unsqueeze(0)
    distance_BLL = position_BL[:, :, None] - position_BL[:, None, :]
    if attention.position_buckets > 0:
        distance_BLL = make_log_bucket_position(
            distance_BLL, attention.position_buckets, attention.max_relative_positions
        ).long()
    index_BHLL = (distance_BLL + span).clamp(0, 2 * span - 1).unsqueeze(1).expand(-1, query.shape[1], -1, -1)
    score = torch.zeros_like(index_BHLL, dtype=query.dtype)
    if "c2p" in attention.pos_att_type:
        project = attention.key_proj if attention.share_att_key else attention.pos_key_proj
        score = score + (query @ _heads(attention, project(table_1SD)).transpose(2, 3)).gather(3, index_BHLL)
    if "p2c" in attention.pos_att_type:
        project = attention.query_proj if attention.share_att_key else attention.pos_query_proj
        by_key = key @ _heads(attention, project(table_1SD)).transpose(2, 3)
        score = score + by_key.gather(3, index_BHLL.transpose(2, 3)).transpose(2, 3)
    return score


def _heads(attention: Any, states_BLD: Tensor) -> Tensor:
    """[B, H, L, K]"""
    return states_BLD.unflatten(2, (attention.num_attention_heads, -1)).transpose(1, 2)
