"""What every kind of head offers: from the states of a pass to label scores.

Shapes: B examples (or their choices), C classes, D hidden width, E embedding width, L positions, W width of the class
vectors.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from infoprompt.config import RunConfig
from infoprompt.data.batch import Batch
from infoprompt.data.rows import Kind
from infoprompt.data.task import Task
from infoprompt.model.gaussian import GaussianLayer
from infoprompt.model.prompts.kind import DeepPrompt
from infoprompt.model.prompts.start import Vocabulary
from infoprompt.objective.encoding import Latent

if TYPE_CHECKING:
    from infoprompt.model.backbone.backbone import Backbone

WHOLE_TEXTS: frozenset[Kind] = frozenset({"single", "pair", "relation", "span", "answer"})
"""Kinds of task whose examples have one class each, out of the same classes."""
ALL_KINDS: frozenset[Kind] = WHOLE_TEXTS | {"tags", "choice", "regression"}


@dataclass(frozen=True)
class Reading:
    """What a head reads of a pass."""

    pooled_BD: Tensor
    """Pooled states, float32."""
    latent: Latent | None
    """Their Gaussian latents, where the run has some."""
    batch: Batch
    """What they are the states of."""
    backbone: "Backbone"
    states_BLD: Tensor | None = None
    """All states; None where pooled ones were kept and nothing was passed."""


@dataclass(frozen=True)
class HeadContext:
    """What a head is built for."""

    vocabulary: Vocabulary
    """The backbone's word embeddings and tokenizer, and the label texts."""
    task: Task
    pooled_size: int
    """Width of the pooled states."""
    generator: torch.Generator
    """Of random starting values that do not come from torch's own."""


class Head(nn.Module):
    """Base of all kinds: Reading -> label scores."""

    passes_itself: ClassVar[bool] = False
    """Whether it scores by a pass of its own, see `score_pass`; such rows share no pass with others."""

    def forward(self, reading: Reading) -> Tensor:
        """Label scores, [B, C]: of choices [B / choices, choices], of tags [B, words, C], of a regression [B, 1]."""
        raise NotImplementedError

    def class_vectors(self) -> Tensor:
        """One vector per class, [C, W], which the head's information term contrasts."""
        raise NotImplementedError

    def score_pass(
        self, backbone: "Backbone", inputs_BLE: Tensor, batch: Batch, deep: DeepPrompt | None
    ) -> tuple[Tensor, Tensor]:
        """Label scores, [B, C], and the input's states, [B, L, D], of a pass that is the head's own."""
        raise NotImplementedError

    def start_from(self, states_CD: Tensor) -> dict[str, Tensor]:
        """Starting values by parameter, of the label texts' pooled states, for a kind that `reads_labels`."""
        raise NotImplementedError

    def latent_map(self) -> nn.Linear | None:
        """Its map from latents to the embeddings' width, which the released critic shares; None where it has none."""
        return None

    def linear_form(self, gaussian: GaussianLayer | None) -> tuple[Tensor, Tensor] | None:
        """Weight, [C, D], and bias, [C], of its scores when predicting; None if they are not linear in the state."""
        return None


def _never(config: RunConfig, task: Task) -> bool:
    return False


@dataclass(frozen=True)
class HeadKind:
    """What the rest of the system must know of a kind before it is built; each file of kinds holds one as `KIND`."""

    build: Callable[[RunConfig, HeadContext], Head]
    tasks: frozenset[Kind] = WHOLE_TEXTS
    """Kinds of task that it can score."""
    needs: frozenset[str] = frozenset()
    """What the backbone's family must offer: `label_words`, `label_texts`, `choice_texts`."""
    lm_head: bool = False
    """Whether it reads the model's own language-model head, which is loaded then; nothing of its own is trained."""
    passes_itself: bool = False
    """Whether the head is one that `passes_itself`."""
    latent: bool = False
    """Whether it reads the Gaussian latent of the pooled state."""
    reads_labels: Callable[[RunConfig, Task], bool] = _never
    """Whether it starts from the label texts' own states, which take an encoder pass."""
    pooling: Callable[[str], str] | None = None
    """The one pooling that it can read, by the backbone's kind; any if None."""


def head_kind(name: str) -> HeadKind:
    """The kind of head that `head.kind` names: the file of that name in `heads/`."""
    kind: HeadKind = importlib.import_module(f"infoprompt.model.heads.{name}").KIND
    return kind
