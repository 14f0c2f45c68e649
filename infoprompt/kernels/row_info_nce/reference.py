"""InfoNCE with one positive and own negatives per row: the formulas in plain torch.

Shapes: B rows, K negatives, L positions, E embedding width.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def row_info_nce_reference(positive_B: Tensor, negative_BK: Tensor, keep_BK: Tensor | None = None) -> Tensor:
    """InfoNCE loss of each row against its own negatives.

        loss_i = -log( exp(p_i) / (exp(p_i) + sum_k c_ik exp(n_ik)) )

    Args:
        positive_B: score of the true pair, [B], any float dtype.
        negative_BK: scores of the K false pairs, [B, K], same dtype.
        keep_BK: c, which negatives count (bool), or how often each does (integer, from 0), [B, K]; all once if not
            given.
    Returns:
        Loss in nats, [B], float32 or wider; 0 for a row without negatives. log(K + 1) - loss.mean() bounds the
        mutual information from below.
    Source: van den Oord et al. 2018, arXiv:1807.03748, equations 4 and 5.
    """
    return against(_log_sum_exp(wide(negative_BK), keep_BK) - wide(positive_B))


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
    mean_B1, std_B1 = wide(mean_B).unsqueeze(1), wide(std_B).unsqueeze(1)
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
    return against(math.log(num_negatives) + wide(mean_B) + wide(std_B).square() / 2 - wide(positive_B))


def embedded_row_info_nce_reference(
    positive_B: Tensor, embeddings_BLE: Tensor, keep_BL: Tensor, direction_E: Tensor
) -> Tensor:
    """InfoNCE loss of each row against the scores of its own vectors, n_il = e_il . u.

    Args:
        positive_B: score of the true pair, [B].
        embeddings_BLE: the row's vectors e, [B, L, E].
        keep_BL: which of them count (bool), or how often each does (integer, from 0), [B, L].
        direction_E: u, [E].
    Returns:
        Loss in nats, [B], float32 or wider; 0 for a row without negatives.
    """
    dtype = torch.promote_types(wide(embeddings_BLE).dtype, wide(direction_E).dtype)
    return row_info_nce_reference(positive_B, embeddings_BLE.to(dtype) @ direction_E.to(dtype), keep_BL)


def against(log_odds_B: Tensor) -> Tensor:
    """Loss of log( sum_k exp(n_ik) ) - p_i, the log odds against the positive, [B]."""
    # -log(e^p / (e^p + e^l)) = softplus(l - p), which neither overflows nor, where p wins, rounds to zero early
    return F.softplus(log_odds_B, threshold=40)


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is that."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _log_sum_exp(score_BK: Tensor, keep_BK: Tensor | None) -> Tensor:
    if keep_BK is None:
        return score_BK.logsumexp(1)
    # A row without negatives would give -inf, whose gradient is NaN; its log-sum is set aside instead.
    empty_B = ~(keep_BK != 0).any(1)
    log_count_BK = keep_BK.to(score_BK.dtype).clamp(min=1).log()
    counted_BK = score_BK.masked_fill(keep_BK == 0, -torch.inf) + log_count_BK
    whole_BK = torch.where(empty_B.unsqueeze(1), 0.0, counted_BK)
    return whole_BK.logsumexp(1).masked_fill(empty_B, -torch.inf)
