"""Padding left out: the positions of all examples in one stream, and attention example by example.

Everything but attention treats each position by itself, so it runs on the stream. Attention runs on groups of examples
of like length. The length that an example is brought to depends on it alone. So an example's numbers do not depend on
who shares its pass, where the processor's matrix products do not depend on the number of rows, from `FEWEST` on.

Shapes: B examples, L positions (in a group those of the longest), M rows of the stream, O rows
of it that are read, U positions of all groups, G examples of a group, D hidden width, H heads, K head width.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEP = 8
"""Attention reads lengths rounded up to a multiple of it: fewer groups, at little more work."""
FEWEST = 16
"""Rows of a stream, the rest zeros: products of fewer float32 rows take another path on some processors."""


class Places:
    """Which row comes to each place."""

    def __init__(self, index: Tensor) -> None:
        """Of the numbers of rows; -1 where none comes."""
        empty = index < 0
        self.empty = empty if bool(empty.any()) else None
        self.index = index if self.empty is None else index.clamp(min=0)

    def of(self, rows: Tensor) -> Tensor:
        """The rows at their places; zeros where none comes."""
        found = rows.index_select(0, self.index)
        return found if self.empty is None else found.masked_fill_(self.empty.view(-1, *[1] * (rows.dim() - 1)), 0)


class _Moved(torch.autograd.Function):
    """Rows at other places, and their gradient back where they came from: one gather each way."""

    @staticmethod
    def forward(context: Any, rows: Tensor, there: Places, back: Places) -> Tensor:
        """Each row that has a gradient comes to one place, from which `back` takes it."""
        context.back = back
        return there.of(rows)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """See `forward`."""
        return context.back.of(gradient), None, None


@dataclass(frozen=True)
class Group:
    """Examples that attention reads at one length; they stand next to each other in the stream."""

    examples: Tensor
    length: int
    owner: int
    """Whose prompt's keys and values they have, see `OfOwners`."""
    real_GL: Tensor | None
    """Positions that hold something; None where all do."""
    position_GL: Tensor
    """Position of each, see `Batch.position_BL`."""
    hidden_GL: Tensor | None = None
    """Positions that nobody sees."""

    @property
    def size(self) -> int:
        """Positions, G x L."""
        return len(self.examples) * self.length

    def mask(self, causal: bool, window: int | None) -> Tensor | None:
        """Who sees whom, [G, 1, 1 or L, L]; None where all do, or in a causal model all before them.

        Args:
            causal: whether a position sees only those before it.
            window: how far a position sees, in positions, itself counted; None for any distance.
        """
        if self.hidden_GL is None and window is None and (causal or self.real_GL is None):
            return None  # padding stands behind what is real
        shown_GL = None if self.hidden_GL is None else ~self.hidden_GL
        seen = [part_GL[:, None, None, :] for part_GL in (self.real_GL, shown_GL) if part_GL is not None]
        if causal:
            seen.append(torch.ones(2 * [self.length], dtype=torch.bool, device=self.position_GL.device).tril())
        if window is not None:
            distance_GLL = (self.position_GL[:, :, None] - self.position_GL[:, None, :]).abs()
            seen.append((distance_GLL < window).unsqueeze(1))
        return functools.reduce(torch.logical_and, seen)


@dataclass(frozen=True)
class Reads:
    """The rows of a stream that are read, [O, D], and where they stand in it and in the batch."""

    rows: Places
    """Of the stream, at each of O."""
    stream: Places
    batch: Places
    rows_of_batch: Places

    def select(self, states_1MD: Tensor) -> Tensor:
        """The rows that are read, [1, O, D]."""
        selected: Tensor = _Moved.apply(states_1MD.squeeze(0), self.rows, self.stream)
        return selected.unsqueeze(0)


