"""Estimators of mutual information on statistics of all pairs, against Gaussians with a known one.

The true log ratio of correlated Gaussians is a dot product, with a column for what each key adds, plus a bias per row:
so the op itself is tested, and nothing is trained. Shapes: N examples of a batch, D dimensions of either variable.
"""

import math

import pytest
import torch

from infoprompt.kernels.estimators.interpolated import Interpolated
from infoprompt.kernels.estimators.registry import ESTIMATORS
from infoprompt.kernels.estimators.scores import RowScores
from infoprompt.kernels.pair_stats.op import pair_stats

DIMENSIONS = 20


def pairs(information, batch, seed):
    """Queries, keys and bias of a batch of correlated Gaussians, whose scores are the true log ratios."""
    generator = torch.Generator().manual_seed(seed)
    rest = math.exp(-2 * information / DIMENSIONS)  # 1 - rho^2
    rho = math.sqrt(1 - rest)
    x_ND, noise_ND = torch.randn(2, batch, DIMENSIONS, generator=generator, dtype=torch.float64)
    y_ND = rho * x_ND + math.sqrt(rest) * noise_ND
    x_bias_N, y_bias_N = (-(rho**2) / (2 * rest) * x.square().sum(1) for x in (x_ND, y_ND))
    query_ND = torch.cat([rho / rest * x_ND, torch.ones(batch, 1, dtype=torch.float64)], 1)
    return query_ND, torch.cat([y_ND, y_bias_N.unsqueeze(1)], 1), information + x_bias_N


def estimates(information, batch, repeats, impl="chunked", dtype=torch.float64):
    """Value of each estimator in each of the repeats."""
    values = {}
    for seed in range(repeats):
        stats = pair_stats(*(x.to(dtype) for x in pairs(information, batch, seed)), impl=impl)
        scores = RowScores.from_pair_stats(stats, batch - 1)
        found = {name: ESTIMATORS[name](scores).value_B.mean() for name in ("infonce", "nwj", "dv", "interpolated")}
        found["interpolated_half"] = Interpolated(0.5)(scores).value_B.mean()
        for name, value in found.items():
            values.setdefault(name, []).append(value.double())
    return {name: torch.stack(value) for name, value in values.items()}


# Means (and standard deviations of one batch) of an independent implementation, over 400 batches of 64 and 60 of 1024.
TABLE = {
    (2, 64): {"infonce": (1.821, 0.19), "nwj": (2.010, 0.25), "dv": (2.015, 0.25),
             "interpolated": (2.010, 0.25), "interpolated_half": (1.938, 0.25)},
    (4, 64): {"infonce": (3.063, 0.19), "nwj": (3.966, 0.56), "dv": (4.025, 0.46),
             "interpolated": (3.939, 0.52), "interpolated_half": (3.491, 0.42)},
    (6, 1024): {"infonce": (5.227, 0.07), "nwj": (5.990, 0.18), "dv": (5.997, 0.17),
             "interpolated": (5.957, 0.16), "interpolated_half": (5.548, 0.16)},
    (10, 64): {"infonce": (4.121, 0.04), "nwj": (10.2, 2.7), "dv": (11.24, 1.3),
             "interpolated": (8.40, 1.7), "interpolated_half": (5.61, 0.29)},
}  # fmt: skip


@pytest.mark.parametrize(("information", "batch"), TABLE)
def test_values_under_the_true_log_ratio_are_the_known_ones(information, batch):
    values = estimates(information, batch, 100 if batch == 64 else 15)
    for name, (mean, deviation) in TABLE[information, batch].items():
        # four standard errors of the difference of two means, plus the last digit of the table
        error = math.sqrt(deviation**2 / (400 if batch == 64 else 60) + values[name].var() / len(values[name]))
        assert abs(values[name].mean() - mean) < 4 * error + 0.001, name
    assert values["infonce"].max() <= math.log(batch)


def test_kernels_give_the_same_values(device):
    if device != "cpu":
        pytest.skip("batches here are the CPU's")
    ours, truth = estimates(4, 64, 2, "triton", torch.float32), estimates(4, 64, 2)
    for name, value in ours.items():
        torch.testing.assert_close(value, truth[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name, estimator in ESTIMATORS.items() if not estimator.needs_samples])
def test_estimators_read_statistics_as_they_read_the_whole_matrix(name):
    query_ND, key_ND, bias_N = pairs(2, 12, 0)
    leaves = [query_ND.requires_grad_(), key_ND.requires_grad_()]
    baseline_N = torch.linspace(-1, 1, 12, dtype=torch.float64)
    ours = ESTIMATORS[name](RowScores.from_pair_stats(pair_stats(*leaves, bias_N), 11, baseline_N))
    plain = ESTIMATORS[name](RowScores.from_matrix(query_ND @ key_ND.T + bias_N.unsqueeze(1), baseline_N))
    torch.testing.assert_close(ours.value_B, plain.value_B)
    torch.testing.assert_close(ours.loss_B, plain.loss_B)
    torch.testing.assert_close(*(torch.autograd.grad(x.loss_B.mean(), leaves) for x in (ours, plain)))


def test_without_a_negative_there_is_no_estimate():
    stats = pair_stats(torch.zeros(1, 2), torch.zeros(2, 2), torch.zeros(1))
    with pytest.raises(ValueError, match="num_negatives is 0"):
        RowScores.from_pair_stats(stats, 0)
