"""The running means of MINE: moved once per call and term, and over ranks those of all rows."""

import math

import pytest
import torch

from infoprompt.config import build_config
from infoprompt.kernels.estimators.mine import Mine
from infoprompt.kernels.estimators.registry import ESTIMATORS, build_estimator
from infoprompt.kernels.estimators.scores import RowScores
from infoprompt.objective import information
from infoprompt.objective.information import Information, running_means, set_running_means
from infoprompt.objective.terms import LossTerms
from infoprompt.settings import ObjectiveSettings

HALVES = {"head": slice(0, 4), "representation": slice(4, 8)}


@pytest.fixture
def scores():
    """Scores of 8 rows."""
    generator = torch.Generator().manual_seed(0)
    positive_B, negative_BK = (torch.randn(shape, generator=generator) for shape in (8, (8, 5)))
    return RowScores.from_samples(positive_B.requires_grad_(), negative_BK.requires_grad_())


def part(scores, rows):
    return RowScores.from_samples(scores.positive_B[rows], scores.negative_BK[rows])


class Terms(torch.nn.Module):
    """Both terms of a model."""

    def __init__(self, estimator="mine", **settings):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        for name in HALVES:
            term = Information(estimator, ObjectiveSettings(head_estimator=estimator, **settings))
            term.name = name
            setattr(self, name, term)

    def estimate(self, scores):
        parts = [getattr(self, term).estimate(part(scores, rows)) for term, rows in HALVES.items()]
        return LossTerms(parts[0].loss, parts[1].loss, *parts)


def test_each_term_has_a_mean_of_its_own_that_the_next_call_goes_on_from(scores):
    first = Terms(mine_rate=0.25)
    assert running_means(first) == {}
    first.estimate(scores)
    assert running_means(first).keys() == HALVES.keys()
    second = Terms(mine_rate=0.25)
    set_running_means(second, {"head": torch.tensor(3.0), "representation": torch.tensor(-3.0)})
    terms = second.estimate(scores)
    for term, before in (("head", 3.0), ("representation", -3.0)):
        batch = part(scores, HALVES[term]).negative_BK.exp().mean()
        torch.testing.assert_close(running_means(first)[term].exp(), batch)
        torch.testing.assert_close(running_means(second)[term].exp(), 0.75 * math.exp(before) + 0.25 * batch)
        assert not running_means(second)[term].requires_grad
    assert not any("bound" in name for name in terms.as_metrics())
    assert {name for name in terms.as_metrics() if "/mi_" in name} == {
        "train/mi_head_mine_value",
        "train/mi_representation_mine_value",
    }


def test_two_ranks_have_the_gradient_of_one_with_all_rows(scores, monkeypatch):
    inputs = (scores.positive_B, scores.negative_BK)

    def gradient(rows):
        term = Information("mine", ObjectiveSettings())
        term.log_average = torch.tensor(0.7)
        return torch.autograd.grad(term.estimate(part(scores, rows)).loss, inputs), term.log_average

    whole, log_average = gradient(slice(0, 8))
    own = []
    monkeypatch.setattr(information, "over_ranks", lambda value: own.append(value) or value.unsqueeze(0))
    for rows in HALVES.values():
        gradient(rows)
    monkeypatch.setattr(information, "over_ranks", lambda value: torch.stack(own))
    halves = [gradient(rows) for rows in HALVES.values()]
    for mean in (half[1] for half in halves):
        torch.testing.assert_close(mean, log_average)
    means = [torch.stack(gradients).mean(0) for gradients in zip(*(half[0] for half in halves), strict=True)]
    torch.testing.assert_close(means, list(whole))


def test_other_estimators_have_no_mean_and_say_nothing_to_other_ranks(scores, monkeypatch):
    def refuse(value):
        raise AssertionError

    monkeypatch.setattr(information, "over_ranks", refuse)
    for name in ESTIMATORS:
        if name != "mine":
            model = Terms(name)
            model.estimate(scores)
            assert running_means(model) == {}


def test_the_rate_is_a_setting_and_the_last_mean_may_be_far_off(scores):
    settings = build_config({"objective": {"head_estimator": "mine", "mine_rate": 0.5}}).objective
    assert build_estimator("mine", settings.model_dump()) == Mine(0.5)
    for far in (-150.0, 150.0):  # exp(150) is no float32
        term = Information("mine", ObjectiveSettings())
        term.log_average = torch.tensor(far)
        loss = term.estimate(scores).loss
        assert loss.isfinite()
        (gradient_BK,) = torch.autograd.grad(loss, scores.negative_BK, retain_graph=True)
        assert gradient_BK.isfinite().all()


def test_a_setting_of_names_that_read_samples_is_that_of_the_estimators():
    from infoprompt.settings.objective import _NEED_SAMPLES, ESTIMATOR_SETTINGS

    assert set(_NEED_SAMPLES) == {name for name, estimator in ESTIMATORS.items() if estimator.needs_samples}
    read = {key: name for name, estimator in ESTIMATORS.items() for key in estimator.settings.values()}
    assert read == ESTIMATOR_SETTINGS
