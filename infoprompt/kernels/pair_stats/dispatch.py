"""What the ops on pairs share between torch's dispatcher and an implementation.

Shapes: N queries, M keys, D width.
"""

from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import Tensor

from infoprompt.kernels.implementation import choose
from infoprompt.kernels.pair_stats import chunked
from infoprompt.kernels.pair_stats.gradients import Needs
from infoprompt.kernels.pair_stats.pairs import Pairs


def implementation_of(op: str, pairs: Pairs, impl: str) -> ModuleType:
    """The module whose functions run; Triton is imported only where it is taken."""
    unfit = "float64 has no place in the kernels" if pairs.wide == torch.float64 else None
    if choose(op, impl, pairs.query_ND.device, unfit) != "triton":
        return chunked
    from infoprompt.kernels.pair_stats import triton_launch

    return triton_launch


def is_empty(pairs: Pairs) -> bool:
    """Whether there is no pair, as on a rank whose last batch has run out."""
    return 0 in (len(pairs.query_ND), len(pairs.key_MD))


def zero_gradients(pairs: Pairs, needs: Needs) -> list[Tensor]:
    """Zeros in the shapes of the gradients asked for."""
    return [
        torch.zeros_like(x, dtype=pairs.wide, memory_format=torch.contiguous_format)
        for x, needed in zip(pairs[:5], needs, strict=True)
        if x is not None and needed
    ]


def for_autograd(gradients: list[Tensor], pairs: Pairs, needs: Needs) -> list[Tensor | None]:
    """The gradients at the places of the inputs, in their dtypes, None where none is asked for."""
    found = iter(gradients)
    return [
        next(found).to(x.dtype) if x is not None and needed else None
        for x, needed in zip(pairs[:5], needs, strict=True)
    ]


def refuse_second_derivative(ctx: Any, *grads: Any) -> NoReturn:
    """Autograd formula of a backward.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(
        "pair_stats and pair_softplus have a first derivative only. For a second one (create_graph=True), use "
        "impl='reference'."
    )
