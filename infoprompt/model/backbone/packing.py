"""Padding left out: the positions of all examples in one stream, and attention example by example.

Everything but attention treats each position by itself, so it runs on the stream. Attention runs on groups of examples
of like length. The length that an example is brought to depends on it alone. So an example's numbers do not depend on
who shares its pass, where the processor's matrix products do not depend on the number of rows. In float32 they may do
so below 16 rows.

Shapes: B examples, L positions (in a group those of the longest), M rows of the stream, G examples of a group, D hidden
width, H heads, K head width.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

STEP = 8
"""Attention reads lengths rounded up to a multiple of it: fewer groups, at little more work."""


class _Moved(torch.autograd.Function):
    """Rows of a tensor in other places; where no row goes, zeros. One gather each way."""

    @staticmethod
    def forward(context: Any, rows: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Rows `source` of the tensor; `target` says the same from the other side; -1 is nowhere."""
        context.save_for_backward(source, target)
        return _rows(rows, source)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The gradient's rows, back where they came from."""
        _, target = context.saved_tensors
        return _rows(gradient, target), None, None


def _rows(rows: Tensor, index: Tensor) -> Tensor:
    found = rows.index_select(0, index.clamp(min=0))
    nowhere = index < 0
    return found.masked_fill_(nowhere.view(-1, *[1] * (rows.dim() - 1)), 0) if bool(nowhere.any()) else found


@dataclass(frozen=True)
class Group:
    """Examples that attention reads at one length; they stand next to each other in the stream."""

    examples: tuple[int, ...]
    part: slice
    """Of the stream."""
    source: Tensor
    """Place in the part of each of the G x L positions; -1 at padding."""
    target: Tensor
    """Which of the G x L positions each place of the part is."""
    real_GL: Tensor | None
    """Positions that hold something; None where all do."""
    hidden_GL: Tensor | None = None
    """Positions that nobody sees."""

    def mask(self, causal: bool) -> Tensor | None:
        """Who sees whom, [G, 1, 1 or L, L]; None where all do, or in a causal model all before them."""
        if self.hidden_GL is None and (causal or self.real_GL is None):
            return None  # padding stands behind what is real
        shown_GL = None if self.hidden_GL is None else ~self.hidden_GL
        seen = [part_GL for part_GL in (self.real_GL, shown_GL) if part_GL is not None]
        seen_G11L = functools.reduce(torch.logical_and, seen)[:, None, None, :]
        return seen_G11L & torch.ones(2 * seen_G11L.shape[3:], dtype=torch.bool).tril() if causal else seen_G11L

    def split(self, states_MHK: Tensor) -> Tensor:
        """The group's part of the stream as a batch, [G, H, L, K]."""
        rows = _Moved.apply(states_MHK[self.part], self.source, self.target)
        return rows.unflatten(0, (len(self.examples), -1)).transpose(1, 2)

    def merged(self, states_GLHK: Tensor) -> Tensor:
        """The part of the stream that a batch stands for."""
        return _Moved.apply(states_GLHK.flatten(0, 1), self.target, self.source)


@dataclass(frozen=True)
class Packing:
    """Which position of a padded batch stands where in the stream."""

    source: Tensor
    """Place in the batch, of B x L, of each of the stream's M."""
    target: Tensor
    """Place in the stream of each of the batch's B x L; -1 at padding."""
    size: tuple[int, int]
    """B and L."""
    groups: tuple[Group, ...]

    @classmethod
    def of(cls, attended_BL: Tensor) -> "Packing":
        """The packing of a batch in which these positions hold something."""
        rows = [row.nonzero().flatten() for row in attended_BL]
        num_examples, length = attended_BL.shape
        by_length: dict[int, list[int]] = {}
        for example, kept in enumerate(rows):
            by_length.setdefault(-(-len(kept) // STEP) * STEP, []).append(example)
        groups, order, start = [], [], 0
        for width, examples in sorted(by_length.items()):
            sizes = [len(rows[example]) for example in examples]
            groups.append(_group(examples, sizes, width, start))
            order += [rows[example] + example * length for example in examples]
            start += sum(sizes)
        source = torch.cat(order)
        target = torch.full((num_examples * length,), -1)
        target[source] = torch.arange(start)
        return cls(source, target, (num_examples, length), tuple(groups))

    def pack(self, states_BLD: Tensor) -> Tensor:
        """The stream of a batch's positions, [1, M, D]."""
        rows = states_BLD.flatten(0, 1)
        moved = _Moved.apply(rows, self.source, self.target) if rows.is_floating_point() else rows[self.source]
        return moved.unsqueeze(0)

    def unpack(self, states_1MD: Tensor) -> Tensor:
        """The batch of a stream, [B, L, D]; zeros at padding."""
        return _Moved.apply(states_1MD.squeeze(0), self.target, self.source).unflatten(0, self.size)

    def hiding(self, hidden_BL: Tensor) -> "Packing":
        """The same, but nobody sees these positions."""
        groups = []
        for group in self.groups:
            hidden = _rows(self.pack(hidden_BL)[0][group.part], group.source)
            groups.append(replace(group, hidden_GL=hidden.view(len(group.examples), -1)))
        return replace(self, groups=tuple(groups))


def _group(examples: Sequence[int], sizes: Sequence[int], width: int, start: int) -> Group:
    size_G1 = torch.tensor(sizes)[:, None]
    real_GL = torch.arange(width) < size_G1
    target = real_GL.flatten().nonzero().flatten()
    source = torch.full((real_GL.numel(),), -1)
    source[target] = torch.arange(len(target))
    part = slice(start, start + len(target))
    return Group(tuple(examples), part, source, target, None if bool(real_GL.all()) else real_GL)


Attention = Callable[..., tuple[Tensor, None]]


def by_groups(attention: Attention) -> Attention:
    """An attention function that reads a stream group by group, where it is given a packing."""

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **arguments: Any
    ) -> tuple[Tensor, None]:
        packing: Packing | None = arguments.pop("packing", None)
        if packing is None:
            return attention(module, query, key, value, mask, **arguments)
        streams = [states[0].transpose(0, 1) for states in (query, key, value)]
        causal = arguments.get("is_causal")
        causal = getattr(module, "is_causal", False) if causal is None else causal
        found = []
        for group in packing.groups:
            own = {name: _own(prefix, group) for name, prefix in arguments.items() if name in _OF_EXAMPLES}
            seen, _ = attention(
                module,
                *(group.split(states_MHK) for states_MHK in streams),
                group.mask(causal),
                **{**arguments, **own},
            )
            found.append(group.merged(seen))
        return torch.cat(found).unsqueeze(0), None

    return attend


_OF_EXAMPLES = ("prompt_prefix", "prompt_adapter")


def _own(prefix: Sequence[Tensor] | None, group: Group) -> tuple[Tensor, ...] | None:
    """The keys and values that a group's examples have of a prompt."""
    if prefix is None:
        return None
    return tuple(part if len(part) == 1 else part[list(group.examples)] for part in prefix)
