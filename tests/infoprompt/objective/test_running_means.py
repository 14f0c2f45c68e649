"""The running means of MINE: moved once per call and term, and over ranks those of all rows."""

import math

import pytest
import torch

from infoprompt.config import build_config
from infoprompt.kernels.estimators.ratios import Mine
from infoprompt.kernels.estimators.registry import ESTIMATORS
from infoprompt.kernels.estimators.scores import RowScores
from infoprompt.objective.running_means import FIRST, RunningMeans
from infoprompt.objective.terms import InformationTerm, LossTerms, build_estimator


@pytest.fixture
def scores():
    """Scores of 8 rows."""
    generator = torch.Generator().manual_seed(0)
    positive_B, negative_BK = (torch.randn(shape, generator=generator) for shape in (8, (8, 5)))
    return RowScores.from_samples(positive_B.requires_grad_(), negative_BK.requires_grad_())


def part(scores, rows):
    return RowScores.from_samples(scores.positive_B[rows], scores.negative_BK[rows])


def test_each_term_has_a_mean_of_its_own_that_the_next_call_goes_on_from(scores):
    estimator = Mine(0.25)

    def terms(running):
        head, other = (running.join(term, estimator, part(scores, rows)) for term, rows in HALVES.items())
        parts = [InformationTerm.from_scores(estimator, each) for each in (head, other)]
        return LossTerms(parts[0].loss, parts[1].loss, *parts)

    first = terms(FIRST)
    assert first.log_averages.keys() == HALVES.keys()
    second = terms(RunningMeans({"head": torch.tensor(3.0), "representation": torch.tensor(-3.0)}))
    for term, before in (("head", 3.0), ("representation", -3.0)):
        batch = part(scores, HALVES[term]).negative_BK.exp().mean()
        torch.testing.assert_close(first.log_averages[term].exp(), batch)
        torch.testing.assert_close(second.log_averages[term].exp(), 0.75 * math.exp(before) + 0.25 * batch)
        assert not second.log_averages[term].requires_grad
    assert not any("bound" in name for name in second.as_metrics())
    assert {name for name in second.as_metrics() if "/mi_" in name} == {
        "train/mi_head_mine_value",
        "train/mi_representation_mine_value",
    }


HALVES = {"head": slice(0, 4), "representation": slice(4, 8)}


def test_two_ranks_have_the_gradient_of_one_with_all_rows(scores):
    inputs = (scores.positive_B, scores.negative_BK)
    before = {"head": torch.tensor(0.7)}
    own = torch.stack([FIRST.join("head", Mine(), part(scores, rows)).log_average for rows in HALVES.values()])

    def gradient(running, rows):
        joined = running.join("head", Mine(), part(scores, rows))
        return torch.autograd.grad(Mine()(joined).loss_B.mean(), inputs), joined.log_average

    whole, log_average = gradient(RunningMeans(before), slice(0, 8))
    halves = [gradient(RunningMeans(before, lambda value: own), rows) for rows in HALVES.values()]
    for mean in (half[1] for half in halves):
        torch.testing.assert_close(mean, log_average)
    means = [torch.stack(gradients).mean(0) for gradients in zip(*(half[0] for half in halves), strict=True)]
    torch.testing.assert_close(means, list(whole))


def test_other_estimators_have_no_mean_and_say_nothing_to_other_ranks(scores):
    def refuse(value):
        raise AssertionError

    for name, estimator in ESTIMATORS.items():
        if name != "mine":
            joined = RunningMeans(gather=refuse).join("head", estimator, scores)
            assert joined is scores
            assert InformationTerm.from_scores(estimator, joined).log_average is None


def test_the_rate_is_a_setting_and_the_last_mean_may_be_far_off(scores):
    settings = build_config({"objective": {"head_estimator": "mine", "mine_rate": 0.5}}).objective
    assert build_estimator("mine", settings) == Mine(0.5)
    for far in (-150.0, 150.0):  # exp(150) is no float32
        loss_B = Mine()(RunningMeans({"head": torch.tensor(far)}).join("head", Mine(), scores)).loss_B
        assert loss_B.isfinite().all()
        (gradient_BK,) = torch.autograd.grad(loss_B.mean(), scores.negative_BK, retain_graph=True)
        assert gradient_BK.isfinite().all()
