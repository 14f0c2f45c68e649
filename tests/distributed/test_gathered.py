"""Gradients under negatives from four ranks, of right schemes and of wrong ones that are in use.

Every scheme is written for ranks whose parameter gradients a trainer averages, as DistributedDataParallel does. Its
gradients are compared with those of the loss of the whole batch in one process. Letters: N rows of a rank, M its keys,
A rows of all ranks, D width.
"""

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F

from infoprompt.kernels.gathered import gather_rows, gathered_mean, gathered_pair_stats
from infoprompt.kernels.pair_stats.op import pair_stats
from infoprompt.kernels.pair_stats.softplus_op import pair_softplus

pytestmark = pytest.mark.distributed

RANKS, ROWS, WIDTH = 4, 6, 5


def parameters():
    """Two towers and a scale, the same on every rank."""
    generator = torch.Generator().manual_seed(0)
    towers = torch.randn(2, 7, WIDTH, generator=generator, dtype=torch.float64)
    return [*(tower.requires_grad_() for tower in towers), torch.tensor(1.3, dtype=torch.float64, requires_grad=True)]


def inputs(num_rows):
    """What the towers read, of all ranks."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, num_rows, 7, generator=generator, dtype=torch.float64) / 2


def part(counts):
    """This rank's rows."""
    start = sum(counts[: dist.get_rank()])
    return slice(start, start + counts[dist.get_rank()])


def symmetric(query_ND, key_ND, scale):
    """CLIP's loss of a whole batch."""
    score_NN = scale * query_ND @ key_ND.T
    target_N = torch.arange(len(score_NN))
    return (F.cross_entropy(score_NN, target_N) + F.cross_entropy(score_NN.T, target_N)) / 2


def one_sided(rows_ND, others_AD, scale):
    """Cross-entropy of this rank's rows against the others of all ranks."""
    target_N = torch.arange(len(rows_ND)) + dist.get_rank() * len(rows_ND)
    return F.cross_entropy(scale * rows_ND @ others_AD.T, target_N)


def gathered_without_grad(rows_ND, keep_own):
    parts = [torch.empty_like(rows_ND) for _ in range(RANKS)]
    dist.all_gather(parts, rows_ND.detach())
    if keep_own:
        parts[dist.get_rank()] = rows_ND
    return torch.cat(parts)


def whole_loss_own_slice(q, k, scale):
    return symmetric(gathered_without_grad(q, True), gathered_without_grad(k, True), scale)


def whole_loss_own_slice_times_ranks(q, k, scale):
    return RANKS * whole_loss_own_slice(q, k, scale)


def whole_loss_with_grad(q, k, scale):
    return symmetric(gather_rows(q), gather_rows(k), scale)


def local_loss_with_grad(q, k, scale):
    return (one_sided(q, gather_rows(k), scale) + one_sided(k, gather_rows(q), scale)) / 2


def local_loss_others_detached(q, k, scale):
    others = [gathered_without_grad(x, False) for x in (k, q)]
    return (one_sided(q, others[0], scale) + one_sided(k, others[1], scale)) / 2


def local_loss_own_slice(q, k, scale):
    others = [gathered_without_grad(x, True) for x in (k, q)]
    return (one_sided(q, others[0], scale) + one_sided(k, others[1], scale)) / 2


def info_nce(stats):
    return (stats.row_lse_N + stats.col_lse_M) / 2 - stats.positive_N


def ours(q, k, scale):
    return gathered_mean(info_nce(gathered_pair_stats(q, k, scale=scale)))


def ours_exchanging_statistics(q, k, scale):
    return gathered_mean(info_nce(gathered_pair_stats(q, k, scale=scale, exchange="statistics")))


def ours_for_a_sum(q, k, scale):
    return gathered_mean(info_nce(gathered_pair_stats(q, k, scale=scale)), grad_reduction="sum")


SCHEMES = [
    whole_loss_own_slice,
    whole_loss_own_slice_times_ranks,
    whole_loss_with_grad,
    local_loss_with_grad,
    local_loss_others_detached,
    local_loss_own_slice,
    ours,
    ours_exchanging_statistics,
    ours_for_a_sum,
]


