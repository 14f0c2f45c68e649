"""Statistics of all pairs: facts known without the code, inputs that break such sums, and what is refused.

Shapes: N queries, M keys, D width.
"""

import math

import pytest
import torch
from torch.nn import functional as F

from infoprompt.kernels.pair_stats.op import pair_stats
from infoprompt.kernels.pair_stats.softplus_op import pair_softplus

IMPLS = ["reference", "chunked", "triton"]
INF = torch.inf


def features(rows, keys, width, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, width, generator=generator, dtype=dtype).requires_grad_() for n in (rows, keys)]


@pytest.mark.parametrize("impl", IMPLS)
def test_equal_scores_give_the_log_of_the_number_of_pairs(impl):
    query, key = torch.ones(3, 4), torch.full((5, 4), 0.5)
    stats = pair_stats(query, key, scale=1.5, impl=impl)
    torch.testing.assert_close(stats.positive_N, torch.full((3,), 3.0))
    torch.testing.assert_close(stats.row_lse_N, torch.full((3,), 3 + math.log(5)))
    torch.testing.assert_close(stats.col_lse_M, torch.full((5,), 3 + math.log(3)))
    apart = pair_stats(query, key, scale=1.5, exclude_positive=True, impl=impl)
    torch.testing.assert_close(apart.row_lse_N, torch.full((3,), 3 + math.log(4)))
    torch.testing.assert_close(apart.col_lse_M, 3 + torch.tensor([2.0, 2, 2, 3, 3]).log())


