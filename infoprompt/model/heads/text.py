"""The model's own probability of the whole label text behind the input; not trained.

Shapes: B examples, C classes, D hidden width, E embedding width, L positions, V vocabulary.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from infoprompt.config import RunConfig
from infoprompt.data.batch import Batch
from infoprompt.model.heads.kind import Head, HeadContext, HeadKind
from infoprompt.model.heads.label_tokens import label_token_ids
from infoprompt.model.prompts.kind import DeepPrompt

if TYPE_CHECKING:
    from infoprompt.model.backbone.backbone import Backbone


class TextHead(Head):
    """Log probabilities of the whole label texts, by the model itself."""

    passes_itself: ClassVar[bool] = True

    def __init__(self, token_ids: Sequence[Sequence[int]], vectors_CE: Tensor) -> None:
        super().__init__()
        self.token_ids = [list(ids) for ids in token_ids]
        self.register_buffer("vectors_CE", vectors_CE, False)
        self.vectors_CE: Tensor

    def score_pass(
        self, backbone: "Backbone", inputs_BLE: Tensor, batch: Batch, deep: DeepPrompt | None
    ) -> tuple[Tensor, Tensor]:
        """See `Head`."""
        return backbone.score_texts(inputs_BLE, batch, self.token_ids, deep)

    def class_vectors(self) -> Tensor:
        """See `Head`; mean word embedding of each label's tokens, [C, E], frozen."""
        return self.vectors_CE


def _build(config: RunConfig, context: HeadContext) -> TextHead:
    vocabulary = context.vocabulary
    ids = label_token_ids(vocabulary.tokenizer, context.task.label_texts, end=True)
    return TextHead(ids, vocabulary.mean_embeddings(ids))


KIND = HeadKind(_build, needs=frozenset({"label_texts"}), lm_head=True)
