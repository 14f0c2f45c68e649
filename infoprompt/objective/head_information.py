"""Mutual information between prompt and head, I(P; theta | X).

Letters: B examples, L positions, P prompt vectors, E embedding width, K negatives.
"""

import torch
from torch import Tensor

from infoprompt.config import ObjectiveSettings
from infoprompt.data.batch import Batch
from infoprompt.kernels.row_info_nce.op import row_info_nce, token_scores
from infoprompt.model.encoding import Encoding
from infoprompt.objective.terms import InformationTerm


def head_information(encoding: Encoding, batch: Batch, settings: ObjectiveSettings) -> InformationTerm:
    """InfoNCE of the mean prompt vector against the frozen word embeddings of the input's own tokens.

        positive p_mean . u,  negatives e_j . u,  u = h_mean / sqrt(E)  or  W1 h_mean

    The gradient reaches the prompt and the head; the embeddings are frozen. Source: InfoPrompt, arXiv:2306.04933,
    head loss; the form is that of the authors' released code, `paper` draws K of the tokens.
    """
    assert encoding.prompt_BPE is not None
    assert encoding.head_direction_E is not None
    assert encoding.token_embeddings_BLE is not None
    positive_B = token_scores(encoding.prompt_BPE.mean(1, keepdim=True), encoding.head_direction_E).squeeze(1)
    scores_BL = token_scores(encoding.token_embeddings_BLE, encoding.head_direction_E)
    if settings.head_negatives == "all_tokens":
        loss_B = row_info_nce(positive_B, scores_BL, batch.real_BL)
        num_negatives_B = batch.real_BL.sum(1)
    else:
        assert batch.uniform_BK is not None
        loss_B = row_info_nce(positive_B, scores_BL.gather(1, drawn_tokens(batch.real_BL, batch.uniform_BK)))
        num_negatives_B = torch.full_like(batch.label_B, settings.negatives)
    return InformationTerm.from_rows(loss_B, num_negatives_B, settings.loss_cap)


def drawn_tokens(real_BL: Tensor, uniform_BK: Tensor) -> Tensor:
    """Positions of K real tokens per example, drawn with replacement, [B, K] int64.

    Args:
        real_BL: which positions hold a real token, at least one per example.
        uniform_BK: uniform draws in [0, 1).
    """
    count_B1 = real_BL.sum(1, keepdim=True)
    rank_BK = (uniform_BK * count_B1).long().clamp(max=count_B1 - 1)
    # a stable sort puts the real positions first, in order
    order_BL = torch.argsort((~real_BL).long(), dim=1, stable=True)
    return order_BL.gather(1, rank_BK)
