"""Where the prompt stands in the input: from an example to token ids, slots and segments.

Templates of the WARP family (Hambardzumyan et al. 2021; InfoPrompt's released code), P a slot of prompt vectors:

    single    <s> P text P <mask> P P </s>                         (words to tag too)
    pair      <s> P text_a P <mask> P </s> text_b P </s>           (each choice as text_b)
    span      <s> P text with "@ span @" P </s> span P <mask> P </s>
    relation  <s> P text with "@ head @" and "# tail #" P </s> head P <mask> P tail </s>

The mask token stands there only if its state is read (`head.pooling: mask`). `front` puts all vectors after `<s>`;
`before` puts them before it, each with a position of its own, as PEFT does.
A tokenizer without special tokens (GPT-2, Llama) has none of `<s>` and `</s>`; a line break stands between its texts.
With words around the text (`data.template`, see `pattern.py`) all texts stand in one:

    words     <s> P words P <mask> P words P </s>
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from infoprompt.bar import track
from infoprompt.config import ConfigError
from infoprompt.data.encoded import EncodedText
from infoprompt.data.inputs import Input, inputs_of
from infoprompt.data.pattern import Pattern
from infoprompt.data.problems import shown
from infoprompt.data.rows import Example
from infoprompt.data.tokens import TextError, Tokens, tokenize

log = logging.getLogger(__name__)

NUM_SLOTS = 4
AT_ONCE = 1000  # examples that are tokenized in one call


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
    num_embeddings: int | None = None
    """Rows of the backbone's embedding table; unknown if None."""
    pattern: Pattern | None = None
    """The words around the text; None for the layouts above."""

    def __hash__(self) -> int:
        return hash((id(self.tokenizer), self.num_vectors, self.placement, self.use_mask, self.max_length))

    @classmethod
    def probe(
        cls,
        tokenizer: Any,
        *,
        num_vectors: int,
        placement: str,
        use_mask: bool,
        max_length: int,
        num_embeddings: int | None = None,
        pattern: Pattern | None = None,
    ) -> "Template":
        """Learn the special tokens' layout from how the tokenizer joins a pair.

        Args:
            tokenizer: a transformers tokenizer.
            num_vectors: prompt vectors per example that take a position, 0 or more.
            placement: `warp`, `front` or `before`.
            use_mask: whether a mask token is part of the input.
            max_length: positions per example, prompt included.
            num_embeddings: rows of the backbone's embedding table, which no token may lie behind.
            pattern: the words around the text, if there are any.
        Raises:
            ConfigError: the tokenizer has no mask token where one is needed, or nothing is left for text.
        """
        if use_mask and tokenizer.mask_token_id is None:
            raise ConfigError(
                "head.pooling is mask, but this backbone's tokenizer has no mask token. Use head.pooling=mean or "
                "head.pooling=last."
            )
        prefix, middle, suffix, second_segment = _special_tokens(tokenizer)
        if pattern is not None and prefix and pattern.opening[: len(prefix)] == prefix:
            pattern = replace(pattern, opening=pattern.opening[len(prefix) :])
        template = cls(
            *(tokenizer, prefix, middle, suffix, second_segment),
            *(num_vectors, placement, use_mask, max_length, num_embeddings),
            pattern=pattern,
        )
        template._check_embedded([*prefix, *middle, *suffix, *template._mask], "The input's layout")
        if pattern is not None:
            template._check_pattern(pattern)
        elif template._room(2) < 8:
            raise ConfigError(
                f"prompt.length is {num_vectors}, but of {max_length} positions (backbone.max_length) that leaves "
                f"{template._room(2)} for text, and at least 8 are needed. Use a shorter prompt or a longer max_length."
            )
        return template

    def without_words(self) -> "Template":
        """The same for texts that no words stand around."""
        return replace(self, pattern=None)

    def _check_pattern(self, pattern: Pattern) -> None:
        if pattern.names_mask and not self.use_mask:
            raise ConfigError(
                f"data.template is {pattern.template!r}, but head.pooling reads no mask token. Leave {{mask}} out, or "
                "set head.pooling to mask where the backbone has one."
            )
        sides = pattern.fill(dict.fromkeys(pattern.fields, ""))
        words = [token for tokens in tokenize(self.tokenizer, [side.text for side in sides]) for token in tokens.ids]
        taken = [*pattern.opening, *words, *pattern.closing]
        shown = [token for demonstration in pattern.demonstrations for token in demonstration.ids]
        self._check_embedded([*taken, *shown], "data.template")
        room = self._room(1) - len(taken)
        if room < 8:
            raise ConfigError(
                f"data.template takes {len(taken)} tokens and the prompt {self.num_vectors}, but of {self.max_length} "
                f"positions (backbone.max_length) that leaves {max(room, 0)} for text, and at least 8 are needed. Use "
                "a shorter template or prompt, or a longer max_length."
            )
        fitting = pattern.before([], room - 8)
        if len(fitting) < len(shown):
            log.warning(
                "The demonstrations take %d tokens, and at most %d fit before a text (backbone.max_length is %d). As "
                "many stand there as fit.",
                *(len(shown), len(fitting), self.max_length),
            )

    # Both are asked for with every input, and a tokenizer takes its time to answer.
    @cached_property
    def pad_id(self) -> int:
        """What stands at padding and prompt slots; never read, since neither is embedded as a token."""
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(int(token) for token in known if token is not None)

    @cached_property
    def _mask(self) -> list[int]:
        return [self.tokenizer.mask_token_id] if self.use_mask else []

    def encode(self, examples: Sequence[Example], name: str = "given") -> list[list[EncodedText]]:
        """Lay examples out: for each one input, or one for each choice.

        Text that does not fit is cut at its end, the longer text of a pair first. `name`: of the examples, for people.
        """
        return list(self.inputs(examples, name))

    def inputs(self, examples: Sequence[Example], name: str = "given") -> Iterator[list[EncodedText]]:
        """See `encode`; a thousand examples at a time."""
        starts = range(0, len(examples), AT_ONCE)
        for start in track(starts, len(starts), f"tokenizing {name} texts, thousands"):
            yield from self._encode_some(examples[start : start + AT_ONCE])

    def _encode_some(self, examples: Sequence[Example]) -> list[list[EncodedText]]:
        inputs = [inputs_of(example, self.pattern) for example in examples]
        texts = [
            (text, example)
            for example, parts in zip(examples, inputs, strict=True)
            for part in parts
            for text in part.texts
        ]
        try:
            found = tokenize(self.tokenizer, [text for text, _ in texts])
        except TextError as error:
            raise ConfigError(f"{_name(*texts[error.index])} {error}. Correct the row, or remove it.") from None
        for tokens_of_text, (text, example) in zip(found, texts, strict=True):
            if self._beyond(tokens_of_text.ids):
                self._check_embedded(tokens_of_text.ids, _name(text, example))
        tokens = iter(found)
        tokens_of = [[[next(tokens) for _ in part.texts] for part in parts] for parts in inputs]
        if self.pattern is not None:
            pairs = zip(inputs, tokens_of, strict=True)
            return [self._lay_words_out(self.pattern, parts, tokens) for parts, tokens in pairs]
        return [
            [self._lay_out(part, tokens) for part, tokens in zip(parts, own, strict=True)]
            for parts, own in zip(inputs, tokens_of, strict=True)
        ]

    def _beyond(self, ids: Sequence[int]) -> bool:
        return self.num_embeddings is not None and bool(ids) and max(ids) >= self.num_embeddings

    def _check_embedded(self, ids: Sequence[int], what: str) -> None:
        """Raise ConfigError, which calls the text `what`, if the backbone has no embedding for one of its tokens."""
        if self._beyond(ids):
            last = max(ids)
            raise ConfigError(
                f"{what} has the token {self.tokenizer.convert_ids_to_tokens(last)!r} with the id {last}, but the "
                f"backbone has embeddings for {self.num_embeddings} tokens only: its tokenizer belongs to another "
                "model, or had tokens added. Give the model the tokenizer that it was trained with."
            )

    def __call__(self, example: Example) -> EncodedText:
        """Lay one example without choices out."""
        return self.encode([example])[0][0]

    def _lay_out(self, part: Input, tokens: Sequence[Tokens]) -> EncodedText:
        fitted = _fit([text.ids for text in tokens], self._room(len(tokens)))
        ids, slots, segments, starts = self._assemble(fitted, part.layout)

        def position(token: int) -> int | None:
            """Position of a token of the first text; None if it was cut."""
            return starts["text 0"] + token if token < len(fitted[0]) else None

        words = [position(token) for token in tokens[0].at(part.words)]
        markers = [position(token) for token in tokens[0].at(part.entities)]
        # Where a marker was cut off, the entity still stands behind the text.
        found = [starts[f"text {side}"] if place is None else place for side, place in enumerate(markers, 1)]
        return EncodedText(
            ids,
            slots,
            segments,
            mask_index=starts.get("mask", 0),
            truncated=any(len(kept) < len(text.ids) for kept, text in zip(fitted, tokens, strict=True)),
            words=tuple(place for place in words if place is not None),
            marked=(found[0], found[1]) if found else None,
            slots_counted=self.placement == "before",
        )

    def _lay_words_out(
        self, pattern: Pattern, parts: Sequence[Input], tokens: Sequence[Sequence[Tokens]]
    ) -> list[EncodedText]:
        """The inputs of an example. Its choices have the same before them, which leaves room for the longest one."""
        pieces = [
            [side.pieces(found) for side, found in zip(part.sides, own, strict=True)]
            for part, own in zip(parts, tokens, strict=True)
        ]
        longest = max(pieces, key=lambda sides: sum(len(ids) for side in sides for ids, _ in side))
        given = [ids for side in longest for ids, field in side if field]
        words = max(sum(len(ids) for side in sides for ids, field in side if not field) for sides in pieces)
        room = self._room(1) - len(pattern.opening) - len(pattern.closing) - words
        sizes = [len(ids) for ids in _fit(given, room)]
        before = [*pattern.opening, *pattern.before([part.values for part in parts], room - sum(sizes))]
        return [self._with_words(pattern, sides, before, sizes) for sides in pieces]

    def _with_words(
        self, pattern: Pattern, sides: Sequence["_Pieces"], before: Sequence[int], sizes: Sequence[int]
    ) -> EncodedText:
        """One of them; `sizes`: tokens that each text filled in has at most."""
        left, cut = iter(sizes), False
        joined: list[list[int]] = [[] for _ in sides]
        choice: tuple[int, int, int] | None = None
        for number, side in enumerate(sides):
            for ids, field in side:
                kept = ids[: next(left)] if field else ids
                cut = cut or len(kept) < len(ids)
                if field == "choice":
                    choice = number, len(joined[number]), len(kept)
                joined[number] += kept
        joined[0] = [*before, *joined[0]]
        joined[-1] = [*joined[-1], *pattern.closing]
        ids, slots, segments, starts = self._assemble([*joined, []][:2], "words")
        marked = None
        if choice is not None:
            number, first, size = choice
            first += starts[f"text {number}"] + (0 if number else len(before))
            marked = first, first + size - 1
        return EncodedText(
            ids,
            slots,
            segments,
            mask_index=starts.get("mask", 0),
            truncated=cut,
            marked=marked,
            slots_counted=self.placement == "before",
        )

    def _room(self, num_texts: int) -> int:
        special = len(self.prefix) + len(self.suffix) + (num_texts > 1) * len(self.middle)
        return self.max_length - self.num_vectors - special - self.use_mask

    def _assemble(
        self, texts: Sequence[list[int]], layout: str
    ) -> tuple[list[int], list[int], list[int], dict[str, int]]:
        """Ids, slots and segments of the whole input, and where the texts and the mask start."""
        parts = {f"text {index}": tokens for index, tokens in enumerate(texts)}
        parts |= {"prefix": [*self.prefix], "middle": [*self.middle], "suffix": [*self.suffix]}
        parts["mask"] = self._mask
        sizes = [self.num_vectors // NUM_SLOTS + (i < self.num_vectors % NUM_SLOTS) for i in range(NUM_SLOTS)]
        if self.placement == "front":
            sizes = [self.num_vectors, 0, 0, 0]
        first = self.num_vectors if self.placement == "before" else 0
        if first:
            sizes = [0, 0, 0, 0]
        ids: list[int] = [self.pad_id] * first
        slots: list[int] = list(range(first))
        segments: list[int] = [0] * first
        starts: dict[str, int] = {}
        placed = first
        for name, num_slots, segment in _LAYOUTS[layout]:
            if parts[name] or name != "mask":
                starts[name] = len(ids)
            size = sum(sizes[:num_slots])
            del sizes[:num_slots]
            ids += parts[name] + [self.pad_id] * size
            slots += [-1] * len(parts[name]) + list(range(placed, placed + size))
            segments += [segment * self.second_segment] * (len(parts[name]) + size)
            placed += size
        return ids, slots, segments, starts


# What stands there in turn, how many prompt slots follow it, and its segment.
_LAYOUTS: dict[str, list[tuple[str, int, int]]] = {
    "single": [("prefix", 1, 0), ("text 0", 1, 0), ("mask", 2, 0), ("suffix", 0, 0)],
    "pair": [
        ("prefix", 1, 0),
        ("text 0", 1, 0),
        ("mask", 1, 0),
        ("middle", 0, 0),
        ("text 1", 1, 1),
        ("suffix", 0, 1),
    ],
    "words": [("prefix", 1, 0), ("text 0", 1, 0), ("mask", 1, 0), ("text 1", 1, 0), ("suffix", 0, 0)],
    "relation": [
        ("prefix", 1, 0),
        ("text 0", 1, 0),
        ("middle", 0, 0),
        ("text 1", 1, 1),
        ("mask", 1, 1),
        ("text 2", 0, 1),
        ("suffix", 0, 1),
    ],
    "span": [
        ("prefix", 1, 0),
        ("text 0", 1, 0),
        ("middle", 0, 0),
        ("text 1", 1, 1),
        ("mask", 1, 1),
        ("suffix", 0, 1),
    ],
}


_Pieces = list[tuple[list[int], str | None]]
"""See `Filled.pieces`."""


def _special_tokens(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    """What stands before, between and behind two texts, and the segment of the second one."""
    text = tokenizer("a", add_special_tokens=False)["input_ids"]
    has_segments = "token_type_ids" in tokenizer.model_input_names
    pair = tokenizer("a", "a", return_token_type_ids=has_segments)
    ids, size = pair["input_ids"], len(text)
    first = _find(ids, text, 0)
    second = _find(ids, text, first + size)
    middle = ids[first + size : second]
    if not {tokenizer.sep_token_id, tokenizer.eos_token_id} & set(middle):
        # Nothing, or a second start token: neither keeps the texts apart.
        ends = [token for token in (tokenizer.eos_token_id,) if token is not None]
        middle = tokenizer("\n", add_special_tokens=False)["input_ids"] or ends or middle
    second_segment = int(pair["token_type_ids"][second]) if has_segments else 0
    return tuple(ids[:first]), tuple(middle), tuple(ids[second + size :]), second_segment


def _name(text: str, example: Example) -> str:
    """What an error calls a text."""
    return example.where or f"The text {shown(text)}"


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
