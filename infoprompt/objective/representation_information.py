"""Mutual information between prompt and representation, I(P; Z | X).

Letters: B examples, Z latent width, K negatives.
"""

import torch
from torch import Tensor

from infoprompt.config import ObjectiveSettings
from infoprompt.data.batch import Batch
from infoprompt.kernels.estimators.scores import RowScores
from infoprompt.kernels.row_info_nce.op import exact_gaussian_row_info_nce, gaussian_row_info_nce
from infoprompt.model.encoding import Encoding
from infoprompt.objective.running_means import FIRST, RunningMeans
from infoprompt.objective.terms import InformationTerm, baseline_of, build_estimator


def representation_information(
    encoding: Encoding, batch: Batch, settings: ObjectiveSettings, running: RunningMeans = FIRST
) -> InformationTerm:
    """The prompted latent against latents of the same input without prompt, by any estimator.

        positive z' . u + o, z' ~ N(mu(z), sigma(z)^2);  negatives z_k . u + o, z_k ~ N(mu(z0), sigma(z0)^2)

    A latent's score is a scalar Gaussian, so scalars are drawn: the same distribution, and K numbers per example
    instead of K * Z (`gaussian_row_info_nce`); `exact` needs no draw of negatives at all, their log-mean-exp is the
    mean plus half the variance. Source: InfoPrompt, arXiv:2306.04933, representation loss, by InfoNCE, in the form of
    the authors' released code.
    """
    latent, unprompted = encoding.latent, encoding.unprompted_latent
    direction_BZ, offset_B = encoding.representation_direction_BZ, encoding.representation_offset_B
    assert latent is not None
    assert unprompted is not None
    assert direction_BZ is not None
    assert offset_B is not None
    assert batch.gaussian_BN is not None
    draw_B, noise_BK = batch.gaussian_BN[:, 0], batch.gaussian_BN[:, -settings.negatives :]

    std_B = (latent.log_std_BZ.exp() * direction_BZ).norm(dim=1)
    positive_B = (latent.mean_BZ * direction_BZ).sum(1) + std_B * draw_B + offset_B
    mean_B = (unprompted.mean_BZ * direction_BZ).sum(1) + offset_B
    unprompted_std_B = (unprompted.log_std_BZ.exp() * direction_BZ).norm(dim=1)
    if settings.representation_estimator != "infonce":
        return _by_other_estimator(encoding, settings, running, positive_B, mean_B, unprompted_std_B, noise_BK)
    if settings.representation_negatives == "exact":
        loss_B = exact_gaussian_row_info_nce(positive_B, mean_B, unprompted_std_B, settings.negatives)
    else:
        loss_B = gaussian_row_info_nce(positive_B, mean_B, unprompted_std_B, noise_BK, impl=settings.kernels)
    num_negatives_B = torch.full_like(batch.label_B, settings.negatives)
    return InformationTerm.from_rows(loss_B, num_negatives_B, settings.representation_loss_cap)


def _by_other_estimator(
    encoding: Encoding,
    settings: ObjectiveSettings,
    running: RunningMeans,
    positive_B: Tensor,
    mean_B: Tensor,
    std_B: Tensor,
    noise_BK: Tensor,
) -> InformationTerm:
    estimator = build_estimator(settings.representation_estimator, settings)
    baseline_B = baseline_of(estimator, encoding.representation_baseline_B, positive_B)
    if settings.representation_negatives == "exact":
        log_mean_exp_B = mean_B + std_B.square() / 2
        scores = RowScores.from_log_mean_exp(positive_B, log_mean_exp_B, settings.negatives, baseline_B)
    else:
        negative_BK = mean_B.unsqueeze(1) + std_B.unsqueeze(1) * noise_BK
        scores = RowScores.from_samples(positive_B, negative_BK, baseline_B=baseline_B)
    return InformationTerm.from_scores(estimator, running.join("representation", estimator, scores))
