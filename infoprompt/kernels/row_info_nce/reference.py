"""InfoNCE with one positive and own negatives per row: the formulas in plain torch.

Letters: B rows, K negatives.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def row_info_nce_reference(positive_B: Tensor, negative_BK: Tensor, keep_BK: Tensor | None = None) -> Tensor:
    """InfoNCE loss of each row against its own negatives.

        loss_i = -log( exp(p_i) / (exp(p_i) + sum_k exp(n_ik)) )

    Args:
        positive_B: score of the true pair, [B], any float dtype.
        negative_BK: scores of the K false pairs, [B, K], same dtype.
        keep_BK: which negatives count, [B, K], bool; all if not given.
    Returns:
        Loss in nats, [B], float32 or wider; 0 for a row without negatives. log(K + 1) - loss.mean() bounds the
        mutual information from below.
    Source: van den Oord et al. 2018, arXiv:1807.03748, equations 4 and 5.
    """
    return _against(positive_B, _log_sum_exp(_wide(negative_BK), keep_BK))


def gaussian_row_info_nce_reference(positive_B: Tensor, mean_B: Tensor, std_B: Tensor, noise_BK: Tensor) -> Tensor:
    """InfoNCE loss of each row against K Gaussian scores, n_ik = mean_i + std_i * noise_ik.

    A latent z ~ N(mu, diag(sigma^2)) scored by z . u is the scalar Gaussian N(mu . u, |sigma * u|^2), so K latents of
    width Z need K numbers, not K * Z.

    Args:
        positive_B: score of the true pair, [B].
        mean_B, std_B: mean and standard deviation of the row's negative scores, [B].
        noise_BK: standard normal draws, [B, K].
    Returns:
        Loss in nats, [B], float32 or wider.
    """
    mean_B1, std_B1 = _wide(mean_B).unsqueeze(1), _wide(std_B).unsqueeze(1)
    return row_info_nce_reference(positive_B, mean_B1 + std_B1 * noise_BK.to(mean_B1.dtype))


def exact_gaussian_row_info_nce_reference(
    positive_B: Tensor, mean_B: Tensor, std_B: Tensor, num_negatives: int
) -> Tensor:
    """As `gaussian_row_info_nce_reference`, the sum over K draws replaced by its expectation.

        sum_k exp(n_ik)  ->  K * E[exp(n_i)] = exp( log K + mean_i + std_i^2 / 2 )

    By Jensen the loss is never below the expected sampled one, so log(K + 1) - loss.mean() still bounds the mutual
    information from below.

    Args:
        positive_B, mean_B, std_B: as above, [B].
        num_negatives: K, at least 1.
    Returns:
        Loss in nats, [B], float32 or wider.
    """
    return _against(positive_B, math.log(num_negatives) + _wide(mean_B) + _wide(std_B).square() / 2)


def _against(positive_B: Tensor, log_sum_B: Tensor) -> Tensor:
    # -log(e^p / (e^p + e^l)) = softplus(l - p): exact under a common offset, which is gone before any exp.
    return F.softplus(log_sum_B - _wide(positive_B), threshold=40)


def _log_sum_exp(score_BK: Tensor, keep_BK: Tensor | None) -> Tensor:
    if keep_BK is None:
        return score_BK.logsumexp(1)
    # A row without negatives would give -inf, whose gradient is NaN; its log-sum is set aside instead.
    empty_B = ~keep_BK.any(1)
    masked_BK = score_BK.masked_fill(~keep_BK & ~empty_B.unsqueeze(1), -torch.inf)
    return masked_BK.logsumexp(1).masked_fill(empty_B, -torch.inf)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