@dataclass(frozen=True)
class Packing:
    """Which position of a padded batch stands where in the stream, and where in the groups."""

    size: tuple[int, int]
    """B and L."""
    source: Places
    """Of the batch's B x L, at each of the stream's M."""
    target: Places
    """Of the stream's M, at each of the batch's B x L."""
    split: Places
    """Of the stream's M, at each of the groups' U. At padding it is the example's own first: numbers as good as any
    there, for nothing is made of them."""
    unsplit: Places
    """The same, but nothing at padding."""
    merge: Places
    """Of the groups' U, at each of the stream's M."""
    groups: tuple[Group, ...]
    reads: Reads | None = field(default=None, compare=False)
    """What the last layer must make; all if None."""

    @classmethod
    def of(cls, attended_BL: Tensor, position_BL: Tensor, owner_B: Tensor | None = None) -> "Packing":
        """The packing of a batch in which these positions hold something; examples of unlike owners share no group."""
        num_examples, length = attended_BL.shape
        length_B = attended_BL.sum(1)
        width_B = (length_B + STEP - 1).div(STEP, rounding_mode="floor") * STEP
        owner_B = torch.zeros_like(width_B) if owner_B is None else owner_B
        sort_B = owner_B * (length + STEP) + width_B
        order_B = sort_B.argsort(stable=True)
        length_B, width_B, sort_B = length_B[order_B], width_B[order_B], sort_B[order_B]
        row_M, column_M = attended_BL[order_B].nonzero(as_tuple=True)  # row by row
        source_M = order_B[row_M] * length + column_M
        first_B, start_B = length_B.cumsum(0) - length_B, width_B.cumsum(0) - width_B
        step_M = torch.arange(len(row_M)) - first_B[row_M]
        merge_M = start_B[row_M] + step_M
        counts = sort_B.unique_consecutive(return_counts=True)[1]
        widths, owners = (kept_B[counts.cumsum(0) - 1] for kept_B in (width_B, owner_B[order_B]))
        places, firsts = [], first_B.split(counts.tolist())
        for width, first_G, size_G in zip(widths.tolist(), firsts, length_B.split(counts.tolist()), strict=True):
            step_L = torch.arange(width)
            places.append((first_G[:, None] + step_L, step_L < size_G[:, None], first_G[:, None]))
        split_U = torch.cat([place_GL.where(real_GL, first_G1).flatten() for place_GL, real_GL, first_G1 in places])
        unsplit_U = torch.cat([place_GL.where(real_GL, -1).flatten() for place_GL, real_GL, _ in places])
        position_U = position_BL.flatten()[source_M][split_U]
        sizes = (counts * widths).tolist()
        groups = [
            Group(examples, width, owner, None if bool(real_GL.all()) else real_GL, part_U.view_as(real_GL))
            for examples, width, owner, (_, real_GL, _), part_U in zip(
                order_B.split(counts.tolist()),
                widths.tolist(),
                owners.tolist(),
                places,
                position_U.split(sizes),
                strict=True,
            )
        ]
        return cls(
            (num_examples, length),
            Places(_filled(source_M)),
            Places(_inverse(source_M, attended_BL.numel())),
            Places(split_U),
            Places(unsplit_U),
            Places(_filled(merge_M)),
            tuple(groups),
        )

    def pack(self, states_BLD: Tensor) -> Tensor:
        """The stream of a batch's positions, [1, M, D]."""
        rows = states_BLD.flatten(0, 1)
        moves = rows.is_floating_point()
        return (_Moved.apply(rows, self.source, self.target) if moves else self.source.of(rows)).unsqueeze(0)

    def unpack(self, states_1MD: Tensor) -> Tensor:
        """The batch of a stream, [B, L, D]; zeros at padding."""
        return self._batch_of(states_1MD, self.target, self.source)

    def unpack_last(self, states_1OD: Tensor) -> Tensor:
        """The batch of what the last layer made, [B, L, D]; zeros at what it need not make, too."""
        reads = self.reads
        return (
            self.unpack(states_1OD) if reads is None else self._batch_of(states_1OD, reads.batch, reads.rows_of_batch)
        )

    def _batch_of(self, states: Tensor, there: Places, back: Places) -> Tensor:
        moved: Tensor = _Moved.apply(states.squeeze(0), there, back)
        return moved.unflatten(0, self.size)

    def hiding(self, hidden_BL: Tensor) -> "Packing":
        """The same, but nobody sees these positions."""
        hidden_U = self.split.of(self.pack(hidden_BL)[0])
        parts = hidden_U.split([group.size for group in self.groups])
        groups = [
            replace(group, hidden_GL=part.view(-1, group.length))
            for group, part in zip(self.groups, parts, strict=True)
        ]
        return replace(self, groups=tuple(groups))

    def reading(self, read_BL: Tensor) -> "Packing":
        """The same, with nothing but these positions read of the last layer."""
        (row_O,) = self.pack(read_BL)[0].nonzero(as_tuple=True)
        num_rows = len(self.source.index)
        if len(row_O) == num_rows:
            return self
        source_O = self.source.index[row_O]
        reads = Reads(
            Places(_filled(row_O)),
            Places(_inverse(row_O, num_rows)),
            Places(_inverse(source_O, read_BL.numel())),
            Places(_filled(source_O)),
        )
        return replace(self, reads=reads)


