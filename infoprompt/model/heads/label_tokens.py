"""The words of labels, as the heads read them that are the model's own.

Shapes: B examples, C classes, S words, E embedding width.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infoprompt.config import ConfigError, RunConfig
from infoprompt.data.pattern import label_stands_alone
from infoprompt.data.task import Task
from infoprompt.model.heads.kind import Head, HeadContext
from infoprompt.settings.head import VerbaliserSettings


class VerbaliserHead(Head):
    """Scores of classes from the model's scores of their words."""

    def __init__(
        self, token_ids: Sequence[Sequence[int]], vectors_CE: Tensor, words: Sequence[int] = (), bias: bool = False
    ) -> None:
        """Read words.

        Args:
            token_ids: of each word, class after class.
            vectors_CE: class vectors.
            words: how many words each class has; one if not given.
            bias: whether each class has a bias, for calibration.
        """
        super().__init__()
        self.token_ids = [list(ids) for ids in token_ids]
        self.words = list(words) or [1] * len(token_ids)
        self.bias_C = nn.Parameter(torch.zeros(len(self.words))) if bias else None
        self.register_buffer("vectors_CE", vectors_CE, False)
        self.vectors_CE: Tensor

    def of_classes(self, scores_BS: Tensor) -> Tensor:
        """Scores of the classes, [B, C], from log probabilities or logits of their words.

        s_c = log(mean over the words w of c of exp(s_w)) + b_c
        """
        scores_BC = scores_BS
        if len(self.words) < scores_BS.shape[1]:
            parts = scores_BS.split(self.words, dim=1)
            scores_BC = torch.stack([part.logsumexp(1) - math.log(part.shape[1]) for part in parts], dim=1)
        return scores_BC if self.bias_C is None else scores_BC + self.bias_C

    def class_vectors(self) -> Tensor:
        """See `Head`; mean word embedding of each class's tokens, [C, E], frozen."""
        return self.vectors_CE


def verbaliser(config: RunConfig, context: HeadContext, end: bool = False) -> dict[str, Any]:
    """What a `VerbaliserHead` is made of. `end`: whether words end with the end token."""
    settings, task, vocabulary = config.head, context.task, context.vocabulary
    assert isinstance(settings, VerbaliserSettings)
    words = words_of_classes(settings, task)
    flat = [word for own in words for word in own]
    ids = label_token_ids(vocabulary.tokenizer, flat, end, alone=label_stands_alone(config.data, task))
    sizes = list(map(len, words))
    starts = [sum(sizes[:label]) for label in range(len(sizes))]
    per_class = [
        [token for word in ids[start : start + size] for token in word]
        for start, size in zip(starts, sizes, strict=True)
    ]
    return {
        "token_ids": ids,
        "vectors_CE": vocabulary.mean_embeddings(per_class),
        "words": sizes,
        "bias": settings.calibration != "none" or settings.fit == "start",
    }


def words_of_classes(settings: VerbaliserSettings, task: Task) -> list[list[str]]:
    """The words of each class, in id order.

    Raises:
        ConfigError: `head.words` names a class that the task does not have, or gives one no words.
    """
    for label, words in settings.words.items():
        if label not in task.labels:
            raise ConfigError(
                f"head.words names {label}, which is not a label of {task.name}. The labels are "
                f"{', '.join(task.labels)}."
            )
        if not words:
            raise ConfigError(f"head.words of {label} is empty. Give words that stand for it, or leave it out.")
    described = zip(task.labels, task.label_texts, strict=True)
    return [settings.words.get(label, [text]) for label, text in described]


def label_token_ids(
    tokenizer: Any, label_texts: Sequence[str], end: bool = False, alone: bool = False
) -> list[list[int]]:
    """Token ids of each label text as it stands behind other words, or if `alone` as it begins a line.

    With the end token if `end` and there is one.

    Raises:
        ConfigError: two labels have the same tokens, so that nothing could tell them apart.
    """
    before, blank = ("\n", "") if alone else ("a", " ")
    ids = [_behind(tokenizer, text, before, blank) for text in label_texts]
    same = next((i for i in range(len(ids)) if ids[i] in ids[:i]), None)
    if same is not None:
        first = ids.index(ids[same])
        raise ConfigError(
            f"The labels {label_texts[first]!r} and {label_texts[same]!r} have the same tokens, so head.kind "
            "label_words or text cannot tell them apart. Give other words by head.words or data.label_texts, or use "
            "head.kind=linear."
        )
    closing = [tokenizer.eos_token_id] if end and tokenizer.eos_token_id is not None else []
    return [part + closing for part in ids]


def _behind(tokenizer: Any, text: str, before: str, blank: str) -> list[int]:
    """Token ids of a text behind another: tokenizers differ in which token a blank between them belongs to."""
    first, whole = (
        list(part) for part in tokenizer([before, f"{before}{blank}{text}"], add_special_tokens=False)["input_ids"]
    )
    ids = whole[len(first) :]
    if not ids:
        raise ConfigError(f"The label words {text!r} have no tokens. Give other words by data.label_texts.")
    return ids
