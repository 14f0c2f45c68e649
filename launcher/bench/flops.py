"""Arithmetic of a step: what real positions need, and what was done.

Shapes: rows have N positions each, real tokens and prompt vectors.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def useful_flops(model: Any, sizes: Sequence[int], read: Sequence[int], prefix: int = 0) -> int:
    """Operations of the frozen backbone, forward and back to its input, on rows without padding.

        N (2 + 2) W + (4 + 8) N (N + prefix) D  for each row; W weights of all layers, D their width times their number

    A product of M x K and K x N counts 2 M K N. Frozen weights have no gradient of their own. What comes behind the
    last layer's attention counts only where it is read. A prefix leaves out the way back through the first layer's
    queries, keys and values.

    Args:
        model: the backbone of our `Backbone`.
        sizes: positions of each row.
        read: positions of each row whose last states are read.
        prefix: keys in front of each row's own.
    """
    config = model.config
    layer = sum(value.numel() for each in model.layers for value in each.parameters() if value.ndim == 2)
    layer //= len(model.layers)  # ALBERT passes one layer many times
    entry = model.hidden_size * model.head_size * (config.num_attention_heads + 2 * model.num_kv_heads)
    width = config.num_attention_heads * model.head_size * config.num_hidden_layers
    total = 0
    for size, needed in zip(sizes, read, strict=True):
        total += 4 * size * layer * config.num_hidden_layers + 12 * size * (size + prefix) * width
        total -= 4 * (size - needed) * (layer - entry) + 2 * size * entry * bool(prefix)
    return total


def done_flops(work: Callable[[], object]) -> int:
    """Operations of the matrix products and attentions that ran, as torch counts them."""
    counter = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
    with counter:
        work()
    return int(counter.get_total_flops())


def _forward(query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **named: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _backward(grad: Any, query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **named: Any) -> int:
    return int(sdpa_flop_count(query, key, value) * 5 // 2)  # five products; forward has two


_ATEN = torch.ops.aten
_CPU_ATTENTION: dict[Any, Any] = {  # torch counts those of GPUs alone
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _forward,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
}