def _filled(index: Tensor) -> Tensor:
    """With -1 behind it, up to the fewest rows."""
    return F.pad(index, (0, max(0, FEWEST - len(index))), value=-1)


def _inverse(index: Tensor, size: int) -> Tensor:
    """Where each of `size` numbers stands in the index; -1 if nowhere."""
    return torch.full((size,), -1).index_put((index,), torch.arange(len(index)))


Attention = Callable[..., tuple[Tensor, None]]


def by_groups(attention: Attention) -> Attention:
    """An attention function that reads a stream group by group, where it is given a packing."""

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **arguments: Any
    ) -> tuple[Tensor, None]:
        packing: Packing | None = arguments.pop("packing", None)
        if packing is None:
            return attention(module, query, key, value, mask, **arguments)
        heads = [states.shape[1] for states in (query, key, value)]
        stream_MHK = torch.cat([states[0] for states in (query, key, value)]).transpose(0, 1)
        split_UHK = _Moved.apply(stream_MHK, packing.split, packing.merge)
        causal = arguments.get("is_causal")
        causal = getattr(module, "is_causal", False) if causal is None else causal
        window = arguments.get("sliding_window")
        found = []
        for group, part_UHK in zip(packing.groups, split_UHK.split([g.size for g in packing.groups]), strict=True):
            parts_GHLK = part_UHK.unflatten(0, (-1, group.length)).transpose(1, 2).split(heads, 1)
            own = {name: _own(prefix, group) for name, prefix in arguments.items() if name in _OF_EXAMPLES}
            seen_GLHK, _ = attention(module, *parts_GHLK, group.mask(causal, window), **{**arguments, **own})
            found.append(seen_GLHK.flatten(0, 1))
        merged_MHK: Tensor = _Moved.apply(torch.cat(found), packing.merge, packing.unsplit)
        return merged_MHK.unsqueeze(0), None

    return attend


_OF_EXAMPLES = ("prompt_prefix", "prompt_adapter")
KeysValues = tuple[Tensor, ...]
"""Keys and values, each [B or 1, H, P, K]."""


@dataclass(frozen=True)
class OfOwners:
    """The keys and values of several prompts in one pass, each as it is where its owner passes alone."""

    parts: tuple[KeysValues | None, ...]
    first: tuple[int, ...]
    """The first example of each owner."""


def _own(prefix: KeysValues | OfOwners | None, group: Group) -> KeysValues | None:
    """The keys and values that a group's examples have of a prompt."""
    first = 0
    if isinstance(prefix, OfOwners):
        first, prefix = prefix.first[group.owner], prefix.parts[group.owner]
    if prefix is None:
        return None
    return tuple(part if len(part) == 1 else part[group.examples - first] for part in prefix)
