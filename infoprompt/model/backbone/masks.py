"""Who may attend to whom, where transformers' own masks would not do.

Shapes: B examples, L positions.
"""

from typing import Any

import torch
from torch import Tensor

Mask = Tensor | dict[str, Tensor]
"""A mask for all layers, or one per type of layer."""


def attention_mask(
    config: Any,
    window: str,
    attended_BL: Tensor,
    position_BL: Tensor,
    causal: bool,
    branch_L: Tensor | None = None,
) -> Mask:
    """The mask that the model is called with: [B, L] int64 where its own will do, else [B, 1, L, L] bool.

    transformers counts a window's width in indices; here it is counted in positions, so that slots do not push real
    tokens out of each other's sight.

    Args:
        config: of the model.
        window: `Family.window`.
        attended_BL: positions that hold something.
        position_BL: position of each.
        causal: whether a position sees only those before it.
        branch_L: 0 at the common part, else the number of a continuation, which sees the common part and itself.
    """
    if branch_L is None and (window == "none" or (window == "all" and config.sliding_window is None)):
        return attended_BL.long()
    length, device = attended_BL.shape[1], attended_BL.device
    seen_B1LL = attended_BL[:, None, None, :]
    if causal:
        seen_B1LL = seen_B1LL & torch.ones(length, length, dtype=torch.bool, device=device).tril()
    if branch_L is not None:
        seen_B1LL = seen_B1LL & ((branch_L == 0) | (branch_L == branch_L[:, None]))
    seen_B1LL = seen_B1LL.expand(-1, -1, length, -1)
    if window == "none":
        return seen_B1LL
    if window == "all":
        return seen_B1LL if config.sliding_window is None else seen_B1LL & _near(config, position_BL, causal)
    types = set(config.layer_types)
    return {
        kind: seen_B1LL & _near(config, position_BL, causal) if kind == "sliding_attention" else seen_B1LL
        for kind in types
    }


def _near(config: Any, position_BL: Tensor, causal: bool) -> Tensor:
    distance_B1LL = (position_BL[:, :, None] - position_BL[:, None, :]).abs().unsqueeze(1)
    # transformers: a causal window counts the token itself, ModernBERT's is so many to each side
    return distance_B1LL < config.sliding_window if causal else distance_B1LL <= config.sliding_window
