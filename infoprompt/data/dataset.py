"""A tokenised data set, and batches of its rows.

Shapes: B examples (or their choices), L positions, M rows of the data set, S words, T real tokens.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infoprompt.data.batch import Batch
from infoprompt.data.encoded import EncodedTexts
from infoprompt.data.ragged import Found, Ragged
from infoprompt.data.rows import Candidate, Example, labels_of
from infoprompt.data.template import Template
from infoprompt.data.tokenized import tokenized

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LowerStates:
    """States of all real tokens below the first layer that a prompt enters."""

    states_TD: Tensor
    """Input behind input."""
    starts: np.ndarray
    """Where each input's start, and where the last ones end."""


@dataclass(frozen=True)
class EncodedDataset:
    """A tokenized data set; the unprompted states are filled in by `model.unprompted`.

    Of multiple choice, an example's inputs stand next to each other in `texts` and in the states.
    """

    texts: EncodedTexts
    labels: list[int]
    """Class index of each example, -1 where unknown or where it has none."""
    pad_id: int
    summary_MD: Tensor | None = None
    pooled_MD: Tensor | None = None
    lower: LowerStates | None = None
    """Filled in by `model.lower_states`."""
    num_choices: int = 1
    """Inputs per example."""
    tags: Ragged | None = None
    """Class index of each word, cut ones included; -1 where unknown."""
    values: list[float] | None = None
    """Targets of a regression, scaled to [0, 1]; NaN where unknown."""
    candidates: list[Candidate] | None = None
    """The candidate answer of each row; None where there are none."""

    @classmethod
    def encode(
        cls,
        examples: Sequence[Example],
        labels: Sequence[str],
        template: Template,
        name: str,
        scale: tuple[float, float] | None = None,
    ) -> "EncodedDataset":
        """Tokenize; says once how many texts were cut.

        Args:
            examples: all of one kind.
            labels: class names in id order.
            template: how they become input.
            name: what the warning calls them.
            scale: lowest and highest value of a regression; rows have values only if it is given.
        """
        texts = tokenized(template, examples, name)
        _warn_of_cuts(texts, examples, name, template.max_length)
        index = {label: i for i, label in enumerate(labels)}
        tagged = bool(examples) and examples[0].words is not None
        asked = bool(examples) and examples[0].candidate is not None
        return cls(
            texts,
            [-1 if label is None else index[label] for label in labels_of(examples)],
            template.pad_id,
            num_choices=len(examples[0].choices or [""]) if examples else 1,
            tags=Ragged.of(_tags(example, index) for example in examples) if tagged else None,
            values=None if scale is None else [_scaled(example.value, scale) for example in examples],
            candidates=[example.candidate for example in examples if example.candidate is not None] if asked else None,
        )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths_M(self) -> np.ndarray:
        """Positions that each example's longest input takes."""
        return self.texts.input_ids.lengths_M.reshape(-1, self.num_choices).max(1)

    def without_prompt(self) -> "EncodedDataset":
        """The same texts without a prompt's slots, for the unprompted pass."""
        return replace(self, texts=self.texts.without_prompt())

    def batch(self, rows: Sequence[int] | np.ndarray) -> Batch:
        """Collate examples, padded on the right to the longest; row -1 repeats row 0 as a filler."""
        rows_M = np.asarray(rows)
        known_M = rows_M.clip(0)
        count = self.num_choices
        index_B = known_M.repeat(count) * count + np.tile(np.arange(count), len(rows_M))
        positions = self.texts.padded(index_B, self.pad_id)
        return Batch(
            **positions,
            label_B=torch.tensor([self.labels[row] for row in known_M]).repeat_interleave(count),
            row_B=torch.from_numpy(np.where(rows_M.repeat(count) < 0, -1, index_B)),
            summary_BD=None if self.summary_MD is None else self.summary_MD[index_B],
            pooled_BD=None if self.pooled_MD is None else self.pooled_MD[index_B],
            lower_BLD=self._lower_states(index_B, positions["real_BL"]),
            num_choices=count,
            **self._targets(known_M),
        )

    def _lower_states(self, rows_B: np.ndarray, real_BL: Tensor) -> Tensor | None:
        if self.lower is None:
            return None
        counts_B = real_BL.sum(1).numpy()
        within_T = np.arange(counts_B.sum()) - (counts_B.cumsum() - counts_B).repeat(counts_B)
        rows_TD = self.lower.states_TD[torch.from_numpy(self.lower.starts[rows_B].repeat(counts_B) + within_T)]
        states_BLD = rows_TD.new_zeros(*real_BL.shape, rows_TD.shape[1])
        states_BLD[real_BL] = rows_TD
        return states_BLD

    def _targets(self, rows_B: np.ndarray) -> dict[str, Any]:
        """The fields of a batch that only tagging or regression has."""
        targets: dict[str, Any] = {}
        if self.tags is not None:
            words = self.texts.words
            found = words.find(rows_B, least=1)
            tags = Found.of(self.tags.starts[rows_B], found.filled_BL.sum(1), least=1)  # of words that were not cut
            targets["word_BS"] = found.padded(words.values_T, -1)
            targets["tag_BS"] = tags.padded(self.tags.values_T, -1)
        if self.values is not None:
            targets["value_B"] = torch.tensor([self.values[row] for row in rows_B], dtype=torch.float32)
        return targets


def _tags(example: Example, index: Mapping[str, int]) -> list[int]:
    words = example.words or ()
    return [-1] * len(words) if example.tags is None else [index[tag] for tag in example.tags]


def _scaled(value: float | None, scale: tuple[float, float]) -> float:
    low, high = scale
    return math.nan if value is None else (value - low) / (high - low)


def _warn_of_cuts(texts: EncodedTexts, examples: Sequence[Example], name: str, max_length: int) -> None:
    truncated = int(texts.truncated_M.sum())
    if not truncated:
        return
    lost = sum(len(example.words or ()) for example in examples) - len(texts.words.values_T)
    log.warning(
        "%d of %d %s texts are longer than the backbone allows with the prompt (%d positions); their ends were cut.%s",
        truncated,
        len(texts),
        name,
        max_length,
        f" The {lost:,} words cut off count as predicted O." if lost else "",
    )
