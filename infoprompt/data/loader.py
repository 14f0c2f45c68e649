"""Batches of tokenized rows; which rows, in which order, with which noise depends on (seed, step) alone.

So a run can go on at any step, and the number of ranks changes no example's input. Letters: B examples, L positions,
N noise draws, K negatives.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from infoprompt.config import ObjectiveSettings
from infoprompt.data.batch import Batch
from infoprompt.data.rows import Example
from infoprompt.data.template import EncodedText, Template

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """A tokenized data set; the unprompted states are filled in by `model.unprompted`."""

    texts: list[EncodedText]
    labels: list[int]
    pad_id: int
    first_ND: Tensor | None = None
    pooled_ND: Tensor | None = None

    @classmethod
    def encode(cls, examples: Sequence[Example], labels: Sequence[str], template: Template, name: str) -> "Rows":
        """Tokenize; says once how many texts were cut."""
        texts = [template(example) for example in examples]
        truncated = sum(text.truncated for text in texts)
        if truncated:
            log.warning(
                "%d of %d %s texts are longer than the backbone allows with the prompt (%d positions); "
                "their ends were cut.",
                truncated,
                len(texts),
                name,
                template.max_length,
            )
        index = {label: i for i, label in enumerate(labels)}
        pad_id = template.tokenizer.pad_token_id
        ids = [-1 if example.label is None else index[example.label] for example in examples]
        return cls(texts, ids, pad_id)

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, rows: Sequence[int]) -> Batch:
        """Collate rows, padded on the right to the longest; row -1 repeats row 0 as a filler."""
        texts = [self.texts[max(row, 0)] for row in rows]
        longest = max(len(text.input_ids) for text in texts)

        def padded(lists: list[list[int]], fill: int) -> Tensor:
            return torch.tensor([values + [fill] * (longest - len(values)) for values in lists])

        slot_BL = padded([text.slots for text in texts], -1)
        length_B1 = torch.tensor([[len(text.input_ids)] for text in texts])
        index_B = torch.tensor([max(row, 0) for row in rows])
        return Batch(
            input_ids_BL=padded([text.input_ids for text in texts], self.pad_id),
            slot_BL=slot_BL,
            real_BL=(slot_BL < 0) & (torch.arange(longest) < length_B1),
            position_BL=padded([text.positions for text in texts], 0),
            token_type_BL=padded([text.segments for text in texts], 0),
            mask_index_B=torch.tensor([text.mask_index for text in texts]),
            label_B=torch.tensor([self.labels[max(row, 0)] for row in rows]),
            row_B=torch.tensor(list(rows)),
            first_BD=None if self.first_ND is None else self.first_ND[index_B],
            pooled_BD=None if self.pooled_ND is None else self.pooled_ND[index_B],
        )


@dataclass(frozen=True)
class TrainLoader:
    """The training batches of one rank."""

    rows: Rows
    batch_size: int
    """Examples per update, over all ranks."""
    accumulation: int
    """Micro-batches per update on each rank."""
    rank: int
    world_size: int
    seed: int
    objective: ObjectiveSettings

    @property
    def steps_per_epoch(self) -> int:
        """Updates per pass; the last one is filled up from the start of the pass."""
        return -(-len(self.rows) // self.batch_size)

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """This rank's micro-batches of update `step`, counted from 0."""
        rows = self._rows_of(step)
        noise_BN = _noise(self.seed, step, self.batch_size, self.objective)
        uniform_BK = _uniform(self.seed, step, self.batch_size, self.objective)
        size = self.batch_size // (self.world_size * self.accumulation)
        for index in range(self.accumulation):
            start = (self.rank * self.accumulation + index) * size
            part = slice(start, start + size)
            batch = self.rows.batch(rows[part])
            yield replace(
                batch, gaussian_BN=noise_BN[part], uniform_BK=None if uniform_BK is None else uniform_BK[part]
            )

    def _rows_of(self, step: int) -> list[int]:
        epoch, index = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))
        return np.take(order, range(index * self.batch_size, (index + 1) * self.batch_size), mode="wrap").tolist()


def evaluation_batches(rows: Rows, batch_size: int, rank: int, world_size: int) -> Iterator[Batch]:
    """Every row once over all ranks, short rows together, the same number of batches on each rank."""
    by_length = sorted(range(len(rows)), key=lambda row: (len(rows.texts[row].input_ids), row))
    chunk = batch_size * world_size
    for start in range(0, len(rows), chunk):
        part = by_length[start : start + chunk]
        part += [-1] * (-len(part) % world_size)
        yield rows.batch(part[rank::world_size])


def _noise(seed: int, step: int, batch_size: int, objective: ObjectiveSettings) -> Tensor:
    # column 0: the positive's draw; then the head's latent; then the negatives, where they are drawn
    negatives = objective.negatives if objective.representation_negatives == "sampled" else 0
    draws = np.random.default_rng([seed, step, 1]).standard_normal(
        (batch_size, 1 + objective.latent_size + negatives), dtype=np.float32
    )
    return torch.from_numpy(draws)


def _uniform(seed: int, step: int, batch_size: int, objective: ObjectiveSettings) -> Tensor | None:
    if objective.head_negatives != "sampled_tokens":
        return None
    draws = np.random.default_rng([seed, step, 2]).random((batch_size, objective.negatives), dtype=np.float32)
    return torch.from_numpy(draws)
