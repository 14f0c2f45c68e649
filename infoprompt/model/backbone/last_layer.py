"""The last layer, made only where its states are read.

Attention needs every position; what comes behind it treats each one by itself, and is left out for the others.

Shapes: M rows of a stream, O rows of it that are read, D hidden width.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from infoprompt.model.backbone.packing import Reads


@dataclass(frozen=True)
class NormFirst:
    """A layer that adds to its input the attention of the normalised input."""

    norm: str
    attention: str

    def narrow(self, layer: nn.Module, states_1MD: Tensor, reads: Reads, stack: ExitStack) -> Tensor:
        """What the layer is given; as long as the stack is open, its attention still reads the whole stream."""
        norm, attention = layer.get_submodule(self.norm), layer.get_submodule(self.attention)
        stack.callback(norm.register_forward_pre_hook(lambda module, args: (states_1MD,)).remove)
        stack.callback(
            attention.register_forward_hook(lambda module, args, output: (reads.select(output[0]), *output[1:])).remove
        )
        return reads.select(states_1MD)


@dataclass(frozen=True)
class NormLast:
    """A layer with a module that takes the attention's outcome, and with it the layer's input to add."""

    after_attention: str
    """Its name; of a list of layers within the layer, the last is meant."""

    def narrow(self, layer: nn.Module, states_1MD: Tensor, reads: Reads, stack: ExitStack) -> Tensor:
        """See `NormFirst`."""
        inner = getattr(layer, "albert_layers", [layer])[-1]
        after: Any = attrgetter(self.after_attention)(inner)
        hook = after.register_forward_pre_hook(lambda module, args: tuple(reads.select(states) for states in args))
        stack.callback(hook.remove)
        return states_1MD


LastLayer = NormFirst | NormLast


def make_where_read(layer: nn.Module, form: LastLayer) -> None:
    """Have a layer that is given `reads` make no more than these rows, [1, O, D].

    Its own method is exchanged, not hooks hung up from outside: a layer that is computed again in backward does the
    same there.
    """
    forward: Callable[..., Any] = layer.forward

    def narrowed(states_1MD: Tensor, *args: Any, reads: Reads | None = None, **kwargs: Any) -> Any:
        if reads is None:
            return forward(states_1MD, *args, **kwargs)
        with ExitStack() as stack:
            return forward(form.narrow(layer, states_1MD, reads, stack), *args, **kwargs)

    layer.forward = narrowed
