"""Mutual information between prompt and representation, I(P; Z | X).

Shapes: B examples, E embedding width, P prompt vectors, Z latent width, K negatives, A rows of all ranks.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from infoprompt.config import ObjectiveSettings
from infoprompt.data.batch import Batch
from infoprompt.kernels.estimators.scores import RowScores
from infoprompt.kernels.gathered import gather_rows
from infoprompt.kernels.pair_stats.op import pair_stats
from infoprompt.kernels.row_info_nce.op import exact_gaussian_row_info_nce, gaussian_row_info_nce
from infoprompt.objective.baseline import Baseline
from infoprompt.objective.critics import BilinearRepresentationCritic, ProjectionsCritic
from infoprompt.objective.encoding import Latent
from infoprompt.objective.information import Information
from infoprompt.objective.terms import InformationTerm


class RepresentationInformation(Information):
    """The prompted latent against latents of the same input without prompt, by any estimator: I(P; Z | X).

        positive z' . u + o, z' ~ N(mu(z), sigma(z)^2);  negatives z_k . u + o, z_k ~ N(mu(z0), sigma(z0)^2)

    A latent's score is a scalar Gaussian, so scalars are drawn: the same distribution, and K numbers per example
    instead of K * Z (`gaussian_row_info_nce`). `exact` needs no draw of negatives at all: their log-mean-exp is the
    mean plus half the variance. Source: InfoPrompt, arXiv:2306.04933, representation loss, by InfoNCE, in the form of
    the authors' released code.

    `batch` is ours: an example's prompt against the prompted latents of the other examples of the micro-batch, over all
    ranks. So it counts too what a prompt tells of which input it is: I(P; Z).

        positive z'_i . u_i + o_i,  negatives z'_j . u_i + o_i for j other than i
    """

    name = "representation"

    def __init__(
        self, settings: ObjectiveSettings, embedding_size: int, embedding_scale: float, out: nn.Linear | None
    ) -> None:
        """A term of its own.

        Args:
            settings: the objective's.
            embedding_size: E.
            embedding_scale: spread of the word embeddings, at which prompts start.
            out: the classifier's map from latents to E, which the released critic shares; None where it has none.
        """
        super().__init__(settings.representation_estimator, settings)
        latent_size = settings.latent_size
        self.critic: nn.Module
        if settings.representation_critic == "bilinear":
            self.critic = BilinearRepresentationCritic(embedding_size, latent_size, embedding_scale)
        else:
            self.critic = ProjectionsCritic(embedding_size, latent_size, out)
        self.baseline = None
        if self.estimator.needs_baseline:
            # what positive and negatives share is the mean prompt vector; the pair has the latent beside it
            self.baseline = Baseline(embedding_size + (latent_size if self.estimator.baseline_sees_pair else 0))

    def forward(self, prompt_BPE: Tensor, latent: Latent, unprompted: Latent | None, batch: Batch) -> InformationTerm:
        """The term of a micro-batch.

        Args:
            prompt_BPE: prompt vectors.
            latent: of the prompted states.
            unprompted: of the same inputs' states without prompt; not read with the negatives of `batch`.
            batch: holds the draws.
        """
        settings = self.settings
        assert batch.noise is not None
        direction_BZ, offset_B = self.critic(prompt_BPE)
        if settings.representation_negatives == "batch":
            return self._in_batch(prompt_BPE, latent, direction_BZ, offset_B, batch.noise.latent_BZ)
        assert batch.noise.positive_B is not None
        assert unprompted is not None
        std_B = (latent.log_std_BZ.exp() * direction_BZ).norm(dim=1)
        positive_B = (latent.mean_BZ * direction_BZ).sum(1) + std_B * batch.noise.positive_B + offset_B
        mean_B = (unprompted.mean_BZ * direction_BZ).sum(1) + offset_B
        unprompted_std_B = (unprompted.log_std_BZ.exp() * direction_BZ).norm(dim=1)
        noise_BK = batch.noise.negative_BK
        if settings.representation_estimator != "infonce":
            baseline_B = self._baseline(prompt_BPE, latent, positive_B)
            return self.estimate(self._scores(positive_B, mean_B, unprompted_std_B, noise_BK, baseline_B))
        if settings.representation_negatives == "exact":
            loss_B = exact_gaussian_row_info_nce(positive_B, mean_B, unprompted_std_B, settings.negatives)
        else:
            assert noise_BK is not None
            loss_B = gaussian_row_info_nce(positive_B, mean_B, unprompted_std_B, noise_BK, impl=settings.kernels)
        num_negatives_B = torch.full_like(batch.label_B, settings.negatives)
        return InformationTerm.from_rows(loss_B, num_negatives_B, settings.representation_loss_cap)

    def _in_batch(
        self, prompt_BPE: Tensor, latent: Latent, direction_BZ: Tensor, offset_B: Tensor, noise_BZ: Tensor | None
    ) -> InformationTerm:
        assert noise_BZ is not None
        drawn_BZ = latent.mean_BZ + latent.log_std_BZ.exp() * noise_BZ
        key_AZ, size, rank = drawn_BZ, len(drawn_BZ), 0
        if dist.is_initialized() and dist.get_world_size() > 1:  # every rank has micro-batches of one size
            key_AZ, rank = gather_rows(drawn_BZ), dist.get_rank()
        stats = pair_stats(direction_BZ, key_AZ, offset_B, rank * size, impl=self.settings.kernels)
        num_negatives = len(key_AZ) - 1
        baseline_B = self._baseline(prompt_BPE, latent, stats.positive_N)
        scores = RowScores.from_pair_stats(stats, num_negatives, baseline_B)
        if self.settings.representation_estimator != "infonce":
            return self.estimate(scores)
        loss_B = self.estimator(scores).loss_B
        return InformationTerm.from_rows(loss_B, scores.num_negatives_B, self.settings.representation_loss_cap)

    def _scores(
        self, positive_B: Tensor, mean_B: Tensor, std_B: Tensor, noise_BK: Tensor | None, baseline_B: Tensor | None
    ) -> RowScores:
        if self.settings.representation_negatives == "exact":
            log_mean_exp_B = mean_B + std_B.square() / 2
            return RowScores.from_log_mean_exp(positive_B, log_mean_exp_B, self.settings.negatives, baseline_B)
        assert noise_BK is not None
        negative_BK = mean_B.unsqueeze(1) + std_B.unsqueeze(1) * noise_BK
        return RowScores.from_samples(positive_B, negative_BK, baseline_B=baseline_B)

    def _baseline(self, prompt_BPE: Tensor, latent: Latent, positive_B: Tensor) -> Tensor | None:
        if self.baseline is None:
            return None
        seen = [prompt_BPE.mean(1)] + ([latent.mean_BZ] if self.estimator.baseline_sees_pair else [])
        return self.estimator.start_baseline(self.baseline(*seen), positive_B)
