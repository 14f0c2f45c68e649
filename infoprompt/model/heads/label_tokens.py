"""The tokens of label texts, as the heads read them that are the model's own."""

from collections.abc import Sequence
from typing import Any

from infoprompt.config import ConfigError


def label_token_ids(tokenizer: Any, label_texts: Sequence[str], end: bool = False) -> list[list[int]]:
    """Token ids of each label text as it stands behind other words, with the end token if `end` and there is one.

    Raises:
        ConfigError: two labels have the same tokens, so that nothing could tell them apart.
    """
    ids = [_behind_a_word(tokenizer, text) for text in label_texts]
    same = next((i for i in range(len(ids)) if ids[i] in ids[:i]), None)
    if same is not None:
        first = ids.index(ids[same])
        raise ConfigError(
            f"The labels {label_texts[first]!r} and {label_texts[same]!r} have the same tokens, so head.kind "
            "label_words or text cannot tell them apart. Give other words by data.label_texts, or use head.kind=linear."
        )
    closing = [tokenizer.eos_token_id] if end and tokenizer.eos_token_id is not None else []
    return [part + closing for part in ids]


def _behind_a_word(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text behind a word and a blank: tokenizers differ in which token the blank belongs to."""
    before, whole = (list(part) for part in tokenizer(["a", f"a {text}"], add_special_tokens=False)["input_ids"])
    ids = whole[len(before) :]
    if not ids:
        raise ConfigError(f"The label words {text!r} have no tokens. Give other words by data.label_texts.")
    return ids