def reduced(gradients, by_sum=False):
    for gradient in gradients:
        dist.all_reduce(gradient)
    return gradients if by_sum else [gradient / RANKS for gradient in gradients]


def against(gradients, truth):
    """Ratio to the true gradient and cosine between them, of both towers together and of the scale."""
    towers, true_towers = (torch.cat([x.flatten() for x in found[:2]]) for found in (gradients, truth))
    ratio = towers @ true_towers / true_towers.square().sum()
    cosine = F.cosine_similarity(towers, true_towers, dim=0)
    return ratio.item(), cosine.item(), (gradients[2] / truth[2]).item()


def measure():
    """Each scheme against the loss of the whole batch."""
    dist.init_process_group("gloo")
    x_A, y_A = inputs(RANKS * ROWS)
    first, second, scale = parameters()
    truth = torch.autograd.grad(symmetric(x_A @ first, y_A @ second, scale), (first, second, scale))
    own = part([ROWS] * RANKS)
    found = {}
    for scheme in SCHEMES:
        loss = scheme(x_A[own] @ first, y_A[own] @ second, scale)
        gradients = list(torch.autograd.grad(loss, (first, second, scale)))
        found[scheme.__name__] = against(reduced([g.clone() for g in gradients]), truth)
        if scheme is ours:
            dist.all_reduce(gradients[2])  # as Inf-CL's ring does, before the trainer's own reduction
            found["ours_with_reduced_scale"] = against(reduced(gradients), truth)
        elif scheme is ours_for_a_sum:
            found["ours_for_a_sum_summed"] = against(reduced(gradients, by_sum=True), truth)
    results = found, measure_uneven(), measure_softplus()
    dist.destroy_process_group()
    return results


def measure_uneven():
    """Largest errors of statistics and gradients: ranks of different size, hard negatives, biases, and no positive."""
    num_rows, extra = [6, 3, 0, 5], [2, 0, 4, 1]
    num_keys = [rows + more for rows, more in zip(num_rows, extra, strict=True)]
    rows, keys = part(num_rows), part(num_keys)
    generator = torch.Generator().manual_seed(2)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    whole = [draw(sum(num_rows), WIDTH), draw(sum(num_keys), WIDTH), draw(sum(num_rows)), draw(sum(num_keys))]
    upstream = [draw(sum(num_rows)), draw(sum(num_rows)), draw(sum(num_keys))]
    slices, firsts = (rows, keys, rows, keys), [sum(num_keys[:rank]) for rank in range(RANKS)]
    positive_A = torch.cat([first + torch.arange(count) for first, count in zip(firsts, num_rows, strict=True)])
    positive_A[4] = -1
    local_N = torch.where(positive_A[rows] < 0, -1, positive_A[rows] - keys.start)
    errors = []
    for exclude in (False, True):
        scale = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
        query, key, row_bias, col_bias = (x.clone().requires_grad_() for x in whole)
        options = {"scale": scale, "exclude_positive": exclude}
        true = pair_stats(
            query, key, row_bias_N=row_bias, col_bias_M=col_bias, positive_N=positive_A, impl="reference", **options
        )
        loss = total(true, upstream)
        truth = torch.autograd.grad(loss, (query, key, row_bias, col_bias, scale))
        for exchange in ("gradients", "statistics"):
            leaves = [x[at].clone().requires_grad_() for x, at in zip(whole, slices, strict=True)]
            stats = gathered_pair_stats(
                *leaves[:2],
                row_bias_N=leaves[2],
                col_bias_M=leaves[3],
                positive_N=local_N,
                exchange=exchange,
                **options,
            )
            # a sum over ranks of losses, so features get the gradient of all of it, and the scale its share
            shares = [value[at] for value, at in zip(upstream, (rows, rows, keys), strict=True)]
            gradients = torch.autograd.grad(total(stats, shares), (*leaves, scale))
            dist.all_reduce(gradients[4])
            expected = [
                *(value[at] for value, at in zip(true, (rows, rows, keys), strict=True)),
                *(value[at] for value, at in zip(truth[:4], slices, strict=True)),
                truth[4],
            ]
            for ours_, theirs in zip((*stats, *gradients), expected, strict=True):
                assert ours_.shape == theirs.shape
                assert torch.equal(ours_.isinf(), theirs.isinf())
                difference = (ours_ - theirs)[~theirs.isinf()].abs()
                errors.append(difference.max().item() if len(difference) else 0.0)
        mean = gathered_mean(total_of_rows(true)[rows])
        dist.all_reduce(mean)
        errors.append((mean / RANKS - total_of_rows(true).mean()).abs().item())
    return errors


