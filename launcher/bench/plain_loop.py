"""A plain training loop over padded rows, as others' examples have it: rows in random order or grouped by length.

Shapes: B examples, L positions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModel

from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.encoded import EncodedText
from infoprompt.embedded import backbone_source
from launcher.bench.ours import LEARNING_RATE, Wanted

MAX_GRAD_NORM = 1.0


def plain_backbone(wanted: Wanted, device: torch.device) -> Any:
    """The backbone as transformers loads it, frozen, without dropout."""
    found = AutoModel.from_pretrained(
        backbone_source(wanted.backbone), dtype=getattr(torch, wanted.dtype), attn_implementation="sdpa"
    )
    if hasattr(found, "pooler"):
        found.pooler = None  # nobody reads it
    return found.requires_grad_(False).eval().to(device)


@dataclass(frozen=True)
class PlainRows:
    """Tokenized rows, and the order in which a pass takes them."""

    texts: Sequence[EncodedText]
    labels: Sequence[int]
    batch_size: int
    grouped: bool = False
    """Whether the rows of a pass are sorted by length first, as transformers' `group_by_length` sorts 50 batches."""

    @classmethod
    def of(cls, rows: EncodedDataset, batch_size: int, grouped: bool = False) -> "PlainRows":
        """Those of a data set."""
        return cls([rows.texts[row] for row in range(len(rows))], rows.labels, batch_size, grouped)

    def of_round(self, number: int) -> Iterator[list[int]]:
        """Rows of each batch of a pass; grouped batches come in random order too."""
        draws = np.random.default_rng([0, number])
        order = draws.permutation(len(self.texts))
        if self.grouped:
            order = np.array(sorted(order, key=lambda row: len(self.texts[row].input_ids)))
        batches = order.reshape(-1, self.batch_size)
        return iter(draws.permutation(batches).tolist() if self.grouped else batches.tolist())


@dataclass(frozen=True)
class PaddedBatch:
    """Rows padded on the right to the longest."""

    ids_BL: Tensor
    mask_BL: Tensor
    """Whether a position is not padding, int64."""
    slot_BL: Tensor
    """Index of the prompt vector at a position, -1 elsewhere."""
    mask_index_B: Tensor
    label_B: Tensor

    def to(self, device: torch.device) -> "PaddedBatch":
        """The same rows on another device."""
        return PaddedBatch(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})


Update = Callable[[tuple[PaddedBatch, ...]], Tensor]


def padded_batch(rows: PlainRows, chosen: Sequence[int], pad_id: int) -> PaddedBatch:
    """Collate some rows."""
    texts = [rows.texts[row] for row in chosen]
    longest = max(len(text.input_ids) for text in texts)

    def padded(lists: list[list[int]], fill: int) -> Tensor:
        return torch.tensor([values + [fill] * (longest - len(values)) for values in lists])

    return PaddedBatch(
        padded([text.input_ids for text in texts], pad_id),
        padded([[1] * len(text.input_ids) for text in texts], 0),
        padded([text.slots for text in texts], -1),
        torch.tensor([text.mask_index for text in texts]),
        torch.tensor([rows.labels[row] for row in chosen]),
    )


def plain_update(loss: Callable[..., Tensor], trained: Sequence[nn.Parameter], device: torch.device) -> Update:
    """What makes an update of `trained`: clipping and AdamW as ours. `loss` takes what a batch is made of."""
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE)

    def update(parts: tuple[PaddedBatch, ...]) -> Tensor:
        value = loss(*[part.to(device) for part in parts])
        value.backward()
        nn.utils.clip_grad_norm_(trained, MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        return value.detach()

    return update
