"""What the prompted model makes of a batch: all that the objective reads.

Shapes: B examples, P prompt vectors, E embedding width, D hidden width, C classes, Z latent width.
"""

from dataclasses import dataclass

from torch import Tensor

from infoprompt.objective.terms import InformationTerm


@dataclass(frozen=True)
class Latent:
    """A diagonal Gaussian per example."""

    mean_BZ: Tensor
    log_std_BZ: Tensor


@dataclass(frozen=True)
class Encoding:
    """Scores, and what the other terms of the loss are made of; a part a run does not use is None."""

    logits_BC: Tensor
    """Label scores, float32; in training of the rows with labels alone."""
    pooled_BD: Tensor
    """Pooled state of the prompted pass, float32 (of the unprompted pass where there is no prompt)."""
    summary_BD: Tensor | None = None
    """The state that stands for a text (`Backbone.summary`), float32; only of the unprompted pass."""
    prompt_BPE: Tensor | None = None
    """Prompt vectors, float32."""
    latent: Latent | None = None
    """Latent of the prompted state."""
    unprompted_latent: Latent | None = None
    """Latent of the unprompted state."""
    head: InformationTerm | None = None
    """Mutual information between prompt and head; only in training."""
    representation: InformationTerm | None = None
    """Mutual information between prompt and representation; only in training."""
    label: InformationTerm | None = None
    """Mutual information between text and label, of the rows without labels; only in training."""
    anchor: Tensor | None = None
    """How far the class vectors are from their start; only in training."""
