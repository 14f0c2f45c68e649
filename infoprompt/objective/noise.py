"""The random draws of an update: they depend on (seed, step) alone, so a run can go on at any step.

Shapes: B examples of an update over all ranks, K negatives, Z latent width.
"""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from infoprompt.config import ObjectiveSettings, RunConfig
from infoprompt.data.batch import Noise
from infoprompt.data.loader import Draw


def noise_of(config: RunConfig, *, has_latent: bool) -> Draw | None:
    """What draws a run's noise; None if no part of it reads any.

    Args:
        config: every setting.
        has_latent: whether head or terms read a Gaussian latent, which the model knows.
    """
    samples_tokens = config.objective.head_weight > 0 and config.objective.head_negatives == "sampled_tokens"
    if not has_latent and not samples_tokens:
        return None
    return partial(draw_noise, config.objective, config.seed)


def draw_noise(settings: ObjectiveSettings, seed: int, step: int, num_inputs: int) -> Noise:
    """The draws of update `step`, counted from 0."""
    num_negatives = settings.negatives if settings.representation_negatives == "sampled" else 0
    size = (num_inputs, 1 + settings.latent_size + num_negatives)
    # one draw for all three, whose rows then depend on nothing but the seed, the step and the settings
    gaussian = torch.from_numpy(np.random.default_rng([seed, step, 1]).standard_normal(size, dtype=np.float32))
    return Noise(
        positive_B=gaussian[:, 0],
        latent_BZ=gaussian[:, 1 : 1 + settings.latent_size],
        negative_BK=gaussian[:, 1 + settings.latent_size :] if num_negatives else None,
        token_BK=_uniform(settings, seed, step, num_inputs),
    )


def _uniform(settings: ObjectiveSettings, seed: int, step: int, num_inputs: int) -> Tensor | None:
    if settings.head_negatives != "sampled_tokens":
        return None
    draws = np.random.default_rng([seed, step, 2]).random((num_inputs, settings.negatives), dtype=np.float32)
    return torch.from_numpy(draws)
