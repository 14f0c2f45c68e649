"""Mutual information between prompt and head, I(P; theta | X).

Shapes: B examples, C classes, L positions, P prompt vectors, E embedding width, W width of the class vectors,
K negatives.
"""

import torch
from torch import Tensor

from infoprompt.config import ObjectiveSettings
from infoprompt.data.batch import Batch
from infoprompt.kernels.estimators.scores import RowScores
from infoprompt.kernels.row_info_nce.op import embedded_row_info_nce, token_scores
from infoprompt.objective.baseline import Baseline
from infoprompt.objective.critics import HEAD_CRITICS
from infoprompt.objective.information import Information
from infoprompt.objective.terms import InformationTerm


class HeadInformation(Information):
    """The mean prompt vector against the frozen word embeddings of the input's own tokens, by any estimator.

        positive p_mean . u,  negatives e_j . u,  u = h_mean / sqrt(E)  or  W1 h_mean

    The gradient reaches the prompt and the head; the embeddings are frozen. Source: InfoPrompt, arXiv:2306.04933,
    head loss, by InfoNCE; the form is that of the authors' released code, `paper` draws K of the tokens.
    """

    name = "head"

    def __init__(self, settings: ObjectiveSettings, embedding_size: int, class_width: int) -> None:
        super().__init__(settings.head_estimator, settings)
        self.critic = HEAD_CRITICS[settings.head_critic](embedding_size, class_width)
        self.baseline = None
        if self.estimator.needs_baseline:
            # what positive and negatives share is the scoring vector; the pair has the mean prompt vector beside it
            self.baseline = Baseline(embedding_size * (2 if self.estimator.baseline_sees_pair else 1))

    def forward(
        self, prompt_BPE: Tensor, token_embeddings_BLE: Tensor, class_vectors_CW: Tensor, batch: Batch
    ) -> InformationTerm:
        """The term of a micro-batch.

        Args:
            prompt_BPE: prompt vectors.
            token_embeddings_BLE: frozen word embeddings of the positions; only those at real tokens are read.
            class_vectors_CW: one vector per class.
            batch: which positions are real, and the draws of `sampled_tokens`.
        """
        settings = self.settings
        direction_E: Tensor = self.critic(class_vectors_CW)
        positive_B = token_scores(prompt_BPE.mean(1, keepdim=True), direction_E).squeeze(1)
        drawn_BK = None
        if settings.head_negatives == "sampled_tokens":
            assert batch.noise is not None
            assert batch.noise.token_BK is not None
            drawn_BK = drawn_tokens(batch.real_BL, batch.noise.token_BK)
        if settings.head_estimator == "infonce":
            counts_BL = batch.real_BL if drawn_BK is None else times_drawn(drawn_BK, batch.real_BL.shape[1])
            loss_B = embedded_row_info_nce(
                positive_B, token_embeddings_BLE, counts_BL, direction_E, impl=settings.kernels
            )
            return InformationTerm.from_rows(loss_B, counts_BL.sum(1), settings.head_loss_cap)
        negative_BK = token_scores(token_embeddings_BLE, direction_E)
        keep_BK: Tensor | None = batch.real_BL
        if drawn_BK is not None:
            negative_BK, keep_BK = negative_BK.gather(1, drawn_BK), None
        baseline_B = self._baseline(direction_E, prompt_BPE, positive_B)
        return self.estimate(RowScores.from_samples(positive_B, negative_BK, keep_BK, baseline_B))

    def _baseline(self, direction_E: Tensor, prompt_BPE: Tensor, positive_B: Tensor) -> Tensor | None:
        if self.baseline is None:
            return None
        seen = [direction_E.expand(len(prompt_BPE), -1)]
        seen += [prompt_BPE.mean(1)] if self.estimator.baseline_sees_pair else []
        return self.estimator.start_baseline(self.baseline(*seen), positive_B)


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
