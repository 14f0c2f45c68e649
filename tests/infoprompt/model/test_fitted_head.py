"""Heads that are fitted at once, against scikit-learn's own search over the same values."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from infoprompt.model.fitted_heads import ABSENT_BIAS, GRID, TrainingRows, logistic_regression, majority


def rows(num_classes, *, absent=()):
    """Three overlapping clouds of 20 rows a class, far from the origin and small."""
    draws = np.random.default_rng(0)
    present = [label for label in range(num_classes) if label not in absent]
    labels = [label for label in present for _ in range(20)]
    states_MD = 5 + 0.01 * (draws.normal(size=(len(labels), 6)) + draws.normal(size=(num_classes, 6))[labels])
    return TrainingRows(labels, num_classes, torch.from_numpy(states_MD).float())


def start(num_classes):
    return torch.ones(num_classes, 6), torch.ones(num_classes)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("class_weight", [None, [0.2, 2.0, 1.0]])
def test_logistic_regression_is_what_scikit_learn_chooses_and_fits(num_classes, class_weight):
    given = rows(num_classes)
    if class_weight:
        weights_C = torch.tensor(class_weight[:num_classes])
        given = TrainingRows(given.labels, num_classes, given.states_MD, weights_C)
        class_weight = dict(enumerate(weights_C.tolist()))
    weight_CD, bias_C = logistic_regression(given, start(num_classes))
    centred_MD = given.states_MD.double() - given.states_MD.double().mean(0)
    scaled_MD = (centred_MD / centred_MD.square().sum(1).mean().sqrt()).numpy()
    search = GridSearchCV(
        LogisticRegression(class_weight=class_weight, max_iter=1000),
        {"C": GRID},
        scoring=["accuracy", "neg_log_loss"],
        cv=StratifiedKFold(5, shuffle=True, random_state=0),
        refit=lambda found: int(np.lexsort((found["mean_test_neg_log_loss"], found["mean_test_accuracy"]))[-1]),
    ).fit(scaled_MD, given.labels)
    own_MC = (given.states_MD @ weight_CD.T + bias_C).softmax(1)
    # float32 scores of states around 5, whose differences are a hundredth
    np.testing.assert_allclose(own_MC.numpy(), search.predict_proba(scaled_MD), atol=2e-3)


def test_a_class_without_rows_is_never_predicted_and_its_loss_is_finite():
    given = rows(3, absent=[1])
    for fit in (majority, logistic_regression):
        weight_CD, bias_C = fit(given, start(3))
        assert (weight_CD[1] == 0).all()
        assert bias_C[1] == ABSENT_BIAS
        scores_MC = given.states_MD @ weight_CD.T + bias_C
        assert not (scores_MC.argmax(1) == 1).any()
        assert torch.isfinite(torch.nn.functional.cross_entropy(scores_MC, torch.ones(40, dtype=torch.long)))


def test_a_class_of_one_row_is_fitted_with_c_of_one():
    given = rows(2)
    few = TrainingRows(given.labels[:21], 2, given.states_MD[:21])
    weight_CD, _ = logistic_regression(few, start(2))
    states_MD = few.states_MD.double().numpy()
    centred_MD = states_MD - states_MD.mean(0)
    scale = math.sqrt(np.square(centred_MD).sum(1).mean())
    expected = LogisticRegression(C=1.0).fit(centred_MD / scale, few.labels).coef_[0] / scale
    np.testing.assert_allclose((weight_CD[1] - weight_CD[0]).numpy(), expected, rtol=1e-4)


def test_rows_of_one_class_alone_give_that_class():
    given = rows(3, absent=[0, 1])
    weight_CD, bias_C = logistic_regression(given, start(3))
    assert (weight_CD == 0).all()
    assert bias_C.tolist() == [ABSENT_BIAS, ABSENT_BIAS, 0.0]


def test_the_majority_has_the_log_shares():
    weight_CD, bias_C = majority(TrainingRows([0, 0, 0, 1], 2), start(2))
    assert (weight_CD == 0).all()
    assert bias_C.exp().tolist() == pytest.approx([0.75, 0.25])
