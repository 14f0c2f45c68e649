"""A tokenised data set, and batches of its rows.

Shapes: B examples (or their choices), L positions, M rows of the data set, S words.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from infoprompt.data.batch import Batch
from infoprompt.data.encoded import EncodedText
from infoprompt.data.rows import Candidate, Example
from infoprompt.data.template import Template

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodedDataset:
    """A tokenized data set; the unprompted states are filled in by `model.unprompted`.

    Of multiple choice, an example's inputs stand next to each other in `texts` and in the states.
    """

    texts: list[EncodedText]
    labels: list[int]
    """Class index of each example, -1 where unknown or where it has none."""
    pad_id: int
    summary_MD: Tensor | None = None
    pooled_MD: Tensor | None = None
    num_choices: int = 1
    """Inputs per example."""
    tags: list[list[int]] | None = None
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
        encoded = template.encode(examples, name)
        texts = [text for inputs in encoded for text in inputs]
        _warn_of_cuts(texts, examples, name, template.max_length)
        index = {label: i for i, label in enumerate(labels)}
        tagged = bool(examples) and examples[0].words is not None
        return cls(
            texts,
            [-1 if example.label is None else index[example.label] for example in examples],
            template.pad_id,
            num_choices=len(encoded[0]) if encoded else 1,
            tags=[_tags(example, index) for example in examples] if tagged else None,
            values=None if scale is None else [_scaled(example.value, scale) for example in examples],
            candidates=[example.candidate for example in examples if example.candidate is not None] or None,
        )

    def __len__(self) -> int:
        return len(self.labels)

    def length(self, row: int) -> int:
        """Positions that the example's longest input takes."""
        return max(len(text.input_ids) for text in self._inputs(row))

    def without_prompt(self) -> "EncodedDataset":
        """The same texts without a prompt's slots, for the unprompted pass."""
        return replace(self, texts=[text.without_prompt() for text in self.texts])

    def batch(self, rows: Sequence[int]) -> Batch:
        """Collate examples, padded on the right to the longest; row -1 repeats row 0 as a filler."""
        texts = [text for row in rows for text in self._inputs(max(row, 0))]
        longest = max(len(text.input_ids) for text in texts)

        def padded(lists: list[list[int]], fill: int) -> Tensor:
            return _padded(lists, longest, fill)

        slot_BL = padded([text.slots for text in texts], -1)
        length_B1 = torch.tensor([[len(text.input_ids)] for text in texts])
        known = [max(row, 0) for row in rows]
        count = self.num_choices
        index_B = torch.tensor([row * count + choice for row in known for choice in range(count)])
        entities = [text.entities for text in texts]
        return Batch(
            input_ids_BL=padded([text.input_ids for text in texts], self.pad_id),
            slot_BL=slot_BL,
            real_BL=(slot_BL < 0) & (torch.arange(longest) < length_B1),
            position_BL=padded([text.positions for text in texts], 0),
            token_type_BL=padded([text.segments for text in texts], 0),
            mask_index_B=torch.tensor([text.mask_index for text in texts]),
            label_B=torch.tensor([self.labels[row] for row in known]).repeat_interleave(count),
            row_B=torch.tensor([-1 if row < 0 else row * count + choice for row in rows for choice in range(count)]),
            summary_BD=None if self.summary_MD is None else self.summary_MD[index_B],
            pooled_BD=None if self.pooled_MD is None else self.pooled_MD[index_B],
            entity_B2=None if None in entities else torch.tensor(entities),
            num_choices=count,
            **self._targets(known, texts),
        )

    def _inputs(self, row: int) -> list[EncodedText]:
        return self.texts[row * self.num_choices : (row + 1) * self.num_choices]

    def _targets(self, rows: Sequence[int], texts: Sequence[EncodedText]) -> dict[str, Any]:
        """The fields of a batch that only tagging or regression has."""
        targets: dict[str, Any] = {}
        if self.tags is not None:
            words = [list(text.words) for text in texts]
            most = max(1, *map(len, words))
            tags = [self.tags[row][: len(kept)] for row, kept in zip(rows, words, strict=True)]
            targets = {"word_BS": _padded(words, most, -1), "tag_BS": _padded(tags, most, -1)}
        if self.values is not None:
            targets["value_B"] = torch.tensor([self.values[row] for row in rows], dtype=torch.float32)
        return targets


def _padded(lists: Sequence[list[int]], size: int, fill: int) -> Tensor:
    return torch.tensor([values + [fill] * (size - len(values)) for values in lists])


def _tags(example: Example, index: Mapping[str, int]) -> list[int]:
    words = example.words or ()
    return [-1] * len(words) if example.tags is None else [index[tag] for tag in example.tags]


def _scaled(value: float | None, scale: tuple[float, float]) -> float:
    low, high = scale
    return math.nan if value is None else (value - low) / (high - low)


def _warn_of_cuts(texts: Sequence[EncodedText], examples: Sequence[Example], name: str, max_length: int) -> None:
    truncated = sum(text.truncated for text in texts)
    if not truncated:
        return
    lost = sum(len(e.words) - len(text.words) for e, text in zip(examples, texts, strict=False) if e.words is not None)
    log.warning(
        "%d of %d %s texts are longer than the backbone allows with the prompt (%d positions); their ends were cut.%s",
        truncated,
        len(texts),
        name,
        max_length,
        f" The {lost:,} words cut off count as predicted O." if lost else "",
    )
