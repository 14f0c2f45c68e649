"""Estimators on distributions with a known mutual information that are not Gaussian, or not any more.

Tasks and values: Czyz et al. 2023, "Beyond Normal", arXiv:2306.11078. Samplers and log ratios are derived here; the
published values are held as constants. Shapes: N examples, D and E dimensions of the two variables.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.special import gammaln, ndtr, ndtri
from torch import nn

from infoprompt.kernels.estimators.registry import ESTIMATORS
from infoprompt.kernels.estimators.scores import RowScores, log_mean_exp


@dataclass(frozen=True)
class Task:
    """A sampler of N pairs, and the true log ratio of all their combinations, [N, N]."""

    information: float
    sample: Callable
    log_ratio: Callable


def normal(x_size, y_size, covariance, information):
    """Jointly normal variables of unit variance."""
    factor = np.linalg.cholesky(covariance)
    x_part, y_part = covariance[:x_size, :x_size], covariance[x_size:, x_size:]

    def sample(generator, count):
        drawn = generator.standard_normal((count, x_size + y_size)) @ factor.T
        return drawn[:, :x_size], drawn[:, x_size:]

    def log_ratio(x_ND, y_NE):
        joint, apart = np.linalg.inv(covariance), np.zeros_like(covariance)
        apart[:x_size, :x_size], apart[x_size:, x_size:] = np.linalg.inv(x_part), np.linalg.inv(y_part)
        logs = [np.linalg.slogdet(part)[1] for part in (x_part, y_part, covariance)]
        return (logs[0] + logs[1] - logs[2] - quadratic(x_ND, y_NE, joint - apart)) / 2

    return Task(information, sample, log_ratio)


def quadratic(x_ND, y_NE, matrix):
    """(x_i, y_j) M (x_i, y_j) of all combinations, [N, N]."""
    size = x_ND.shape[1]
    x_N = ((x_ND @ matrix[:size, :size]) * x_ND).sum(1)
    y_N = ((y_NE @ matrix[size:, size:]) * y_NE).sum(1)
    return x_N[:, None] + y_N[None] + 2 * x_ND @ matrix[:size, size:] @ y_NE.T


def dense(size, information):
    """All 2 * size variables correlated by one half."""
    return normal(size, size, np.full((2 * size, 2 * size), 0.5) + 0.5 * np.eye(2 * size), information)


def sparse(size, information):
    """Two pairs correlated by 0.8, all else independent."""
    covariance = np.eye(2 * size)
    for i in range(2):
        covariance[i, size + i] = covariance[size + i, i] = 0.8
    return normal(size, size, covariance, information)


def student(size, freedom, information):
    """Multivariate Student variables without correlation, which share their scale."""

    def sample(generator, count):
        scale = np.sqrt(freedom / generator.chisquare(freedom, (count, 1)))
        return scale * generator.standard_normal((count, size)), scale * generator.standard_normal((count, size))

    def log_density(square, width):
        constant = gammaln((freedom + width) / 2) - gammaln(freedom / 2) - width / 2 * math.log(freedom * math.pi)
        return constant - (freedom + width) / 2 * np.log1p(square / freedom)

    def log_ratio(x_ND, y_ND):
        x_N1, y_1N = (x_ND**2).sum(1)[:, None], (y_ND**2).sum(1)[None]
        return log_density(x_N1 + y_1N, 2 * size) - log_density(x_N1, size) - log_density(y_1N, size)

    return Task(information, sample, log_ratio)


def additive(width, information):
    """X uniform on [0, 1], Y = X + noise, uniform on [-width, width]."""

    def sample(generator, count):
        x_N1 = generator.random((count, 1))
        return x_N1, x_N1 + generator.uniform(-width, width, (count, 1))

    def log_ratio(x_N1, y_N1):
        density_N = (np.minimum(y_N1 + width, 1) - np.maximum(y_N1 - width, 0))[:, 0]  # 2 * width * p(y)
        near_NN = np.abs(y_N1.T - x_N1) <= width
        return np.where(near_NN, -np.log(density_N)[None], -np.inf)

    return Task(information, sample, log_ratio)


def mapped(task, forward, inverse):
    """The task with both variables passed through an injective map of each coordinate."""

    def sample(generator, count):
        x_ND, y_NE = task.sample(generator, count)
        return forward(x_ND), forward(y_NE)

    return Task(task.information, sample, lambda x_ND, y_NE: task.log_ratio(inverse(x_ND), inverse(y_NE)))


def half_cube(x):
    return x * np.sqrt(np.abs(x))


def half_cube_inverse(x):
    return np.sign(x) * np.abs(x) ** (2 / 3)


BIVARIATE = normal(1, 1, np.array([[1, 0.75], [0.75, 1]]), 0.4133)
TASKS = {
    "bivariate": BIVARIATE,
    "bivariate, uniform": mapped(BIVARIATE, ndtr, ndtri),
    "bivariate, half-cube": mapped(BIVARIATE, half_cube, half_cube_inverse),
    "bivariate, asinh": mapped(BIVARIATE, np.arcsinh, np.sinh),
    "additive 0.1": additive(0.1, 1.7094),
    "additive 0.75": additive(0.75, 0.3333),
    "dense 2": dense(2, 0.2939),
    "dense 3": dense(3, 0.4133),
    "dense 5": dense(5, 0.5928),
    "dense 25": dense(25, 1.2922),
    "dense 50": dense(50, 1.6243),
    "sparse 3": sparse(3, 1.0217),
    "sparse 5, half-cube": mapped(sparse(5, 1.0217), half_cube, half_cube_inverse),
    "student 1, 1": student(1, 1, 0.2242),
    "student 2, 1": student(2, 1, 0.4319),
    "student 2, 2": student(2, 2, 0.1931),
    "student 3, 2": student(3, 2, 0.2909),
    "student 3, 3": student(3, 3, 0.1787),
    "student 5, 2": student(5, 2, 0.4482),
    "student 5, 3, asinh": mapped(student(5, 3, 0.2985), np.arcsinh, np.sinh),
}


@pytest.mark.parametrize("name", TASKS)
def test_the_true_log_ratio_gives_the_published_value(name):
    task, generator = TASKS[name], np.random.default_rng(0)
    values = {kind: [] for kind in ("infonce", "nwj", "dv", "tuba", "interpolated")}
    for _ in range(12):
        scores = RowScores.from_matrix(torch.from_numpy(task.log_ratio(*task.sample(generator, 512))))
        for kind, kept in values.items():
            kept.append(ESTIMATORS[kind](scores).value_B.mean().item())
    for kind, kept in values.items():
        error = np.std(kept, ddof=1) / math.sqrt(len(kept))
        # InfoNCE is low by about Var(exp f) / (2 N), at most 0.02 here; the published values have four digits
        bias = 0.02 if kind in ("infonce", "interpolated") else 0.002
        assert abs(np.mean(kept) - task.information) < 4 * error + bias, kind


@pytest.mark.parametrize("name", ["bivariate, uniform", "bivariate, half-cube", "bivariate, asinh"])
def test_no_estimate_changes_with_the_coordinates_if_the_critic_is_mapped_too(name):
    plain, moved = BIVARIATE, TASKS[name]
    x_ND, y_ND = plain.sample(np.random.default_rng(1), 128)
    u_ND, v_ND = moved.sample(np.random.default_rng(1), 128)
    assert not np.allclose(x_ND, u_ND)
    before = RowScores.from_matrix(torch.from_numpy(plain.log_ratio(x_ND, y_ND)))
    after = RowScores.from_matrix(torch.from_numpy(moved.log_ratio(u_ND, v_ND)))
    for estimator in ESTIMATORS.values():
        torch.testing.assert_close(estimator(after).value_B, estimator(before).value_B, rtol=1e-6, atol=1e-6)


class SeparableCritic(nn.Module):
    """f(x, y) = g(x) . h(y) + b(x) + c(y); the baseline is linear in g(x), and for a pair in f."""

    def __init__(self, sees_pair: bool) -> None:
        super().__init__()
        self.left, self.right = (nn.Sequential(nn.Linear(1, 32), nn.GELU(), nn.Linear(32, 17)) for _ in range(2))
        self.baseline = nn.Linear(17, 1)
        nn.init.zeros_(self.baseline.weight)
        self.pair_weight = nn.Parameter(torch.zeros(()), requires_grad=sees_pair)

    def forward(self, x_N1, y_N1):
        left_NF, right_NF = self.left(x_N1), self.right(y_N1)
        score_NN = left_NF[:, :-1] @ right_NF[:, :-1].T + left_NF[:, -1:] + right_NF[:, -1]
        baseline_N = self.baseline(left_NF.detach()).squeeze(1) + self.pair_weight * score_NN.diagonal().detach()
        return RowScores.from_matrix(score_NN, baseline_N)


# One estimator is enough to see that the shape of the distribution is no matter.
@pytest.mark.parametrize(
    ("name", "kind"),
    [("bivariate, half-cube", "infonce"), ("bivariate, asinh", "infonce")]
    + [("bivariate", kind) for kind in ESTIMATORS],
)
def test_a_short_training_finds_the_published_value(name, kind):
    task, generator = TASKS[name], np.random.default_rng(0)
    torch.manual_seed(0)
    critic = SeparableCritic(sees_pair=kind == "flo")
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)

    def batch(count):
        return (torch.from_numpy(part).float() for part in task.sample(generator, count))

    log_average = None
    for _ in range(300):
        optimizer.zero_grad()
        scores = critic(*batch(256))
        log_average = ESTIMATORS["mine"].move_average(log_average, log_mean_exp(scores.log_mean_exp_B.detach()))
        ESTIMATORS[kind](replace(scores, log_average=log_average)).loss_B.mean().backward()
        optimizer.step()
    with torch.no_grad():
        value = np.mean([ESTIMATORS[kind](critic(*batch(1024))).value_B.mean().item() for _ in range(10)])
    # standard error of the value is 0.01; the rest is what 300 updates leave to be learned
    assert abs(value - task.information) < 0.05
