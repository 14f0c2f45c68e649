"""Linear heads that are found at once, from the training rows' pooled states, and not by gradient.

Shapes: M rows, C classes, D hidden width.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Linear = tuple[Tensor, Tensor]
"""Weight, [C, D], and bias, [C], float32."""

ABSENT_BIAS = -1e4
"""Bias of a class without training rows, whose weight is zero: it is never predicted, and its loss stays finite."""
GRID = tuple(10.0**power for power in range(-2, 5))
"""Values of C, the inverse strength of the L2 penalty."""
MOST_FOLDS = 5


@dataclass(frozen=True)
class TrainingRows:
    """What a head is fitted to."""

    labels: Sequence[int]
    num_classes: int
    states_MD: Tensor | None = None
    """Pooled states, for a fit that `reads_states`."""
    class_weight_C: Tensor | None = None
    """See `data.class_weights`."""


def majority(rows: TrainingRows, start: Linear) -> Linear:
    """Zero weights, and as bias the log share of each class, in nats."""
    counts = torch.bincount(torch.tensor(rows.labels), minlength=rows.num_classes)
    return torch.zeros_like(start[0]), (counts / counts.sum()).log().clamp(min=ABSENT_BIAS)


def logistic_regression(rows: TrainingRows, start: Linear) -> Linear:
    """scikit-learn's logistic regression with an L2 penalty (lbfgs), multinomial from three classes on.

    States are centred and scaled to a mean squared norm of 1, which the weights undo. C is the value of `GRID` with the
    best accuracy by stratified cross-validation on the same rows, among equals that with the lower log loss. There are
    as many folds as the rarest class has rows, 5 at most. C is 1 where that class has one row.
    """
    assert rows.states_MD is not None
    present = sorted(set(rows.labels))
    if len(present) < 2:
        return majority(rows, start)
    states_MD, label_M = rows.states_MD.double().numpy(), np.asarray(rows.labels)
    mean_D = states_MD.mean(0)
    scale = float(np.sqrt(np.square(states_MD - mean_D).sum(1).mean())) or 1.0
    scaled_MD = (states_MD - mean_D) / scale
    weights = None if rows.class_weight_C is None else dict(enumerate(rows.class_weight_C.tolist()))
    fitted = _fitted(scaled_MD, label_M, _chosen_c(scaled_MD, label_M, weights), weights)
    weight_CD, bias_C = fitted.coef_ / scale, fitted.intercept_
    if len(present) == 2:  # one row of weights, the log odds of the second class
        weight_CD, bias_C = np.concatenate([-weight_CD, weight_CD]) / 2, np.concatenate([-bias_C, bias_C]) / 2
    bias_C = bias_C - weight_CD @ mean_D
    weight, bias = torch.zeros_like(start[0]), torch.full_like(start[1], ABSENT_BIAS)
    weight[present], bias[present] = (torch.from_numpy(found).float() for found in (weight_CD, bias_C))
    return weight, bias


def _chosen_c(scaled_MD: np.ndarray, label_M: np.ndarray, weights: Mapping[int, float] | None) -> float:
    from sklearn.metrics import accuracy_score, log_loss
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    folds = min(MOST_FOLDS, *Counter(label_M.tolist()).values())
    if folds < 2:
        return 1.0
    classes = np.unique(label_M)
    parts = StratifiedKFold(folds, shuffle=True, random_state=0)
    held_out = {}
    for c in GRID:
        with warnings.catch_warnings(action="ignore"):  # of iterations
            found_MC = cross_val_predict(_unfitted(c, weights), scaled_MD, label_M, cv=parts, method="predict_proba")
        predicted_M = classes[found_MC.argmax(1)]
        held_out[c] = accuracy_score(label_M, predicted_M), -log_loss(label_M, found_MC, labels=classes)
    return max(held_out, key=lambda c: held_out[c])


def _fitted(scaled_MD: np.ndarray, label_M: np.ndarray, c: float, weights: Mapping[int, float] | None) -> Any:
    with warnings.catch_warnings(action="ignore"):
        return _unfitted(c, weights).fit(scaled_MD, label_M)


def _unfitted(c: float, weights: Mapping[int, float] | None) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=c, class_weight=weights, max_iter=1000)


@dataclass(frozen=True)
class Fit:
    """A way to find a head, and whether it reads the states of the training rows."""

    fit: Callable[[TrainingRows, Linear], Linear]
    """From the rows and the head's start to the head."""
    reads_states: bool = False


FITS = {
    "start": Fit(lambda rows, start: start),
    "majority": Fit(majority),
    "logistic_regression": Fit(logistic_regression, reads_states=True),
}
"""By `head.fit`."""