@pytest.mark.parametrize("impl", ["chunked", "reference"])
def test_symmetric_info_nce_is_torchs_cross_entropy_both_ways(impl):
    query, key = features(9, 9, 6, torch.float64)
    score_NN, target_N = 0.7 * query @ key.T, torch.arange(9)
    expected = (F.cross_entropy(score_NN, target_N) + F.cross_entropy(score_NN.T, target_N)) / 2
    stats = pair_stats(query, key, scale=0.7, impl=impl)
    loss = ((stats.row_lse_N + stats.col_lse_M) / 2 - stats.positive_N).mean()
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(*(torch.autograd.grad(x, (query, key)) for x in (loss, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("impl", IMPLS)
def test_queries_and_keys_exchange_rows_and_columns(impl):
    query, key = features(6, 6, 3)
    there, back = pair_stats(query, key, impl=impl), pair_stats(key, query, impl=impl)
    for ours, theirs in zip(there.transposed(), back, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("offset", [1e4, -1e4])
@pytest.mark.parametrize("impl", IMPLS)
def test_a_common_offset_moves_every_statistic_by_itself_and_no_gradient(impl, offset):
    # whole numbers, so that the scores are exact with the offset and without
    query, key = ((2 * x.detach()).round().requires_grad_() for x in features(5, 70, 4))
    results = []
    for bias_N in (torch.zeros(5), torch.full((5,), offset)):
        stats = pair_stats(query, key, row_bias_N=bias_N, impl=impl)
        loss = (stats.row_lse_N - stats.positive_N).sum() + (stats.col_lse_M[:5] - stats.positive_N).square().sum()
        moved = [stats.row_lse_N - bias_N, stats.col_lse_M - bias_N[0], stats.positive_N - bias_N]
        results.append([*moved, *torch.autograd.grad(loss, (query, key))])
    # a log-sum-exp near 1e4 is rounded to the nearest 0.001
    for plain, moved in zip(*results, strict=True):
        torch.testing.assert_close(moved, plain, rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_dominant_pair_is_all_of_its_row_and_column(impl):
    query, key = torch.zeros(3, 1), torch.zeros(4, 1)
    query[1], key[2] = 50.0, 40.0
    query.requires_grad_()
    stats = pair_stats(query, key, positive_N=torch.tensor([0, 2, -1]), impl=impl)
    assert stats.row_lse_N[1] == 2000
    assert stats.col_lse_M[2] == 2000
    # its probability is 1, so what remains of the gradient of the loss is nothing
    assert torch.autograd.grad(stats.row_lse_N[1] - stats.positive_N[1], query)[0].abs().max() == 0


@pytest.mark.parametrize("impl", IMPLS)
def test_a_positive_that_wins_by_far_keeps_its_digits_where_it_is_left_out(impl):
    query, key = features(6, 6, 4)
    bias = torch.zeros(6)
    positive = torch.full((6,), 2)
    bias[2] = 40.0  # float32 calls its probability 1
    stats = pair_stats(query, key, col_bias_M=bias, positive_N=positive, exclude_positive=True, impl=impl)
    loss_N = F.softplus(stats.row_lse_N - stats.positive_N)
    score_NM = query.double() @ key.double().T + bias.double()
    others_N = torch.cat([score_NM[:, :2], score_NM[:, 3:]], 1).logsumexp(1)
    # scores of 40 are rounded by 2e-6, which is the relative error of their exponentials
    torch.testing.assert_close(loss_N.double(), F.softplus(others_N - score_NM[:, 2]), rtol=2e-5, atol=0)
    assert (loss_N > 0).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_nothing_to_sum_gives_minus_infinity_and_no_gradient(impl):
    query, key = features(4, 3, 5)
    row_bias, col_bias = (torch.zeros(n, requires_grad=True) for n in (4, 3))
    row_masked, col_masked = torch.tensor([0.0, -INF, 0, 0]), torch.tensor([0.0, 0, -INF])
    stats = pair_stats(
        query,
        key,
        row_bias_N=row_bias + row_masked,
        col_bias_M=col_bias + col_masked,
        positive_N=torch.tensor([0, 1, 2, -1]),
        impl=impl,
    )
    assert stats.row_lse_N.isinf().tolist() == [False, True, False, False]
    assert stats.col_lse_M.isinf().tolist() == [False, False, True]
    assert stats.positive_N.isinf().tolist() == [False, True, True, True]
    upstream = [torch.linspace(1, 2, len(value)).masked_fill(value.isinf(), torch.nan) for value in stats]
    gradients = torch.autograd.grad(stats, (query, key, row_bias, col_bias), upstream)
    kept = pair_stats(query[[0, 2, 3]], key[:2], positive_N=torch.tensor([0, -1, -1]), impl=impl)
    kept_upstream = [upstream[0][[0, 2, 3]], upstream[1][[0, 2, 3]], upstream[2][:2]]
    expected = torch.autograd.grad(kept, (query, key), kept_upstream)
    torch.testing.assert_close(gradients[:2], expected)
    assert (gradients[0][1] == 0).all()
    assert (gradients[1][2] == 0).all()
    assert gradients[2][1] == gradients[3][2] == 0


@pytest.mark.parametrize("impl", IMPLS)
def test_a_single_pair_is_certain_and_leaves_nothing_when_excluded(impl):
    query, key = features(1, 1, 3)
    stats = pair_stats(query, key, impl=impl)
    torch.testing.assert_close(stats.row_lse_N, stats.positive_N)
    torch.testing.assert_close(stats.col_lse_M, stats.positive_N)
    apart = pair_stats(query, key, exclude_positive=True, impl=impl)
    assert apart.row_lse_N.item() == apart.col_lse_M.item() == -INF
    loss = F.softplus(apart.row_lse_N - apart.positive_N).sum()
    assert loss == 0
    assert all((grad == 0).all() for grad in torch.autograd.grad(loss, (query, key)))
    assert pair_softplus(query, key, impl=impl).row_sum_N == 0


@pytest.mark.parametrize(("rows", "keys"), [(0, 3), (3, 0), (0, 0)])
def test_no_pairs_at_all_are_no_error(rows, keys):
    query, key = features(rows, keys, 2)
    none_N = torch.full((rows,), -1)
    stats, sums = (op(query, key, positive_N=none_N, impl="chunked") for op in (pair_stats, pair_softplus))
    assert [len(x) for x in stats] == [rows, rows, keys]
    assert all((x == -INF).all() for x in stats)
    assert (sums.row_sum_N == 0).all()
    torch.cat([*stats, *sums]).masked_fill(torch.tensor(True), 0).sum().backward()
    assert (query.grad == 0).all()
    assert (key.grad == 0).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_a_scale_of_zero_still_has_its_gradient(impl):
    query, key = features(4, 5, 3)
    scale = torch.tensor(0.0, requires_grad=True)
    (grad,) = torch.autograd.grad(pair_stats(query, key, scale=scale, impl=impl).row_lse_N.sum(), scale)
    torch.testing.assert_close(grad, (query @ key.T).mean(1).sum())


@pytest.mark.parametrize("impl", IMPLS)
def test_clamped_scores_are_limited_but_masked_pairs_stay_out(impl):
    query, key = features(7, 8, 3)
    bias, positive = torch.zeros(8), torch.tensor([0, 1, 2, 3, 3, 5, -1])
    bias[7] = -INF
    with torch.no_grad():
        stats = pair_stats(
            query, key, scale=3.0, col_bias_M=bias, positive_N=positive, exclude_positive=True, clamp=1.0, impl=impl
        )
    score_NM = 3 * query @ key.T
    counted = (torch.arange(8) != positive.unsqueeze(1)) & (bias == 0)
    plain_NM = score_NM.clamp(-1, 1).exp() * counted
    torch.testing.assert_close(stats.row_lse_N, plain_NM.sum(1).log())
    torch.testing.assert_close(stats.col_lse_M, plain_NM.sum(0).log())
    torch.testing.assert_close(stats.positive_N[:6], score_NM[torch.arange(6), positive[:6]])  # as they are


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    ("score", "softplus"), [(0.0, math.log(2)), (-10.0, 4.539889921e-05), (-30.0, 9.357622968840e-14)]
)
def test_softplus_is_right_to_the_last_digits_of_tiny_values(impl, score, softplus):
    query, key = torch.ones(3, 1), torch.full((6, 1), score)
    sums = pair_softplus(query, key, impl=impl)
    # a score of 30 is rounded by 1e-6, in bits by 2e-6, which is the relative error of its exponential
    torch.testing.assert_close(sums.row_sum_N, torch.full((3,), 5 * softplus), rtol=2e-6, atol=0)
    large = pair_softplus(query, torch.full((6, 1), 500.0), impl=impl)
    torch.testing.assert_close(large.row_sum_N, torch.full((3,), 2500.0))


@pytest.mark.parametrize("impl", ["chunked", "reference"])
def test_siglip_is_torchs_binary_cross_entropy(impl):
    query, key = features(6, 6, 4, torch.float64)
    bias = torch.tensor(-2.0, dtype=torch.float64, requires_grad=True)
    label_NN = torch.eye(6, dtype=torch.float64)
    expected = F.binary_cross_entropy_with_logits(1.7 * query @ key.T + bias, label_NN, reduction="sum") / 6
    sums = pair_softplus(query, key, scale=1.7, row_bias_N=bias.expand(6), impl=impl)
    loss = (F.softplus(-sums.positive_N) + sums.row_sum_N).mean()
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(*(torch.autograd.grad(x, (query, key, bias)) for x in (loss, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("op", [pair_stats, pair_softplus])
def test_errors_name_the_culprit(op):
    query, key = torch.zeros(3, 2), torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"query_ND is \[3, 2\] and key_MD \[4, 5\], but both must be matrices of one"):
        op(query, torch.zeros(4, 5))
    with pytest.raises(ValueError, match=r"key_MD torch.int64 on cpu, but both must be of a float dtype"):
        op(query, key.long())
    with pytest.raises(ValueError, match=r"scale is \[1\], but must be a number"):
        op(query, key, scale=torch.ones(1))
    with pytest.raises(ValueError, match=r"row_bias_N is \[4\], but must be \[3\]"):
        op(query, key, row_bias_N=torch.zeros(4))
    with pytest.raises(ValueError, match=r"col_bias_M is \[3\], but must be \[4\]"):
        op(query, key, col_bias_M=torch.zeros(3))
    with pytest.raises(ValueError, match="there are 4 rows and 3 keys"):
        op(key, query)
    with pytest.raises(ValueError, match=r"positive_N is torch.float32, but holds columns"):
        op(query, key, positive_N=torch.zeros(3))
    for column in (4, -2):
        with pytest.raises(ValueError, match="from 0 to 3, or -1 for none"):
            op(query, key, positive_N=torch.full((3,), column))
    with pytest.raises(ValueError, match="impl is 'fast'"):
        op(query, key, impl="fast")
    with pytest.raises(ValueError, match="float64 has no place in the kernels"):
        op(query.double(), key, impl="triton")


@pytest.mark.parametrize("impl", IMPLS)
def test_a_clamp_is_refused_where_a_gradient_is_needed(impl):
    query, key = features(3, 4, 2)
    with pytest.raises(ValueError, match=r"clamp is 5.0, but a clamped log-sum-exp has no gradient here"):
        pair_stats(query, key, clamp=5.0, impl=impl)
