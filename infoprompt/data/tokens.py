"""A text's tokens, and which of them stands where in the text."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


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


def tokenize(tokenizer: Any, text: str) -> Tokens:
    """Tokenize a text without special tokens."""
    if tokenizer.is_fast:
        encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return Tokens(list(encoding["input_ids"]), [end for _, end in encoding["offset_mapping"]])
    # A tokenizer written in Python knows no offsets; its tokens are placed by how many each longer start of the text
    # has, word by word.
    ids: list[int] = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    ends: list[int] = []
    position = 0
    for word in text.split(" "):
        position += len(word)
        count = len(tokenizer(text[:position], add_special_tokens=False)["input_ids"])
        ends += [position] * max(0, min(count, len(ids)) - len(ends))
        position += 1
    return Tokens(ids, ends + [len(text)] * (len(ids) - len(ends)))
