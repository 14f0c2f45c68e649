"""Inputs as token ids and prompt slots: one, not padded, and those of a data set as flat arrays.

Shapes: B examples (or their choices), L positions, M rows (inputs of all examples).
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from infoprompt.data.ragged import Ragged, compact, starts_of

BLOCK_ROWS = 50_000
"""Rows whose prompt slots are taken out at a time."""


@dataclass(frozen=True)
class EncodedText:
    """One input, not padded; the lists run over its positions."""

    input_ids: list[int]
    slots: list[int]
    """Index of the prompt vector, -1 at a real token."""
    segments: list[int]
    mask_index: int
    """Position of the mask token, 0 where there is none."""
    truncated: bool
    words: tuple[int, ...] = ()
    """Position of each word's first token, for tagging; words that were cut off are not there."""
    marked: tuple[int, int] | None = None
    """Of a relation: positions of the markers that open its two entities. Of a choice with words around it: those of
    its first and its last token."""
    slots_counted: bool = False
    """Whether a prompt slot counts as a position, so that the real tokens behind it move."""


@dataclass(frozen=True, eq=False)
class EncodedTexts:
    """The inputs of a data set; see `EncodedText`."""

    input_ids: Ragged
    slots: Ragged
    segments: Ragged
    words: Ragged
    mask_index_M: np.ndarray
    truncated_M: np.ndarray
    marked_M2: np.ndarray
    """-1 where an input has none."""
    slots_counted: bool
    """The same for all."""

    @classmethod
    def of(cls, texts: Iterable[EncodedText]) -> "EncodedTexts":
        """The inputs as arrays; they are read once, and none is kept."""
        ids, slots, segments, words, facts = (array("i") for _ in range(5))
        counted = set()
        for text in texts:
            ids.extend(text.input_ids)
            slots.extend(text.slots)
            segments.extend(text.segments)
            words.extend(text.words)
            facts.extend([len(text.input_ids), len(text.words), text.mask_index, text.truncated])
            facts.extend(text.marked or (-1, -1))
            counted.add(text.slots_counted)
        assert len(counted) < 2, "one template makes all inputs of a data set"
        facts_M6 = np.asarray(facts).reshape(-1, 6)
        starts = starts_of(facts_M6[:, 0])
        return cls(
            Ragged(compact(ids), starts),
            Ragged(compact(slots), starts),
            Ragged(compact(segments), starts),
            Ragged(compact(words), starts_of(facts_M6[:, 1])),
            mask_index_M=compact(facts_M6[:, 2]),
            truncated_M=facts_M6[:, 3] > 0,
            marked_M2=compact(facts_M6[:, 4:]),
            slots_counted=True in counted,
        )

    @classmethod
    def joined(cls, parts: Sequence["EncodedTexts"]) -> "EncodedTexts":
        """The inputs of all parts, of one template, behind each other."""

        def rows(name: str) -> np.ndarray:
            return np.concatenate([getattr(part, name) for part in parts])

        ragged = {
            name: Ragged.joined([getattr(part, name) for part in parts])
            for name in ("input_ids", "slots", "segments", "words")
        }
        return cls(
            **ragged,
            mask_index_M=compact(rows("mask_index_M")),
            truncated_M=rows("truncated_M"),
            marked_M2=compact(rows("marked_M2")),
            slots_counted=parts[0].slots_counted,
        )

    def __len__(self) -> int:
        return len(self.mask_index_M)

    def __getitem__(self, row: int) -> EncodedText:
        first, second = self.marked_M2[row].tolist()
        return EncodedText(
            self.input_ids[row],
            self.slots[row],
            self.segments[row],
            mask_index=int(self.mask_index_M[row]),
            truncated=bool(self.truncated_M[row]),
            words=tuple(self.words[row]),
            marked=None if first < 0 else (first, second),
            slots_counted=self.slots_counted,
        )

    def without_prompt(self) -> "EncodedTexts":
        """The same inputs with their prompt slots taken out."""
        blocks = range(0, max(1, len(self)), BLOCK_ROWS)  # what is held beside the result takes 20 bytes a token
        return EncodedTexts.joined([self._rows(start, start + BLOCK_ROWS)._without_prompt() for start in blocks])

    def _rows(self, start: int, end: int) -> "EncodedTexts":
        return EncodedTexts(
            self.input_ids.part(start, end),
            self.slots.part(start, end),
            self.segments.part(start, end),
            self.words.part(start, end),
            mask_index_M=self.mask_index_M[start:end],
            truncated_M=self.truncated_M[start:end],
            marked_M2=self.marked_M2[start:end],
            slots_counted=self.slots_counted,
        )

    def _without_prompt(self) -> "EncodedTexts":
        real_T = self.slots.values_T < 0
        new = starts_of(real_T)  # of each place in the arrays
        starts = self.input_ids.starts

        def moved(positions: np.ndarray, first: np.ndarray) -> np.ndarray:
            return compact(new[first + positions] - new[first])

        def kept(part: Ragged) -> Ragged:
            return Ragged(part.values_T[real_T], new[starts])

        first_M = starts[:-1]
        return EncodedTexts(
            kept(self.input_ids),
            kept(self.slots),
            kept(self.segments),
            replace(self.words, values_T=moved(self.words.values_T, first_M.repeat(self.words.lengths_M))),
            mask_index_M=moved(self.mask_index_M, first_M),
            truncated_M=self.truncated_M,
            marked_M2=np.where(self.marked_M2 < 0, -1, moved(self.marked_M2, first_M[:, None])),
            slots_counted=False,
        )

    def padded(self, rows_B: np.ndarray, pad_id: int) -> dict[str, Any]:
        """The fields of a `Batch` that run over positions, and those that hold some."""
        found = self.input_ids.find(rows_B)
        slot_BL = found.padded(self.slots.values_T, -1)
        real_BL = slot_BL.numpy() < 0
        # A prompt slot has its left neighbour's index among the real tokens, so these keep theirs.
        count_BL = np.ones_like(real_BL) if self.slots_counted else real_BL
        position_BL = (count_BL.cumsum(1) - 1).clip(0) * found.filled_BL
        marked_B2 = self.marked_M2[rows_B]
        return {
            "input_ids_BL": found.padded(self.input_ids.values_T, pad_id),
            "slot_BL": slot_BL,
            "real_BL": torch.from_numpy(real_BL & found.filled_BL),
            "position_BL": torch.from_numpy(position_BL),
            "token_type_BL": found.padded(self.segments.values_T, 0),
            "mask_index_B": torch.from_numpy(self.mask_index_M[rows_B].astype(np.int64)),
            **({} if (marked_B2 < 0).any() else {"marked_B2": torch.from_numpy(marked_B2.astype(np.int64))}),
        }
