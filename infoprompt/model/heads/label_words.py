"""The model's own scores of the label words at the mask, or at a decoder's next token; not trained.

Shapes: B examples, C classes, E embedding width, S words of the classes, T tokens of these.
"""

from typing import Any

import torch
from torch import Tensor

from infoprompt.config import RunConfig
from infoprompt.model.heads.kind import HeadContext, HeadKind, Reading
from infoprompt.model.heads.label_tokens import VerbaliserHead, verbaliser


class LabelWordsHead(VerbaliserHead):
    """Scores of the label words by the model's own language-model head, the mean over a word's tokens.

    Source: the manual verbaliser of PET, Schick and Schuetze 2021.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.flat_ids = [token for ids in self.token_ids for token in ids]
        self.sizes = [len(ids) for ids in self.token_ids]

    def forward(self, reading: Reading) -> Tensor:
        """See `Head`."""
        return self.gather(reading.backbone.word_scores(reading.pooled_BD, self.flat_ids))

    def gather(self, scores_BT: Tensor) -> Tensor:
        """Label scores, [B, C], from the scores of `flat_ids`, [B, T]."""
        scores_BS = torch.stack([part.mean(1) for part in scores_BT.split(self.sizes, dim=1)], dim=1)
        return self.of_classes(scores_BS)


def _build(config: RunConfig, context: HeadContext) -> LabelWordsHead:
    return LabelWordsHead(**verbaliser(config, context))


KIND = HeadKind(
    _build,
    needs=frozenset({"label_words"}),
    lm_head=True,
    pooling=lambda backbone_kind: "mask" if backbone_kind == "encoder" else "last",
)
