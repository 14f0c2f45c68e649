"""What every kind of prompt offers, and the places in a backbone that it may use.

Shapes: B examples, L positions, P prompt vectors, E embedding width, D hidden width, H key-value heads, K head width.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from infoprompt.config import PromptSettings
from infoprompt.data.batch import Batch
from infoprompt.model.prompts.start import Vocabulary

S = TypeVar("S", bound=PromptSettings)
"""The settings of a kind; `OwnPromptSettings` for one that you added yourself."""


@dataclass(frozen=True)
class DeepPrompt:
    """What enters a backbone below its input layer; a part that is not used is empty."""

    prefix: tuple[tuple[Tensor, Tensor], ...] = ()
    """For each layer the keys and values that every position may attend to, each [B or 1, H, P, K]; they carry no
    position of their own."""
    prefix_seen_BP: Tensor | None = None
    """Which keys and values an example has, bool, where examples have prefixes of different lengths; all if None."""
    adapter_kv: tuple[tuple[Tensor, Tensor], ...] = ()
    """Keys and values likewise, but attended by a softmax of their own, whose outcome is added to the text's. So the
    text's attention stays as it is, and the prompt has the same weight in a short text as in a long one."""
    adapter_seen_BP: Tensor | None = None
    """For `adapter_kv` what `prefix_seen_BP` is for `prefix`."""
    layers: Mapping[int, Callable[[Tensor, Batch], Tensor]] = field(default_factory=dict)
    """At a layer's input: from its states, [B, L, D], to the vectors, [B, P, D], for the prompt's slots."""
    adds: bool = False
    """Whether the vectors of `layers` are added to the slots' states instead of taking their place."""
    first_layer: int = 0
    """Below this layer no position attends to the slots, as if they were not there."""
    owners: "tuple[tuple[int, DeepPrompt | None], ...]" = ()
    """In a pass without padding that several prompts share: the first row of each, and what enters there. Each has its
    own keys and values; `prefix` and `adapter_kv` are empty."""


@dataclass(frozen=True)
class PromptParts:
    """The prompt of a batch; a place that a kind does not use is None."""

    input_BPE: Tensor | None = None
    """Vectors for the slots of the input, float32."""
    deep: DeepPrompt | None = None


class Prompt(nn.Module):
    """Base of all kinds: Batch -> PromptParts."""

    first_layer: int = 0
    """The first layer that it enters; below it, states are those of the plain text."""

    def forward(self, batch: Batch) -> PromptParts:
        """The prompt of each example."""
        raise NotImplementedError

    def touched_parameters(self, texts: Iterable[Sequence[int]]) -> int:
        """Parameters that training can change; all of them unless a kind says otherwise.

        Args:
            texts: token ids of each training row, prompt slots left out.
        """
        return sum(parameter.numel() for parameter in self.parameters())


@dataclass(frozen=True)
class PromptContext:
    """What a prompt is built for."""

    vocabulary: Vocabulary
    """The backbone's word embeddings and tokenizer, and the label texts."""
    hidden_size: int
    num_layers: int
    num_kv_heads: int
    """Heads of keys and values (fewer than query heads with grouped-query attention)."""
    head_size: int
    summary: str
    """Pooling that gives the state that stands for a whole text: `first`, or `last` in decoder models."""
    generator: torch.Generator
    """Of all random starting values."""

    @property
    def embedding_size(self) -> int:
        """Width of the word embeddings."""
        return self.vocabulary.table.embedding_size


def all_slots(settings: PromptSettings) -> int:
    """Every prompt vector has a slot in the input."""
    return settings.length


@dataclass(frozen=True)
class PromptKind(Generic[S]):
    """What the rest of the system must know of a kind before it is built; each file of kinds holds one as `KIND`."""

    build: Callable[[S, PromptContext], Prompt]
    slots: Callable[[S], int] = all_slots
    """Slots that the prompt needs in the input."""
    reads_unprompted: bool = False
    """Whether it reads the states of the plain text, which take one pass per data set."""
    needs: Callable[[S], frozenset[str]] = lambda settings: frozenset()
    """What the backbone's family must offer beside input vectors: `prefix`, `layers`."""
    embeds: Callable[[S], bool] = lambda settings: True
    """Whether its vectors live among the word embeddings; the information terms are defined for such alone."""


def prompt_kind(name: str) -> PromptKind[Any]:
    """The kind of prompt that `prompt.kind` names: the file of that name in `prompts/`."""
    kind: PromptKind[Any] = importlib.import_module(f"infoprompt.model.prompts.{name}").KIND
    return kind
