"""Where prompt vectors start.

Shapes: P prompt vectors, E embedding width, V vocabulary, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from infoprompt.config import ConfigError
from infoprompt.settings.prompt import StartedPromptSettings


@dataclass(frozen=True)
class Vocabulary:
    """The backbone's word embeddings, and what they stand for."""

    table_VE: Tensor
    tokenizer: Any
    label_texts: tuple[str, ...]

    def mean_embedding(self, text: str) -> Tensor:
        """Mean word embedding of a text's tokens, [E]."""
        return self.embeddings(self.token_ids(text)).mean(0)

    def embeddings(self, ids: Sequence[int]) -> Tensor:
        """Word embeddings of tokens, [P, E]; raises ConfigError for a token behind the table's end."""
        last = max(ids, default=0)
        if last >= len(self.table_VE):
            token = self.tokenizer.convert_ids_to_tokens(last)
            raise ConfigError(
                f"The tokenizer has the token {token!r} with the id {last}, but the backbone has embeddings for "
                f"{len(self.table_VE)} tokens only: it belongs to another model, or had tokens added. "
                "Give the model the tokenizer that it was trained with."
            )
        return self.table_VE[list(ids)]

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
            if index < len(self.table_VE)
            and token.startswith(starts)
            and len(word := token.lstrip("Ġ▁")) >= 3
            and word.isalpha()
        )

    @property
    def scale(self) -> float:
        """Standard deviation of the table's entries about their column means."""
        return float((self.table_VE - self.table_VE.mean(0)).std())


def start_vectors(settings: StartedPromptSettings, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
    """Starting values of the static prompt vectors, [P, E], float32.

    Raises:
        ConfigError: the start does not fit the backbone or the text.
    """
    return STARTS[settings.init](settings, vocabulary, generator)


def _random(settings: StartedPromptSettings, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
    # Column by column at the table's own mean and spread: PEFT's N(0, 1) is some 45 times too large for most models.
    draws_PE = torch.randn(settings.length, vocabulary.table_VE.shape[1], generator=generator)
    return vocabulary.table_VE.mean(0) + draws_PE * vocabulary.table_VE.std(0)


def _vocabulary(settings: StartedPromptSettings, vocabulary: Vocabulary, generator: torch.Generator) -> Tensor:
    words = torch.tensor(vocabulary.whole_words())
    if len(words) < settings.length:
        raise ConfigError(
            f"prompt.init is vocabulary, but this tokenizer has {len(words)} whole words for prompt.length "
            f"{settings.length}. Use prompt.init=random."
        )
    return vocabulary.table_VE[words[torch.randperm(len(words), generator=generator)[: settings.length]]]


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
