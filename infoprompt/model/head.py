"""From a pooled state to label scores.

Letters: B examples, C classes, D hidden width, E embedding width, Z latent width, W width of the class vectors.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infoprompt.config import ConfigError
from infoprompt.data.tasks import Task
from infoprompt.objective.encoding import Latent


class GaussianLayer(nn.Module):
    """A state's Gaussian latent: two linear layers, log standard deviation clipped to [-2, 10].

    Source: InfoPrompt's released code (arXiv:2306.04933).
    """

    def __init__(self, hidden_size: int, latent_size: int) -> None:
        super().__init__()
        self.mean = nn.Linear(hidden_size, latent_size)
        self.log_std = nn.Linear(hidden_size, latent_size)

    def forward(self, state_BD: Tensor) -> Latent:
        """The latent of pooled states, [B, D]."""
        return Latent(self.mean(state_BD), self.log_std(state_BD).clamp(-2, 10))


class LinearHead(nn.Module):
    """Scores x . w_c + b_c of the pooled state itself; the rows of its weight are the class vectors."""

    def __init__(self, hidden_size: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, num_classes)
        nn.init.zeros_(self.linear.bias)

    def forward(self, pooled_BD: Tensor, latent_BZ: Tensor | None) -> Tensor:
        """Label scores, [B, C]."""
        scores_BC: Tensor = self.linear(pooled_BD)
        return scores_BC

    def class_vectors(self) -> Tensor:
        """One vector per class, [C, D]."""
        return self.linear.weight


class VariationalHead(nn.Module):
    """Scores O(z) . h_c of a latent z, without bias. Source: InfoPrompt's released code (arXiv:2306.04933)."""

    def __init__(self, latent_size: int, start_CE: Tensor) -> None:
        super().__init__()
        self.out = nn.Linear(latent_size, start_CE.shape[1])
        self.vectors_CE = nn.Parameter(start_CE.clone())

    def forward(self, pooled_BD: Tensor, latent_BZ: Tensor | None) -> Tensor:
        """Label scores, [B, C], of latents, [B, Z]."""
        assert latent_BZ is not None
        scores_BC: Tensor = self.out(latent_BZ) @ self.vectors_CE.T
        return scores_BC

    def class_vectors(self) -> Tensor:
        """One vector per class, [C, E]."""
        return self.vectors_CE


class LabelWordsHead(nn.Module):
    """Scores of the label words by the model's own language-model head, the mean over a label's tokens; not trained.

    Source: the manual verbaliser of PET, Schick and Schuetze 2021.
    """

    def __init__(self, token_ids: Sequence[Sequence[int]], table_VE: Tensor) -> None:
        super().__init__()
        self.flat_ids = [token for ids in token_ids for token in ids]
        self.sizes = [len(ids) for ids in token_ids]
        self.register_buffer("vectors_CE", torch.stack([table_VE[list(ids)].mean(0) for ids in token_ids]), False)
        self.vectors_CE: Tensor

    def gather(self, scores_BN: Tensor) -> Tensor:
        """Label scores, [B, C], from the scores of `flat_ids`, [B, N]."""
        return torch.stack([part.mean(1) for part in scores_BN.split(self.sizes, dim=1)], dim=1)

    def class_vectors(self) -> Tensor:
        """Mean word embedding of each label's tokens, [C, E]; frozen."""
        return self.vectors_CE


class TextHead(nn.Module):
    """Log probabilities of the whole label texts, by the model itself; not trained."""

    def __init__(self, token_ids: Sequence[Sequence[int]], table_VE: Tensor) -> None:
        super().__init__()
        self.token_ids = [list(ids) for ids in token_ids]
        self.register_buffer("vectors_CE", torch.stack([table_VE[ids].mean(0) for ids in self.token_ids]), False)
        self.vectors_CE: Tensor

    def class_vectors(self) -> Tensor:
        """Mean word embedding of each label's tokens, [C, E]; frozen."""
        return self.vectors_CE


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


def num_outputs(task: Task) -> int:
    """Scores that a linear head gives for a state: one per class; a single one for choices and for regression."""
    return 1 if task.kind in ("choice", "regression") else task.num_classes


def label_state_weights(state_CD: Tensor) -> Tensor:
    """Class vectors for a linear head from the label texts' pooled states, [C, D].

        w_c = 10 / r * h_c / |h_c|,  r the mean norm of the states

    So a state of norm r is scored by ten times its cosine to each label text: a zero-shot classifier to start from.
    """
    norm_C1 = state_CD.norm(dim=1, keepdim=True)
    return 10 / norm_C1.mean() * state_CD / norm_C1


@torch.no_grad()
def random_class_vectors(num_classes: int, table_VE: Tensor, generator: torch.Generator) -> Tensor:
    """Class vectors at the word embeddings' own mean and spread, [C, E]."""
    draws_CE = torch.randn(num_classes, table_VE.shape[1], generator=generator)
    return table_VE.mean(0) + draws_CE * table_VE.std(0)
