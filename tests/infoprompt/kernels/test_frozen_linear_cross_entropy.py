"""Cross-entropy of a frozen head: facts known without the code, inputs that break such losses, and what is refused.

Shapes: N rows, V words, D hidden width.
"""

import math

import pytest
import torch
from torch.nn import functional as F

from infoprompt.kernels.frozen_linear_cross_entropy import chunked
from infoprompt.kernels.frozen_linear_cross_entropy.op import frozen_linear_cross_entropy

IMPLS = ["reference", "chunked", "triton"]


def head(rows, words, width, dtype=torch.float32, seed=0):
    """States, a head with a bias, and targets."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    target_N = torch.randint(words, (rows,), generator=generator)
    return draw(rows, width).requires_grad_(), draw(words, width), target_N, draw(words)


@pytest.mark.parametrize("impl", IMPLS)
def test_equal_logits_give_the_log_of_the_number_of_words_and_pull_to_the_mean_word(impl):
    _, weight_VD, target_N, _ = head(3, 37, 5)
    hidden_ND = torch.zeros(3, 5, requires_grad=True)
    loss_N = frozen_linear_cross_entropy(hidden_ND, weight_VD, target_N, impl=impl)
    loss_N.sum().backward()
    torch.testing.assert_close(loss_N, torch.full((3,), math.log(37)))
    torch.testing.assert_close(hidden_ND.grad, weight_VD.mean(0) - weight_VD[target_N])


@pytest.mark.parametrize("impl", IMPLS)
def test_one_word_is_certain(impl):
    hidden_ND, weight_VD, _, bias_V = head(4, 1, 3)
    target_N = torch.zeros(4, dtype=torch.long)
    loss_N = frozen_linear_cross_entropy(hidden_ND, weight_VD, target_N, bias_V, impl=impl)
    loss_N.sum().backward()
    assert (loss_N == 0).all()
    assert (hidden_ND.grad == 0).all()


@pytest.mark.parametrize("impl", ["reference", "chunked"])
def test_it_is_torchs_cross_entropy_of_the_logits(impl):
    hidden_ND, weight_VD, target_N, bias_V = head(9, 23, 6, torch.float64)
    expected_N = F.cross_entropy(F.linear(hidden_ND, weight_VD, bias_V), target_N, reduction="none")
    ours_N = frozen_linear_cross_entropy(hidden_ND, weight_VD, target_N, bias_V, impl=impl)
    torch.testing.assert_close(ours_N, expected_N)
    gradients = [torch.autograd.grad(loss_N.square().sum(), hidden_ND)[0] for loss_N in (ours_N, expected_N)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_capped_logit_never_passes_its_cap(impl):
    hidden_ND = torch.tensor([[1000.0], [-1000.0]])
    weight_VD, target_N = torch.tensor([[1.0], [0.0]]), torch.tensor([0, 0])
    loss_N = frozen_linear_cross_entropy(hidden_ND, weight_VD, target_N, softcap=2.0, impl=impl)
    lse = torch.tensor([math.log(math.exp(2) + 1), math.log(math.exp(-2) + 1)])
    torch.testing.assert_close(loss_N, lse - torch.tensor([2.0, -2.0]))


@pytest.mark.parametrize("impl", IMPLS)
def test_a_cap_far_above_the_logits_changes_nothing(impl):
    hidden_ND, weight_VD, target_N, _ = head(5, 70, 4)
    free_N, capped_N = (
        frozen_linear_cross_entropy(hidden_ND, weight_VD, target_N, softcap=cap, impl=impl) for cap in (None, 1e4)
    )
    torch.testing.assert_close(free_N, capped_N, rtol=1e-6, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), hidden_ND)[0] for loss in (free_N, capped_N)))


@pytest.mark.parametrize("offset", [1e4, -1e4])
@pytest.mark.parametrize("impl", IMPLS)
def test_a_common_offset_changes_nothing(impl, offset):
    # whole numbers, so that the logits are exact with the offset and without
    hidden_ND, weight_VD, target_N, _ = head(5, 70, 4)
    hidden_ND, weight_VD = (hidden_ND.detach() * 2).round().requires_grad_(), (weight_VD * 2).round()
    results = []
    for bias_V in (torch.zeros(70), torch.full((70,), offset)):
        loss_N = frozen_linear_cross_entropy(hidden_ND, weight_VD, target_N, bias_V, impl=impl)
        results += [loss_N.detach(), torch.autograd.grad(loss_N.sum(), hidden_ND)[0]]
    torch.testing.assert_close(results[2:], results[:2], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("impl", ["chunked", "triton"])
def test_a_target_that_is_nearly_certain_keeps_its_digits(impl):
    hidden_ND, weight_VD, _, bias_V = head(6, 50, 8)
    target_N = torch.full((6,), 4)
    bias_V[4] = 32.0  # float32 calls its probability 1, so torch's loss and gradient lose all digits

    loss_N = frozen_linear_cross_entropy(hidden_ND, weight_VD, target_N, bias_V, impl=impl)
    grad_ND = torch.autograd.grad(loss_N.sum(), hidden_ND)[0]
    logits_NV = F.linear(hidden_ND.double(), weight_VD.double(), bias_V.double())
    others_N = torch.cat([logits_NV[:, :4], logits_NV[:, 5:]], 1).logsumexp(1)
    true_N = F.softplus(others_N - logits_NV[:, 4])
    true_ND = torch.autograd.grad(true_N.sum(), hidden_ND)[0]
    assert (true_N < 3e-8).all()
    # logits of 32 are rounded by 2e-6, which is the relative error of their exponentials
    torch.testing.assert_close(loss_N.double(), true_N, rtol=1e-5, atol=0)
    assert ((grad_ND - true_ND).norm(dim=1) < 1e-5 * true_ND.norm(dim=1)).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_a_dominant_word_that_is_not_the_target_costs_its_lead(impl):
    hidden_ND = torch.ones(1, 1, requires_grad=True)
    weight_VD = torch.zeros(40, 1)
    weight_VD[3] = 500.0
    loss = frozen_linear_cross_entropy(hidden_ND, weight_VD, torch.tensor([7]), impl=impl)
    loss.backward()
    assert loss == 500
    assert hidden_ND.grad == 500


@pytest.mark.parametrize("impl", IMPLS)
def test_no_rows_have_no_losses(impl):
    hidden_ND, weight_VD, target_N, _ = head(3, 11, 4)
    loss_N = frozen_linear_cross_entropy(hidden_ND[:0], weight_VD, target_N[:0], impl=impl)
    loss_N.sum().backward()
    assert loss_N.shape == (0,)
    assert (hidden_ND.grad == 0).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_a_word_that_a_bias_rules_out_counts_for_nothing(impl):
    hidden_ND, weight_VD, target_N, bias_V = head(4, 12, 5)
    target_N %= 6
    bias_V[6:] = -torch.inf
    loss = frozen_linear_cross_entropy(hidden_ND, weight_VD, target_N, bias_V, impl=impl)
    fewer = frozen_linear_cross_entropy(hidden_ND, weight_VD[:6], target_N, bias_V[:6], impl=impl)
    torch.testing.assert_close(loss, fewer)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), hidden_ND)[0] for x in (loss, fewer)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_ND": torch.zeros(2, 4)}, r"hidden_ND is \[2, 4\] and weight_VD \[5, 3\]"),
        ({"hidden_ND": torch.zeros(2, 1, 3)}, r"must be \[N, D\]"),
        ({"weight_VD": torch.zeros(5, 3, dtype=torch.int8)}, "floating point"),
        ({"target_N": torch.zeros(3, dtype=torch.long)}, r"target_N is \[3\] of torch.int64, but must be \[2\]"),
        ({"target_N": torch.zeros(2)}, "of torch.float32"),
        ({"target_N": torch.tensor([0, 5])}, r"target_N has 5, but weight_VD has 5 words, 0 to 4"),
        ({"target_N": torch.tensor([0, -1])}, "Select the rows with a target before"),
        ({"bias_V": torch.zeros(2)}, r"bias_V is \[2\], but must be \[5\]"),
        ({"weight_VD": torch.zeros(5, 3, requires_grad=True)}, r"use torch\.nn\.functional\.linear_cross_entropy"),
        ({"bias_V": torch.zeros(5, requires_grad=True)}, r"call requires_grad_\(False\)"),
        ({"softcap": 0.0}, r"softcap is 0\.0, but must be above 0"),
        ({"impl": "fast"}, "impl is 'fast', but frozen_linear_cross_entropy has"),
    ],
)
def test_errors_name_the_culprit_and_the_way_out(change, message):
    arguments = {
        "hidden_ND": torch.zeros(2, 3),
        "weight_VD": torch.zeros(5, 3),
        "target_N": torch.zeros(2, dtype=torch.long),
        **change,
    }
    with pytest.raises(ValueError, match=message):
        frozen_linear_cross_entropy(**arguments)


def test_a_trained_head_may_be_evaluated():
    hidden_ND, weight_VD, target_N, _ = head(3, 11, 4)
    with torch.no_grad():
        loss_N = frozen_linear_cross_entropy(hidden_ND, weight_VD.requires_grad_(), target_N)
    torch.testing.assert_close(loss_N.mean(), F.cross_entropy(F.linear(hidden_ND, weight_VD), target_N))


def test_a_target_out_of_range_where_it_is_not_looked_for_has_an_infinite_loss():
    from infoprompt.kernels.frozen_linear_cross_entropy.rows import row_statistics

    hidden_ND, weight_VD, _, _ = head(2, 11, 4)
    target_N = torch.tensor([11, -3])
    others = chunked.others_in_tiles(hidden_ND.detach(), weight_VD, target_N, None, None, True)
    statistics = row_statistics(others, hidden_ND.detach(), weight_VD, target_N, None, None)
    assert (statistics.loss_N == torch.inf).all()
    assert statistics.others_GD.isfinite().all()
    assert (statistics.slope_G == 0).all()
