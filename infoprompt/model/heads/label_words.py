"""The model's own scores of the label words at the mask, or at a decoder's next token; not trained.

Shapes: B examples, C classes, E embedding width, S words of the labels, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from infoprompt.config import RunConfig
from infoprompt.model.heads.kind import Head, HeadContext, HeadKind, Reading
from infoprompt.model.heads.label_tokens import label_token_ids


class LabelWordsHead(Head):
    """Scores of the label words by the model's own language-model head, the mean over a label's tokens.

    Source: the manual verbaliser of PET, Schick and Schuetze 2021.
    """

    def __init__(self, token_ids: Sequence[Sequence[int]], vectors_CE: Tensor) -> None:
        super().__init__()
        self.flat_ids = [token for ids in token_ids for token in ids]
        self.sizes = [len(ids) for ids in token_ids]
        self.register_buffer("vectors_CE", vectors_CE, False)
        self.vectors_CE: Tensor

    def forward(self, reading: Reading) -> Tensor:
        """See `Head`."""
        return self.gather(reading.backbone.word_scores(reading.pooled_BD, self.flat_ids))

    def gather(self, scores_BS: Tensor) -> Tensor:
        """Label scores, [B, C], from the scores of `flat_ids`, [B, S]."""
        return torch.stack([part.mean(1) for part in scores_BS.split(self.sizes, dim=1)], dim=1)

    def class_vectors(self) -> Tensor:
        """See `Head`; mean word embedding of each label's tokens, [C, E], frozen."""
        return self.vectors_CE


def _build(config: RunConfig, context: HeadContext) -> LabelWordsHead:
    vocabulary = context.vocabulary
    ids = label_token_ids(vocabulary.tokenizer, context.task.label_texts)
    return LabelWordsHead(ids, vocabulary.mean_embeddings(ids))


KIND = HeadKind(
    _build,
    needs=frozenset({"label_words"}),
    lm_head=True,
    pooling=lambda backbone_kind: "mask" if backbone_kind == "encoder" else "last",
)
