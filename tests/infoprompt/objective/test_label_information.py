"""The label's information term against the plain formulas, over ranks and with a running mean."""

import math

import pytest
import torch

from infoprompt.config import ConfigError, ObjectiveSettings
from infoprompt.objective.label_information import LabelInformation, StartAnchor

LABELS = ("a", "b", "c")


def term_of(logits_UC, **settings):
    return LabelInformation(ObjectiveSettings(label_form="plain", **settings), LABELS)(logits_UC)


def test_the_value_is_infonce_with_the_expectation_over_labels_taken_exactly():
    logits_UC = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)) * 2
    term = term_of(logits_UC)
    expected = 0.0
    prob = [[math.exp(x) / sum(map(math.exp, row)) for x in row] for row in logits_UC.double().tolist()]
    for row in prob:
        for label, p in enumerate(row):
            expected += p * math.log(p / (sum(other[label] for other in prob) / 7)) / 7
    assert float(term.value) == pytest.approx(expected, rel=1e-5)
    assert float(term.loss) == pytest.approx(math.log(3) - expected, rel=1e-5)
    assert float(term.ceiling) == pytest.approx(math.log(3))


def test_the_ceiling_is_that_of_few_rows():
    assert float(term_of(torch.randn(2, 3)).ceiling) == pytest.approx(math.log(2))


def test_the_target_pulls_the_mean_prediction_towards_it():
    logits_UC = torch.zeros(4, 3, requires_grad=True)
    term_of(logits_UC, label_marginal={"a": 0.7, "b": 0.2, "c": 0.1}).loss.backward()
    gradient_C = logits_UC.grad.sum(0)
    assert gradient_C[0] < 0 < gradient_C[1] < gradient_C[2]


def test_the_gradient_of_the_running_mean_is_that_of_the_newest_batch():
    term = LabelInformation(ObjectiveSettings(label_form="plain"), tuple("abcdefgh"))
    draws = torch.Generator().manual_seed(1)
    first, second = (torch.randn(2, 8, generator=draws) for _ in range(2))
    term(first)
    second.requires_grad_()
    loss = term(second).loss
    mean_C = 0.75 * first.softmax(1).mean(0) + 0.25 * second.detach().softmax(1).mean(0)
    prob_UC = second.softmax(1)
    value = -(prob_UC * prob_UC.log()).sum(1).mean() + (mean_C * (mean_C * 8).log()).sum()
    torch.testing.assert_close(loss, value)
    (gradient_UC,) = torch.autograd.grad(loss, second)
    plain = -(prob_UC * prob_UC.log()).sum(1).mean() + (prob_UC.mean(0) * ((mean_C * 8).log() + 1)).sum()
    torch.testing.assert_close(gradient_UC, torch.autograd.grad(plain, second)[0])
    assert term.state()["label_mean"].requires_grad is False


def test_a_state_is_taken_over_with_its_target():
    term = LabelInformation(ObjectiveSettings(label_form="guarded"), LABELS)
    assert term.state() == {}
    term.estimate_target(torch.tensor([0.9, 0.1, 0.0]))
    other = LabelInformation(ObjectiveSettings(label_form="guarded"), LABELS)
    other.set_state({"head": torch.tensor(1.0), **term.state()}, torch.device("cpu"))
    torch.testing.assert_close(other.target_C, term.target_C)
    assert float(other.target_C[2]) == pytest.approx(1 / 31)  # a class that nothing was given keeps a share


def test_a_share_for_a_class_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="classes are a, b, c"):
        LabelInformation(ObjectiveSettings(label_form="plain", label_marginal={"a": 0.5, "x": 0.5}), LABELS)


def test_the_anchor_is_half_the_squared_distance_over_the_rows():
    anchor = StartAnchor()
    anchor.start(torch.ones(2, 3), num_rows=4)
    vectors = torch.full((2, 3), 3.0, requires_grad=True)
    penalty = anchor(vectors)
    assert penalty.item() == pytest.approx(6 * 4 / 8)
    penalty.backward()
    torch.testing.assert_close(vectors.grad, torch.full((2, 3), 0.5))


def test_a_form_sets_what_is_not_given():
    plain, guarded = (ObjectiveSettings(label_form=form, label_weight=1.0) for form in ("plain", "guarded"))
    assert (plain.label_weight, plain.label_marginal, plain.label_start) == (1.0, "uniform", 0.0)
    assert (guarded.label_weight, guarded.label_marginal, guarded.start_anchor) == (1.0, "estimated", 8.0)
    assert ObjectiveSettings(label_form="guarded", start_anchor=2.0).start_anchor == 2.0
    with pytest.raises(ValueError, match=r"add up to 0\.8"):
        ObjectiveSettings(label_form="plain", label_marginal={"a": 0.5, "b": 0.3})
