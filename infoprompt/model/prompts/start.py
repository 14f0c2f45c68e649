"""Where prompt vectors start.

Shapes: P prompt vectors, E embedding width, V vocabulary, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from infoprompt.config import ConfigError
from infoprompt.settings.prompt import StartedPromptSettings


class WordTable(Protocol):
    """The backbone's word embeddings, float32, on the CPU."""

    @property
    def num_embeddings(self) -> int:
        """V."""

    @property
    def embedding_size(self) -> int:
        """E."""

    def embedding_rows(self, ids: Sequence[int]) -> Tensor:
        """Those of some tokens, [P, E]; where the table is in parts, all ranks ask for the same."""

    def embedding_table(self) -> Tensor:
        """A copy of all, [V, E], which is gigabytes for a large model."""


@dataclass(frozen=True)
class Vocabulary:
    """The backbone's word embeddings, and what they stand for."""

    table: WordTable
    tokenizer: Any
    label_texts: tuple[str, ...]

    def mean_embedding(self, text: str) -> Tensor:
        """Mean word embedding of a text's tokens, [E]."""
        return self.embeddings(self.token_ids(text)).mean(0)

    def mean_embeddings(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Mean word embedding of each text's tokens, [C, E]."""
        return torch.stack([self.embeddings(ids).mean(0) for ids in texts])

    def embeddings(self, ids: Sequence[int]) -> Tensor:
        """Word embeddings of tokens, [P, E]; raises ConfigError for a token behind the table's end."""
        last = max(ids, default=0)
        if last >= self.table.num_embeddings:
            token = self.tokenizer.convert_ids_to_tokens(last)
            raise ConfigError(
                f"The tokenizer has the token {token!r} with the id {last}, but the backbone has embeddings for "
                f"{self.table.num_embeddings} tokens only: it belongs to another model, or had tokens added. "
                "Give the model the tokenizer that it was trained with."
            )
        return self.table.embedding_rows(ids)

    def token_ids(self, text: str) -> list[int]:
        """Token ids without special tokens."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def whole_words(self) -> list[int]:
        """Ids of tokens that are words: no specials, no unused or partial ones, nothing under three letters."""
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        partial = any(token.startswith("##") for token in vocabulary)
        starts = ("",) if partial else ("Ġ", "▁")
        return sorted(
            index
            for token, index in vocabulary.items()
            if index < self.table.num_embeddings
            and token.startswith(starts)
            and len(word := token.lstrip("Ġ▁")) >= 3
            and word.isalpha()
        )

    @cached_property
    def scale(self) -> float:
        """Standard deviation of the table's entries about their column means."""
        table_VE = self.table.embedding_table()
        return float((table_VE - table_VE.mean(0)).std())

    def random_embeddings(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws at the table's own mean and spread, column by column, [P, E]."""
        draws_PE = torch.randn(count, self.table.embedding_size, generator=generator)
        table_VE = self.table.embedding_table()
        return table_VE.mean(0) + draws_PE * table_VE.std(0)


def start_vectors(settings: StartedPromptSettings, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
    """Starting values of the static prompt vectors, [P, E], float32.

    Raises:
        ConfigError: the start does not fit the backbone or the text.
    """
    return STARTS[settings.init](settings, vocabulary, generator)


def _random(settings: StartedPromptSettings, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
    # PEFT's N(0, 1) is some 45 times too large for most models.
    return vocabulary.random_embeddings(settings.length, generator)


def _vocabulary(settings: StartedPromptSettings, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
    words = vocabulary.whole_words()
    if len(words) < settings.length:
        raise ConfigError(
            f"prompt.init is vocabulary, but this tokenizer has {len(words)} whole words for prompt.length "
            f"{settings.length}. Use prompt.init=random."
        )
    order = torch.randperm(len(words), generator=generator)[: settings.length].tolist()
    return vocabulary.embeddings([words[index] for index in order])


def _text(settings: StartedPromptSettings, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
    ids = vocabulary.token_ids(settings.text or "")
    if not ids:
        raise ConfigError(f"prompt.text is {settings.text!r}, which has no tokens. Give some words.")
    return vocabulary.embeddings(_cycled(ids, settings.length))


def _labels(settings: StartedPromptSettings, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
    order = torch.randperm(len(vocabulary.label_texts), generator=generator).tolist()
    texts = [vocabulary.label_texts[i] for i in _cycled(order, settings.length)]
    return torch.stack([vocabulary.mean_embedding(text) for text in texts])


def _mask(settings: StartedPromptSettings, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
    mask_id = vocabulary.tokenizer.mask_token_id
    if mask_id is None:
        raise ConfigError("prompt.init is mask, but this backbone's tokenizer has no mask token. Use vocabulary.")
    return vocabulary.embeddings([mask_id]).repeat(settings.length, 1)


def _cycled(values: Sequence[int], size: int) -> list[int]:
    return [values[i % len(values)] for i in range(size)]


STARTS: dict[str, Callable[[StartedPromptSettings, Vocabulary, torch.Generator], Tensor]] = {
    "random": _random,
    "vocabulary": _vocabulary,
    "text": _text,
    "labels": _labels,
    "mask": _mask,
}