def total(stats, upstream):
    return sum((value.masked_fill(value.isinf(), 0) * grad).sum() for value, grad in zip(stats, upstream, strict=True))


def total_of_rows(stats):
    return stats.row_lse_N


def measure_softplus():
    """SigLIP's loss over gathered keys."""
    x_A, y_A = inputs(RANKS * ROWS)
    first, second, scale = parameters()
    own = part([ROWS] * RANKS)

    def loss_of(query, key, positive):
        found = pair_softplus(query, key, scale=scale, positive_N=positive)
        return F.softplus(-found.positive_N) + found.row_sum_N

    whole = loss_of(x_A @ first, y_A @ second, None).mean()
    truth = torch.autograd.grad(whole, (first, second, scale))
    own_rows = loss_of(x_A[own] @ first, gather_rows(y_A[own] @ second), torch.arange(own.start, own.stop))
    gradients = torch.autograd.grad(gathered_mean(own_rows), (first, second, scale))
    return against(reduced(list(gradients)), truth)


@pytest.fixture(scope="module")
def found():
    """Filled by the first test that asks: starting processes costs more than what they do."""
    return {}


@pytest.fixture
def results(found, run_distributed):
    if not found:
        found["ranks"] = run_distributed(__file__, "measure", world_size=RANKS, seconds=120)
    return found["ranks"]


RIGHT = [
    "whole_loss_with_grad",
    "local_loss_with_grad",
    "ours",
    "ours_exchanging_statistics",
    "ours_for_a_sum_summed",
]


@pytest.mark.parametrize("scheme", RIGHT)
def test_right_schemes_have_the_gradients_of_the_whole_batch(results, scheme):
    for schemes, _, _ in results:
        assert schemes[scheme] == pytest.approx((1, 1, 1), abs=1e-10)


# ratio of the towers' gradient to the true one, and of the scale's
WRONG = {
    "whole_loss_own_slice": (1 / RANKS, 1),
    "whole_loss_own_slice_times_ranks": (1, RANKS),
    "ours_with_reduced_scale": (1, RANKS),
    "ours_for_a_sum": (1 / RANKS, 1 / RANKS),
}


@pytest.mark.parametrize("scheme", WRONG)
def test_wrong_schemes_are_wrong_by_known_factors(results, scheme):
    towers, cosine, scale = results[0][0][scheme]
    assert (towers, scale) == pytest.approx(WRONG[scheme], abs=1e-10)
    assert cosine == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("scheme", ["local_loss_others_detached", "local_loss_own_slice"])
def test_a_local_loss_that_keeps_gradients_to_itself_points_elsewhere(results, scheme):
    _, cosine, scale = results[0][0][scheme]
    assert cosine < 0.98
    assert scale == pytest.approx(1, abs=1e-10)


def test_ranks_may_differ_in_rows_and_bring_hard_negatives(results):
    for _, errors, _ in results:
        # float64, sums of some tens of terms of the order of 1 to 10
        assert max(errors) < 1e-12


def test_softplus_over_gathered_keys_has_the_gradients_of_the_whole_batch(results):
    for _, _, ratios in results:
        assert ratios == pytest.approx((1, 1, 1), abs=1e-10)


def test_alone_it_is_the_op_itself():
    query, key = torch.randn(2, 5, 3, dtype=torch.float64)
    for ours_, theirs in zip(gathered_pair_stats(query, key), pair_stats(query, key), strict=True):
        assert torch.equal(ours_, theirs)
    assert gather_rows(query) is query
    assert gathered_mean(query[0]) == query[0].mean()
    with pytest.raises(ValueError, match="exchange is 'ring'"):
        gathered_pair_stats(query, key, exchange="ring")
    with pytest.raises(ValueError, match="grad_reduction is 'avg'"):
        gathered_mean(query[0], grad_reduction="avg")
