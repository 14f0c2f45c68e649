"""The training loss: CE + w(t) * (gamma * head + beta * representation + kappa * KL) + lambda * label + anchor."""

import torch
from torch import Tensor

from infoprompt.config import ObjectiveSettings
from infoprompt.data.batch import Batch
from infoprompt.objective.encoding import Encoding, Latent
from infoprompt.objective.task import contrastive_loss, task_loss
from infoprompt.objective.terms import LossTerms
from infoprompt.progress import Progress


def information_objective(
    encoding: Encoding,
    batch: Batch,
    settings: ObjectiveSettings,
    progress: Progress,
    class_weight_C: Tensor | None = None,
) -> LossTerms:
    """All terms of a micro-batch, each the mean over its examples, in nats; a weight of zero leaves its term out.

    The label's term and the anchor are ours; w(t) does not touch them. `class_weight_C` weighs the examples of the
    task's own loss, see `task_loss`.

    Source: InfoPrompt, arXiv:2306.04933; total and decay as in the authors' released code.
    """
    if settings.task == "contrastive":
        # the head is fitted, but every engine asks for a gradient of all that is in the state
        task = contrastive_loss(encoding.pooled_BD, batch) + 0 * encoding.logits_BC.sum()
        return LossTerms(task, task, task_name="contrastive")
    task = task_loss(encoding.logits_BC, batch.labelled(), class_weight_C)
    head, representation = encoding.head, encoding.representation
    kl = _latent_kl(encoding) if settings.kl_weight else None
    information = torch.zeros_like(task)
    if head is not None:
        information = information + settings.head_weight * head.loss
    if representation is not None:
        information = information + settings.representation_weight * representation.loss
    if kl is not None:
        information = information + settings.kl_weight * kl
    epochs = progress.total_steps / progress.steps_per_epoch
    weight = 1 - settings.decay * progress.epoch / epochs
    total = task + weight * information
    if encoding.label is not None:
        total = total + settings.label_weight * encoding.label.loss
    if encoding.anchor is not None:
        total = total + settings.start_anchor * encoding.anchor
    return LossTerms(total, task, head, representation, kl, encoding.label, encoding.anchor)


def _latent_kl(encoding: Encoding) -> Tensor:
    latents = [latent for latent in (encoding.latent, encoding.unprompted_latent) if latent is not None]
    return torch.stack([standard_normal_kl(latent) for latent in latents]).sum()


def standard_normal_kl(latent: Latent) -> Tensor:
    """KL divergence of N(mean, std^2) to N(0, 1) in nats, the mean over dimensions and examples.

    (mean^2 + std^2 - 1) / 2 - log std
    """
    variance_BZ = (2 * latent.log_std_BZ).exp()
    return ((latent.mean_BZ.square() + variance_BZ - 1) / 2 - latent.log_std_BZ).mean()
