"""Mutual information between prompt and head, I(P; theta | X).

Letters: B examples, L positions, P prompt vectors, E embedding width, K negatives.
"""

import torch
from torch import Tensor

from infoprompt.config import ObjectiveSettings
from infoprompt.data.batch import Batch
from infoprompt.kernels.estimators.scores import RowScores
from infoprompt.kernels.row_info_nce.op import embedded_row_info_nce, token_scores
from infoprompt.model.encoding import Encoding
from infoprompt.objective.running_means import FIRST, RunningMeans
from infoprompt.objective.terms import InformationTerm, baseline_of, build_estimator


def head_information(
    encoding: Encoding, batch: Batch, settings: ObjectiveSettings, running: RunningMeans = FIRST
) -> InformationTerm:
    """The mean prompt vector against the frozen word embeddings of the input's own tokens, by any estimator.

        positive p_mean . u,  negatives e_j . u,  u = h_mean / sqrt(E)  or  W1 h_mean

    The gradient reaches the prompt and the head; the embeddings are frozen. Source: InfoPrompt, arXiv:2306.04933,
    head loss, by InfoNCE; the form is that of the authors' released code, `paper` draws K of the tokens.
    """
    assert encoding.prompt_BPE is not None
    assert encoding.head_direction_E is not None
    assert encoding.token_embeddings_BLE is not None
    positive_B = token_scores(encoding.prompt_BPE.mean(1, keepdim=True), encoding.head_direction_E).squeeze(1)
    drawn_BK = None
    if settings.head_negatives == "sampled_tokens":
        assert batch.uniform_BK is not None
        drawn_BK = drawn_tokens(batch.real_BL, batch.uniform_BK)
    if settings.head_estimator == "infonce":
        counts_BL = batch.real_BL if drawn_BK is None else times_drawn(drawn_BK, batch.real_BL.shape[1])
        loss_B = embedded_row_info_nce(
            positive_B, encoding.token_embeddings_BLE, counts_BL, encoding.head_direction_E, impl=settings.kernels
        )
        return InformationTerm.from_rows(loss_B, counts_BL.sum(1), settings.head_loss_cap)
    negative_BK = token_scores(encoding.token_embeddings_BLE, encoding.head_direction_E)
    keep_BK: Tensor | None = batch.real_BL
    if drawn_BK is not None:
        negative_BK, keep_BK = negative_BK.gather(1, drawn_BK), None
    estimator = build_estimator(settings.head_estimator, settings)
    baseline_B = baseline_of(estimator, encoding.head_baseline_B, positive_B)
    scores = RowScores.from_samples(positive_B, negative_BK, keep_BK, baseline_B)
    return InformationTerm.from_scores(estimator, running.join("head", estimator, scores))


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


def times_drawn(drawn_BK: Tensor, length: int) -> Tensor:
    """How often each of `length` positions was drawn, [B, L] int64."""
    zeros_BL = drawn_BK.new_zeros(len(drawn_BK), length)
    return zeros_BL.scatter_add(1, drawn_BK, torch.ones_like(drawn_BK))
