"""Statistics of all pairs: facts known without the code, inputs that break such sums, and what is refused.

Shapes: N queries, M keys, D width.
"""

import math

import pytest
import torch
from torch.nn import functional as F

from infoprompt.kernels.pair_stats.op import pair_stats

IMPLS = ["reference", "chunked", "triton"]


def features(rows, keys, width, dtype=torch.float32, seed=0):
    """Queries and keys."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, width, generator=generator, dtype=dtype).requires_grad_() for n in (rows, keys)]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("first", [0, 2])
def test_equal_scores_give_the_log_of_the_number_of_negatives(impl, first):
    query, key = torch.ones(3, 4), torch.full((5, 4), 0.5)
    stats = pair_stats(query, key, torch.full((3,), 1.0), first, impl=impl)
    torch.testing.assert_close(stats.positive_N, torch.full((3,), 3.0))
    torch.testing.assert_close(stats.row_lse_N, torch.full((3,), 3 + math.log(4)))


@pytest.mark.parametrize("impl", ["chunked", "reference"])
@pytest.mark.parametrize("first", [0, 3])
def test_info_nce_is_torchs_cross_entropy(impl, first):
    query, key = features(9, 12, 6, torch.float64)
    bias_N = torch.linspace(-1, 1, 9, dtype=torch.float64)
    expected = F.cross_entropy(query @ key.T + bias_N.unsqueeze(1), first + torch.arange(9))
    stats = pair_stats(query, key, bias_N, first, impl=impl)
    loss = F.softplus(stats.row_lse_N - stats.positive_N).mean()
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(*(torch.autograd.grad(x, (query, key)) for x in (loss, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("offset", [1e4, -1e4])
@pytest.mark.parametrize("impl", IMPLS)
def test_a_common_offset_moves_every_statistic_by_itself_and_no_gradient(impl, offset):
    # whole numbers, so that the scores are exact with the offset and without
    query, key = ((2 * x.detach()).round().requires_grad_() for x in features(5, 70, 4))
    results = []
    for bias_N in (torch.zeros(5), torch.full((5,), offset)):
        stats = pair_stats(query, key, bias_N, impl=impl)
        loss = (stats.row_lse_N - stats.positive_N).sum()
        moved = [stats.row_lse_N - bias_N, stats.positive_N - bias_N]
        results.append([*moved, *torch.autograd.grad(loss, (query, key))])
    # a log-sum-exp near 1e4 is rounded to the nearest 0.001
    for plain, moved in zip(*results, strict=True):
        torch.testing.assert_close(moved, plain, rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_dominant_negative_is_all_of_its_row(impl):
    query, key = torch.zeros(3, 1), torch.zeros(4, 1)
    query[1], key[2] = 50.0, 40.0
    query.requires_grad_()
    stats = pair_stats(query, key, torch.zeros(3), impl=impl)
    assert stats.row_lse_N[1] == 2000
    assert torch.autograd.grad(stats.row_lse_N[1], query)[0].flatten().tolist() == [0, 40, 0]


@pytest.mark.parametrize("impl", IMPLS)
def test_a_positive_that_wins_by_far_keeps_its_digits(impl):
    query, key = features(6, 6, 4)
    query, key = (torch.cat([x.detach(), 40**0.5 * torch.eye(6)], 1) for x in (query, key))  # adds 40 to the positives
    stats = pair_stats(query, key, torch.zeros(6), impl=impl)
    loss_N = F.softplus(stats.row_lse_N - stats.positive_N)
    score_NM = query.double() @ key.double().T
    others_N = score_NM.masked_fill(torch.eye(6, dtype=torch.bool), -torch.inf).logsumexp(1)
    # scores of 40 are rounded by 2e-6, which is the relative error of their exponentials
    torch.testing.assert_close(loss_N.double(), F.softplus(others_N - score_NM.diagonal()), rtol=2e-5, atol=0)
    assert (loss_N > 0).all()


def test_errors_name_the_culprit():
    query, key, bias_N = torch.zeros(3, 2), torch.zeros(4, 2), torch.zeros(3)
    with pytest.raises(ValueError, match=r"query_ND is \[3, 2\] and key_MD \[4, 5\], but both must be matrices of one"):
        pair_stats(query, torch.zeros(4, 5), bias_N)
    with pytest.raises(ValueError, match=r"key_MD torch.int64 on cpu, but both must be of a float dtype"):
        pair_stats(query, key.long(), bias_N)
    with pytest.raises(ValueError, match=r"row_bias_N is \[4\], but must be \[3\]"):
        pair_stats(query, key, torch.zeros(4))
    for first in (-1, 2):
        with pytest.raises(ValueError, match=f"3 rows and 4 keys, and first_positive is {first}, but there must be"):
            pair_stats(query, key, bias_N, first)
    for rows, keys in ((1, 1), (0, 3)):
        with pytest.raises(ValueError, match="each row needs its positive and a negative"):
            pair_stats(query[:rows], key[:keys], bias_N[:rows])
    with pytest.raises(ValueError, match="impl is 'fast'"):
        pair_stats(query, key, bias_N, impl="fast")
    with pytest.raises(ValueError, match="float64 has no place in the kernels"):
        pair_stats(query.double(), key, bias_N, impl="triton")
