"""Where the prompt stands in the input: from an example to token ids, slots and segments.

Templates of the WARP family (Hambardzumyan et al. 2021; InfoPrompt's released code), P a slot of prompt vectors:

    single    <s> P text P <mask> P P </s>
    pair      <s> P text_a P <mask> P </s> text_b P </s>
    relation  <s> P text with "@ head @" and "# tail #" P </s> head P <mask> P tail </s>

The mask token stands there only if its state is read (`head.pooling: mask`). `front` puts all vectors after `<s>`;
`before` puts them before `<s>`, each with a position of its own, as PEFT does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infoprompt.config import ConfigError
from infoprompt.data.rows import Example

NUM_SLOTS = 4


@dataclass(frozen=True)
class EncodedText:
    """One example, not padded; the lists run over its positions."""

    input_ids: list[int]
    slots: list[int]
    """Index of the prompt vector, -1 at a real token."""
    segments: list[int]
    mask_index: int
    """Position of the mask token, 0 where there is none."""
    truncated: bool
    slots_counted: bool = False
    """Whether a prompt slot counts as a position, so that the real tokens behind it move."""

    @property
    def positions(self) -> list[int]:
        """Index among the real tokens; a prompt slot has its left neighbour's, so real tokens keep theirs."""
        if self.slots_counted:
            return list(range(len(self.slots)))
        count = -1
        positions = []
        for slot in self.slots:
            count += slot < 0
            positions.append(count)
        return positions

    def without_prompt(self) -> "EncodedText":
        """The same text with its prompt slots taken out."""
        kept = [index for index, slot in enumerate(self.slots) if slot < 0]
        return EncodedText(
            input_ids=[self.input_ids[index] for index in kept],
            slots=[-1] * len(kept),
            segments=[self.segments[index] for index in kept],
            mask_index=kept.index(self.mask_index),
            truncated=self.truncated,
        )


@dataclass(frozen=True)
class Template:
    """How examples become input; made once per run by `Template.probe`."""

    tokenizer: Any
    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]
    second_segment: int
    num_vectors: int
    placement: str
    use_mask: bool
    max_length: int

    @classmethod
    def probe(cls, tokenizer: Any, *, num_vectors: int, placement: str, use_mask: bool, max_length: int) -> "Template":
        """Learn the special tokens' layout from how the tokenizer joins a pair.

        Args:
            tokenizer: a transformers tokenizer.
            num_vectors: prompt vectors per example.
            placement: `warp`, `front` or `before`.
            use_mask: whether a mask token is part of the input.
            max_length: positions per example, prompt included.
        Raises:
            ConfigError: the tokenizer has no mask token where one is needed, or nothing is left for text.
        """
        if use_mask and tokenizer.mask_token_id is None:
            raise ConfigError(
                "head.pooling is mask, but this backbone's tokenizer has no mask token. Use head.pooling=mean."
            )
        text = tokenizer("a", add_special_tokens=False)["input_ids"]
        pair = tokenizer("a", "a", return_token_type_ids=True)
        ids, size = pair["input_ids"], len(text)
        first = _find(ids, text, 0)
        second = _find(ids, text, first + size)
        template = cls(
            tokenizer,
            prefix=tuple(ids[:first]),
            middle=tuple(ids[first + size : second]),
            suffix=tuple(ids[second + size :]),
            second_segment=int(pair["token_type_ids"][second]),
            num_vectors=num_vectors,
            placement=placement,
            use_mask=use_mask,
            max_length=max_length,
        )
        if template._room(2) < 8:
            raise ConfigError(
                f"prompt.length is {num_vectors}, but of {max_length} positions (backbone.max_length) that leaves "
                f"{template._room(2)} for text, and at least 8 are needed. Use a shorter prompt or a longer max_length."
            )
        return template

    def __call__(self, example: Example) -> EncodedText:
        """Lay one example out; text that does not fit is cut at its end, the longer text of a pair first."""
        if example.head is not None:
            texts = [_marked(example), example.text[slice(*_bounds(example.head))]]
            texts.append(example.text[slice(*_bounds(example.tail))])
        else:
            texts = [example.text] if example.pair is None else [example.text, example.pair]
        tokens = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        fitted = _fit(tokens, self._room(len(tokens)))
        ids, slots, segments = self._assemble(fitted)
        mask_index = ids.index(self.tokenizer.mask_token_id) if self.use_mask else 0
        counted = self.placement == "before"
        return EncodedText(ids, slots, segments, mask_index, truncated=fitted != tokens, slots_counted=counted)

    def _room(self, num_texts: int) -> int:
        special = len(self.prefix) + len(self.suffix) + (len(self.middle) if num_texts > 1 else 0)
        return self.max_length - self.num_vectors - special - self.use_mask

    def _assemble(self, texts: Sequence[list[int]]) -> tuple[list[int], list[int], list[int]]:
        mask = [self.tokenizer.mask_token_id] if self.use_mask else []
        prefix, middle, suffix = list(self.prefix), list(self.middle), list(self.suffix)
        # each row: tokens, then whether a slot follows, then the segment
        if len(texts) == 1:
            layout = [(prefix, 1, 0), (texts[0], 1, 0), (mask, 2, 0), (suffix, 0, 0)]
        elif len(texts) == 2:
            layout = [(prefix, 1, 0), (texts[0], 1, 0), (mask, 1, 0), (middle, 0, 0), (texts[1], 1, 1), (suffix, 0, 1)]
        else:
            layout = [(prefix, 1, 0), (texts[0], 1, 0), (middle, 0, 0), (texts[1], 1, 1), (mask, 1, 1)]
            layout += [(texts[2], 0, 1), (suffix, 0, 1)]
        sizes = [self.num_vectors // NUM_SLOTS + (i < self.num_vectors % NUM_SLOTS) for i in range(NUM_SLOTS)]
        if self.placement in ("front", "before"):
            sizes = [self.num_vectors, 0, 0, 0]
        if self.placement == "before":
            layout.insert(0, ([], 1, 0))
        ids: list[int] = []
        slots: list[int] = []
        segments: list[int] = []
        placed = 0
        for tokens, num_slots, segment in layout:
            size = sum(sizes[:num_slots])
            del sizes[:num_slots]
            ids += tokens + [self.tokenizer.pad_token_id] * size
            slots += [-1] * len(tokens) + list(range(placed, placed + size))
            segments += [segment * self.second_segment] * (len(tokens) + size)
            placed += size
        return ids, slots, segments


def _marked(example: Example) -> str:
    spans = sorted([(*_bounds(example.head), "@"), (*_bounds(example.tail), "#")], reverse=True)
    text = example.text
    for start, end, marker in spans:
        text = f"{text[:start]} {marker} {text[start:end]} {marker} {text[end:]}"
    return " ".join(text.split())


def _bounds(span: Any) -> tuple[int, int]:
    return span.start, span.end


def _find(ids: list[int], part: list[int], start: int) -> int:
    return next(i for i in range(start, len(ids)) if ids[i : i + len(part)] == part)


def _fit(tokens: list[list[int]], room: int) -> list[list[int]]:
    # Named entities stand again behind the text and are short, so the first text (or the longer of a pair) gives way.
    fitted = [list(part) for part in tokens]
    while (excess := sum(map(len, fitted)) - room) > 0:
        longest = max(fitted, key=len)
        others = sorted((len(part) for part in fitted if part is not longest), reverse=True)
        step = max(1, min(excess, len(longest) - (others[0] if others else 0)))
        del longest[len(longest) - step :]
    return fitted
