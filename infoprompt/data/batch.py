"""One micro-batch as the model reads it.

Shapes: B examples, L positions (real tokens, prompt slots and padding), D hidden width, K negatives, Z latent width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Noise:
    """Random draws of training, float32, a row for each input, the same whatever rank has it.

    Which there are, and how they are drawn, is the objective's (`objective.noise`); a draw that nothing reads is None.
    """

    positive_B: Tensor | None = None
    """Standard normal: where the positive's score lies."""
    latent_BZ: Tensor | None = None
    """Standard normal: where the classifier's latent lies."""
    negative_BK: Tensor | None = None
    """Standard normal: where the negatives' scores lie."""
    token_BK: Tensor | None = None
    """Uniform in [0, 1): which tokens are negatives."""

    def rows(self, part: slice) -> "Noise":
        """The draws of some inputs."""
        return Noise(**{name: draws[part] for name, draws in _tensors(self).items()})

    def above(self, other: "Noise") -> "Noise":
        """These draws, then the other ones."""
        return Noise(**{name: torch.cat([own, getattr(other, name)]) for name, own in _tensors(self).items()})

    def to(self, device: torch.device | str) -> "Noise":
        """The same draws on another device."""
        return Noise(**{name: draws.to(device, non_blocking=True) for name, draws in _tensors(self).items()})


def _tensors(record: Any) -> dict[str, Tensor]:
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class Batch:
    """Everything of a micro-batch, rows in the order of the update's examples."""

    input_ids_BL: Tensor
    """Token ids, int64; the padding id at prompt slots and padding."""
    slot_BL: Tensor
    """Index of the prompt vector that stands at a position, int64; -1 at real tokens and padding."""
    real_BL: Tensor
    """Whether a position holds a real token, bool."""
    position_BL: Tensor
    """Index of the real token among the example's real tokens, int64; a prompt slot has its left neighbour's."""
    token_type_BL: Tensor
    """Segment of each position, int64."""
    mask_index_B: Tensor
    """Position of the mask token, int64; 0 where the template has none."""
    label_B: Tensor
    """Class index, int64; -1 where unknown."""
    row_B: Tensor
    """Input of the data set (its row, or of multiple choice one of the row's), int64; -1 for a filler that must not be
    counted."""
    summary_BD: Tensor | None = None
    """First-token state of the unprompted pass, float32."""
    pooled_BD: Tensor | None = None
    """Pooled state of the unprompted pass, float32."""
    lower_BLD: Tensor | None = None
    """States of the plain text below the first layer that the prompt enters, in the backbone's dtype; zeros elsewhere.
    None where they are not kept."""
    noise: Noise | None = None
    """Random draws; only in training, and only where something reads them."""
    marked_B2: Tensor | None = None
    """Positions of the markers that open the two entities of a relation, or of the first and the last token of a choice
    with words around it, int64."""
    word_BS: Tensor | None = None
    """Position of each word's first token, int64, -1 behind the last word; only for tagging."""
    tag_BS: Tensor | None = None
    """Class index of each word, int64, -1 where there is no word or its tag is unknown; only for tagging."""
    value_B: Tensor | None = None
    """Target of a regression, float32, scaled to [0, 1]."""
    num_choices: int = 1
    """Rows that stand next to each other for one example of multiple choice; `label_B` is then the same on each."""
    num_unlabelled: int = 0
    """Rows at the end that have no label, which the label's information term alone reads."""
    unprompted: bool = False
    """Whether this is the unprompted pass, which makes `summary_BD` and `pooled_BD`; there are no slots then."""

    @property
    def attended_BL(self) -> Tensor:
        """Positions the backbone attends to: real tokens and prompt slots, bool."""
        return self.real_BL | (self.slot_BL >= 0)

    @property
    def num_labelled(self) -> int:
        """Rows before those that have no label."""
        return len(self) - self.num_unlabelled

    def labelled(self) -> "Batch":
        """The rows with labels alone."""
        if not self.num_unlabelled:
            return self
        rows = slice(self.num_labelled)
        kept: dict[str, Any] = {name: value[rows] for name, value in _tensors(self).items()}
        return replace(self, num_unlabelled=0, noise=None if self.noise is None else self.noise.rows(rows), **kept)

    def with_unlabelled(self, others: "Batch") -> "Batch":
        """The same batch with rows that have no label below it, of a data set with the same kept states."""
        longest = max(self.length, others.length)
        first, second = self.padded(longest), others.padded(longest)
        if first.lower_BLD is None or second.lower_BLD is None:  # one file of them could not be kept
            first, second = replace(first, lower_BLD=None), replace(second, lower_BLD=None)
        below: dict[str, Any] = {
            name: torch.cat([value, getattr(second, name)]) for name, value in _tensors(first).items()
        }
        noise = None
        if first.noise is not None and second.noise is not None:
            noise = first.noise.above(second.noise)
        return replace(first, num_unlabelled=len(others), noise=noise, **below)

    @property
    def examples(self) -> list[int]:
        """Row in the data set of each example, -1 for a filler; not one for each of its choices."""
        return [row // self.num_choices for row in self.row_B.tolist()[:: self.num_choices]]

    def __len__(self) -> int:
        return self.input_ids_BL.shape[0]

    @property
    def length(self) -> int:
        """Positions of each row, L."""
        return self.input_ids_BL.shape[1]

    def padded(self, length: int) -> "Batch":
        """The same batch with padding on the right up to `length` positions."""
        size = (0, length - self.length)
        longer: dict[str, Any] = {
            name: F.pad(getattr(self, name), size, value=filler) for name, filler in _PADDING.items()
        }
        if self.lower_BLD is not None:
            longer["lower_BLD"] = F.pad(self.lower_BLD, (0, 0, *size))
        return replace(self, **longer)

    def extended(self, ids_BT: Tensor, position_BT: Tensor) -> "Batch":
        """The same batch with T more tokens behind each row, [B, T], which are neither the text's nor the prompt's."""
        longer = self.padded(self.length + ids_BT.shape[1])
        return replace(
            longer,
            input_ids_BL=torch.cat([self.input_ids_BL, ids_BT], 1),
            position_BL=torch.cat([self.position_BL, position_BT], 1),
        )

    @classmethod
    def joined(cls, batches: Sequence["Batch"]) -> "Batch":
        """Batches of one length below each other, for the backbone: of what else stands in them, labels, rows and, if
        all have them, kept lower states."""
        names = (*_PADDING, "mask_index_B", "label_B", "row_B")
        joined: dict[str, Any] = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in names}
        lower = [batch.lower_BLD for batch in batches if batch.lower_BLD is not None]
        return cls(**joined, lower_BLD=torch.cat(lower) if len(lower) == len(batches) else None)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        moved: dict[str, Any] = {name: value.to(device, non_blocking=True) for name, value in _tensors(self).items()}
        return replace(self, noise=None if self.noise is None else self.noise.to(device), **moved)


# What the backbone reads of each position, with what stands at padding.
_PADDING: Mapping[str, int] = {"input_ids_BL": 0, "slot_BL": -1, "real_BL": 0, "position_BL": 0, "token_type_BL": 0}
