"""A text's tokens, and which of them stands where in the text.

A special token that is written in a text (`[SEP]`, `</s>`) is text there, and not the token: only the template places
special tokens.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infoprompt.data.opening import lone_surrogate


class TextError(ValueError):
    """A text that cannot be made into tokens."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index
        """Which of the texts."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of a text, without special tokens."""

    ids: list[int]
    ends: list[int]
    """Character behind each token, ascending."""

    def at(self, characters: Sequence[int]) -> list[int]:
        """For each character, the first token that ends behind it; `len(ids)` where there is none.

        That is the first token of the word which starts there; a word that the tokenizer drops has its successor's.
        """
        return [bisect_right(self.ends, character) for character in characters]


def tokenize(tokenizer: Any, texts: Sequence[str]) -> list[Tokens]:
    """Tokenize texts without special tokens; many in one call, which is several times as fast as one by one.

    Raises:
        TextError: a text holds half a character, or a special token that the tokenizer cannot read as text.
    """
    for index, text in enumerate(texts):
        if half := lone_surrogate(text):
            raise TextError(index, f"holds half a character, {half}, which no text can hold alone")
    if not texts:
        return []
    special = special_tokens(tokenizer)
    found = _tokenized(tokenizer, texts)
    for index, tokens in enumerate(found):
        if not special.keys().isdisjoint(tokens.ids):
            found[index] = _taken_apart(tokenizer, texts[index], index, special)
    return found


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """Id to form of every special token but that for unknown words, which stands in texts by right."""
    added = {
        number: str(token.content)
        for number, token in getattr(tokenizer, "added_tokens_decoder", {}).items()
        if token.special
    }
    named = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    return {number: form for number, form in (added | named).items() if number != tokenizer.unk_token_id and form}


def _tokenized(tokenizer: Any, texts: Sequence[str]) -> list[Tokens]:
    if not tokenizer.is_fast:
        return [_placed_by_count(tokenizer, text) for text in texts]
    encoding = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    offsets = ([end for _, end in places] for places in encoding["offset_mapping"])
    return [Tokens(ids, ends) for ids, ends in zip(encoding["input_ids"], offsets, strict=True)]


def _taken_apart(tokenizer: Any, text: str, index: int, special: dict[int, str]) -> Tokens:
    """Tokens of a text whose special tokens have a blank behind their first character.

    A vocabulary of whole pieces (SentencePiece) finds `</s>` in a text although it is not told to look for it.
    """
    forms = sorted((form for form in special.values() if len(form) > 1), key=len, reverse=True)
    blanks: list[int] = []  # where they were put in, in characters of the text

    def parted(found: re.Match[str]) -> str:
        blanks.append(found.start() + 1)
        return f"{found.group()[0]} {found.group()[1:]}"

    apart = re.sub("|".join(map(re.escape, forms)) or r"(?!)", parted, text)
    (tokens,) = _tokenized(tokenizer, [apart])
    if left := next((special[token] for token in tokens.ids if token in special), None):
        raise TextError(index, f"holds {left!r}, which this backbone's tokenizer takes for a token of its own")
    places = [place + number for number, place in enumerate(blanks)]  # the same in characters of `apart`
    return Tokens(tokens.ids, [end - bisect_right(places, end - 1) for end in tokens.ends])


def _placed_by_count(tokenizer: Any, text: str) -> Tokens:
    # A tokenizer written in Python knows no offsets; its tokens are placed by how many each longer start of the text
    # has, word by word.
    def ids_of(part: str) -> list[int]:
        return list(tokenizer(part, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    ids = ids_of(text)
    ends: list[int] = []
    position = 0
    for word in text.split(" "):
        position += len(word)
        count = len(ids_of(text[:position]))
        ends += [position] * max(0, min(count, len(ids)) - len(ends))
        position += 1
    return Tokens(ids, ends + [len(text)] * (len(ids) - len(ends)))
