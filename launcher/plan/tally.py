"""What tensors without values take: run for their shapes alone, a pass tells its memory and its work."""

import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

_ATEN = torch.ops.aten
_CPU_FORWARD = _ATEN._scaled_dot_product_flash_attention_for_cpu
_CPU_BACKWARD = _ATEN._scaled_dot_product_flash_attention_for_cpu_backward
_READS_SOME_ROWS = {_ATEN.embedding, _ATEN.gather, _ATEN.index_select, _ATEN.index}
_PRODUCTS = {_ATEN.mm, _ATEN.addmm, _ATEN.bmm, _ATEN.baddbmm}

Operation = tuple[int, int]
"""Floating-point operations, a multiplication and an addition being two, and bytes read and written."""


class Tally(TorchDispatchMode):
    """While open, counts what each operation of torch takes, and what is held at any time.

    What an operation takes inside itself is not seen. Several passes may be counted one after the other.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.operations: Counter[Operation] = Counter()
        self.bfloat16_products: set[tuple[Any, ...]] = set()
        """Operation and shapes of each kind of product of bfloat16 matrices."""
        self.held_bytes = 0
        self.peak_bytes = 0
        self.changes: list[tuple[int, int]] = []
        """In their order: the number of a block, and its bytes; minus its bytes where it goes."""
        self._held: dict[int, int] = {id(tensor.untyped_storage()): 0 for tensor in known}
        self._known = [tensor.untyped_storage() for tensor in known]  # an id is that of a live storage
        self._blocks = 0

    @property
    def flops(self) -> int:
        """Of all operations."""
        return sum(flops * count for (flops, _), count in self.operations.items())

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        outputs = [value for value in tree_iter(out) if isinstance(value, Tensor)]
        for tensor in outputs:
            self._hold(tensor)
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        if not func.is_view:
            inputs = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
            if inputs and func.overloadpacket in _PRODUCTS and inputs[-1].dtype == torch.bfloat16:
                self.bfloat16_products.add((func, *(tensor.shape for tensor in inputs)))
            self.operations[_flops(func.overloadpacket, args, kwargs, out), _moved(func, inputs, outputs)] += 1
        return out

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._held:
            return
        size = storage.nbytes()
        self._blocks += 1
        block = self._blocks
        self._held[key] = size
        self.held_bytes += size
        self.changes.append((block, size))

        def let_go() -> None:
            del self._held[key]
            self.held_bytes -= size
            self.changes.append((block, -size))

        weakref.finalize(storage, let_go).atexit = False


def _flops(operation: Any, args: Any, kwargs: Any, out: Any) -> int:
    if operation is _CPU_FORWARD:  # torch counts those of GPUs alone
        return int(sdpa_flop_count(*(tensor.shape for tensor in args[:3])))
    if operation is _CPU_BACKWARD:
        return int(sdpa_flop_count(*(tensor.shape for tensor in args[1:4])) * 5 // 2)  # five products for two
    formula = flop_registry.get(operation)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=out))


def _moved(func: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
    written = sum(map(_size, outputs))
    if func.overloadpacket in _READS_SOME_ROWS:
        return 2 * written
    return written + sum(map(_size, inputs))


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
