"""Which texts without labels are strangers to the task, and of which classes the others seem, by their states.

Shapes: M rows that are trained on, V held-out rows, U rows without labels, C classes, D hidden width.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_QUANTILE = 0.1
_ROWS = 4096  # compared at a time, so that memory does not grow with the texts


def kept_texts(state_UD: Tensor, training_MD: Tensor, held_out_VD: Tensor, labels_CD: Tensor) -> np.ndarray:
    """The texts that are no strangers, as indices.

    A text's likeness is its largest cosine to any labelled row, held-out row or label text. It must be at least what
    nine of ten held-out rows have to the labelled rows and label texts.

    Args:
        state_UD: pooled states of the texts.
        training_MD: of the labelled rows.
        held_out_VD: of the held-out rows; where there are none, nothing is left out.
        labels_CD: of the label texts.
    """
    if not len(held_out_VD):
        return np.arange(len(state_UD))
    known = F.normalize(torch.cat([training_MD, labels_CD]), dim=1)
    held_out = F.normalize(held_out_VD, dim=1)
    least = torch.quantile(_likeness(held_out, known), _QUANTILE)
    likeness_U = _likeness(F.normalize(state_UD, dim=1), torch.cat([known, held_out]))
    return np.flatnonzero((likeness_U >= least).numpy())


def nearest_shares(state_UD: Tensor, class_CD: Tensor) -> Tensor:
    """Share of the texts whose state is nearest to each class's, [C]."""
    classes = F.normalize(class_CD, dim=1)
    nearest_U = torch.cat([(part @ classes.T).argmax(1) for part in state_UD.split(_ROWS)])
    return torch.bincount(nearest_U, minlength=len(classes)) / len(nearest_U)


def effective_number(share_C: Tensor) -> float:
    """exp of the entropy of shares: as many classes as equally large ones would spread so."""
    return float(torch.special.entr(share_C).sum().exp())


def _likeness(states: Tensor, others: Tensor) -> Tensor:
    return torch.cat([(part @ others.T).amax(1) for part in states.split(_ROWS)])
