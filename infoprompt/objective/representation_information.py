"""Mutual information between prompt and representation, I(P; Z | X).

Letters: B examples, Z latent width, K negatives.
"""

import torch

from infoprompt.config import ObjectiveSettings
from infoprompt.data.batch import Batch
from infoprompt.kernels.row_info_nce.op import exact_gaussian_row_info_nce, gaussian_row_info_nce
from infoprompt.model.encoding import Encoding
from infoprompt.objective.terms import InformationTerm


def representation_information(encoding: Encoding, batch: Batch, settings: ObjectiveSettings) -> InformationTerm:
    """InfoNCE of the prompted latent against latents of the same input without prompt.

        positive z' . u + o, z' ~ N(mu(z), sigma(z)^2);  negatives z_k . u + o, z_k ~ N(mu(z0), sigma(z0)^2)

    A latent's score is a scalar Gaussian, so scalars are drawn: the same distribution, and K numbers per example
    instead of K * Z (`gaussian_row_info_nce`); `exact` needs no draw of negatives at all. Source: InfoPrompt,
    arXiv:2306.04933, representation loss, in the form of the authors' released code.
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
    if settings.representation_negatives == "exact":
        loss_B = exact_gaussian_row_info_nce(positive_B, mean_B, unprompted_std_B, settings.negatives)
    else:
        loss_B = gaussian_row_info_nce(positive_B, mean_B, unprompted_std_B, noise_BK)
    num_negatives_B = torch.full_like(batch.label_B, settings.negatives)
    return InformationTerm.from_rows(loss_B, num_negatives_B, settings.loss_cap)
