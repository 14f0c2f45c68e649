"""What the prompted model makes of a batch, and all that the objective reads.

Letters: B examples, L positions, P prompt vectors, E embedding width, D hidden width, C classes, Z latent.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Latent:
    """A diagonal Gaussian per example."""

    mean_BZ: Tensor
    log_std_BZ: Tensor


@dataclass(frozen=True)
class Encoding:
    """Scores, and the parts of them that the information terms need; a part a run does not use is None."""

    logits_BC: Tensor
    """Label scores, float32."""
    pooled_BD: Tensor
    """Pooled state of the prompted pass, float32 (of the unprompted pass where there is no prompt)."""
    first_BD: Tensor | None = None
    """First-token state, float32; only of the unprompted pass."""
    prompt_BPE: Tensor | None = None
    """Prompt vectors, float32."""
    token_embeddings_BLE: Tensor | None = None
    """Frozen word embeddings of the positions; only those at real tokens mean anything."""
    head_direction_E: Tensor | None = None
    """u such that the head critic's score of a vector v is v . u."""
    latent: Latent | None = None
    """Latent of the prompted state."""
    unprompted_latent: Latent | None = None
    """Latent of the unprompted state."""
    representation_direction_BZ: Tensor | None = None
    """u such that the representation critic's score of a latent z is z . u + offset."""
    representation_offset_B: Tensor | None = None
    """The offset of that score; the same for positive and negatives of an example."""
    head_baseline_B: Tensor | None = None
    """Learned baseline of the head's estimator, in nats (`terms.baseline_of`)."""
    representation_baseline_B: Tensor | None = None
    """Learned baseline of the representation's estimator, in nats (`terms.baseline_of`)."""
