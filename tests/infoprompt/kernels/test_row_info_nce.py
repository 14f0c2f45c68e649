"""InfoNCE per row: facts known without the code, and one distribution in two forms."""

import math

import pytest
import torch

from infoprompt.kernels.row_info_nce.op import (
    embedded_row_info_nce,
    exact_gaussian_row_info_nce,
    gaussian_row_info_nce,
    row_info_nce,
    token_row_info_nce,
    token_scores,
)


def scores(batch: int, negatives: int, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(0)
    positive_B = torch.randn(batch, generator=generator, dtype=dtype)
    negative_BK = torch.randn(batch, negatives, generator=generator, dtype=dtype)
    return positive_B.requires_grad_(), negative_BK.requires_grad_()


@pytest.mark.parametrize("negatives", [1, 7, 32])
def test_equal_scores_give_the_log_of_the_number_of_choices(negatives):
    loss_B = row_info_nce(torch.full((3,), 2.5), torch.full((3, negatives), 2.5))
    torch.testing.assert_close(loss_B, torch.full((3,), math.log(negatives + 1)))


def test_a_common_offset_changes_nothing():
    positive_B, negative_BK = scores(5, 9)
    torch.testing.assert_close(row_info_nce(positive_B + 1e4, negative_BK + 1e4), row_info_nce(positive_B, negative_BK))


def test_the_loss_is_the_cross_entropy_of_the_positive():
    positive_B, negative_BK = scores(6, 11)
    logits = torch.cat([positive_B.unsqueeze(1), negative_BK], 1)
    expected = torch.nn.functional.cross_entropy(logits, torch.zeros(6, dtype=torch.long), reduction="none")
    torch.testing.assert_close(row_info_nce(positive_B, negative_BK), expected)


def test_masked_negatives_do_not_count():
    positive_B, negative_BK = scores(4, 6)
    keep_BK = torch.arange(6).expand(4, -1) < torch.tensor([[6], [3], [1], [2]])
    loss_B = row_info_nce(positive_B, negative_BK.masked_fill(~keep_BK, 1e30), keep_BK)
    for row, count in enumerate([6, 3, 1, 2]):
        alone = row_info_nce(positive_B[row : row + 1], negative_BK[row : row + 1, :count])
        torch.testing.assert_close(loss_B[row : row + 1], alone)


def test_a_row_without_negatives_has_no_loss_and_no_gradient():
    positive_B, negative_BK = scores(2, 3)
    keep_BK = torch.tensor([[False, False, False], [True, True, False]])
    loss_B = row_info_nce(positive_B, negative_BK, keep_BK)
    loss_B.sum().backward()
    assert loss_B[0] == 0
    assert positive_B.grad[0] == 0
    assert (negative_BK.grad[0] == 0).all()
    assert torch.isfinite(positive_B.grad).all()
    assert positive_B.grad[1] < 0


@pytest.mark.parametrize("shape", [(1, 1), (4, 7)])
def test_gradients_agree_with_finite_differences(shape):
    positive_B, negative_BK = scores(*shape)
    assert torch.autograd.gradcheck(row_info_nce, (positive_B, negative_BK))
    mean_B, std_B = negative_BK[:, 0].detach().requires_grad_(), torch.full((shape[0],), 0.7).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: exact_gaussian_row_info_nce(*x, 32), (positive_B, mean_B, std_B))


def test_scalar_draws_have_the_distribution_of_scored_latents():
    # sigma * eps . u  against  |sigma * u| * eps, as in the released code's form
    generator = torch.Generator().manual_seed(0)
    mean_Z, log_std_Z, direction_Z = (torch.randn(3, 8, generator=generator) * 0.4).unbind()
    draws_NZ = mean_Z + log_std_Z.exp() * torch.randn(200_000, 8, generator=generator)
    scored_N = draws_NZ @ direction_Z
    std = (log_std_Z.exp() * direction_Z).norm()
    # standard error of a mean of 200,000 draws is 0.0022 standard deviations; five of them are allowed
    assert abs(scored_N.mean() - mean_Z @ direction_Z) < 0.012 * std
    assert abs(scored_N.std() / std - 1) < 0.01


def test_the_exact_loss_is_the_limit_of_many_draws():
    generator = torch.Generator().manual_seed(0)
    positive_B, mean_B = torch.tensor([0.3, 2.0]), torch.tensor([0.1, -0.5])
    std_B = torch.tensor([0.4, 0.9])
    noise_BK = torch.randn(2, 400_000, generator=generator)
    sampled_B = gaussian_row_info_nce(positive_B, mean_B, std_B, noise_BK)
    exact_B = exact_gaussian_row_info_nce(positive_B, mean_B, std_B, 400_000)
    # relative error of the mean of exp(score) over 400,000 draws is below 0.2 %, five times that is allowed
    torch.testing.assert_close(sampled_B, exact_B, rtol=0, atol=0.01)


def test_the_exact_loss_bounds_the_expected_sampled_one_from_above():
    generator = torch.Generator().manual_seed(0)
    positive_B, mean_B, std_B = torch.zeros(2000), torch.zeros(2000), torch.ones(2000)
    sampled = gaussian_row_info_nce(positive_B, mean_B, std_B, torch.randn(2000, 32, generator=generator)).mean()
    exact = exact_gaussian_row_info_nce(positive_B, mean_B, std_B, 32).mean()
    assert sampled < exact < sampled + 0.1


def test_a_negative_may_count_more_than_once():
    positive_B, negative_BK = scores(2, 3)
    twice_BK = torch.tensor([[2, 0, 1], [1, 1, 3]])
    spelled_out = [negative_BK[0, [0, 0, 2]].unsqueeze(0), negative_BK[1, [0, 1, 2, 2, 2]].unsqueeze(0)]
    loss_B = row_info_nce(positive_B, negative_BK, twice_BK)
    for row, alone in enumerate(spelled_out):
        torch.testing.assert_close(loss_B[row : row + 1], row_info_nce(positive_B[row : row + 1], alone))


@pytest.mark.parametrize("vocabulary", [5, 500])  # fewer rows than tokens are scored once, more are looked up first
def test_tokens_and_their_vectors_and_the_scores_of_those_give_one_loss(vocabulary):
    generator = torch.Generator().manual_seed(0)
    table_VE = torch.randn(vocabulary, 6, generator=generator, dtype=torch.float64)
    ids_BL = torch.randint(0, vocabulary, (4, 7), generator=generator)
    keep_BL = torch.rand(4, 7, generator=generator) < 0.7
    positive_B, direction_E = scores(4, 6)[0], scores(1, 6)[1].detach().squeeze(0).requires_grad_()
    losses = [
        row_info_nce(positive_B, token_scores(table_VE[ids_BL], direction_E), keep_BL, impl="reference"),
        embedded_row_info_nce(positive_B, table_VE[ids_BL], keep_BL, direction_E),
        token_row_info_nce(positive_B, ids_BL, keep_BL, table_VE, direction_E),
    ]
    gradients = [torch.autograd.grad(loss_B.square().sum(), (positive_B, direction_E)) for loss_B in losses]
    for i in (1, 2):
        torch.testing.assert_close(losses[i], losses[0])
        torch.testing.assert_close(gradients[i], gradients[0])


def test_tokens_that_are_all_the_same_word_are_as_many_equal_scores():
    table_VE, direction_E = torch.eye(3), torch.tensor([0.5, 1.5, -2.0])
    loss_B = token_row_info_nce(torch.tensor([1.5]), torch.ones(1, 9, dtype=torch.long), None, table_VE, direction_E)
    assert loss_B.item() == pytest.approx(math.log(10))


def test_token_scores_are_dot_products():
    embeddings_BLE = torch.arange(12.0).reshape(1, 3, 4)
    direction_E = torch.tensor([1.0, 0.0, 0.0, 2.0])
    torch.testing.assert_close(token_scores(embeddings_BLE, direction_E), torch.tensor([[6.0, 18.0, 30.0]]))


def test_errors_name_the_culprit():
    with pytest.raises(ValueError, match="negative_BK has 3 rows, but positive_B has 2"):
        row_info_nce(torch.zeros(2), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="keep_BK is"):
        row_info_nce(torch.zeros(2), torch.zeros(2, 4), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="num_negatives is 0"):
        exact_gaussian_row_info_nce(torch.zeros(2), torch.zeros(2), torch.zeros(2), 0)
    with pytest.raises(ValueError, match="impl is 'cuda'"):
        row_info_nce(torch.zeros(2), torch.zeros(2, 4), impl="cuda")
    with pytest.raises(ValueError, match="direction_E has 3 entries"):
        token_scores(torch.zeros(1, 2, 4), torch.zeros(3))
    with pytest.raises(ValueError, match="embeddings_BLE is 4 wide"):
        embedded_row_info_nce(torch.zeros(1), torch.zeros(1, 2, 4), None, torch.zeros(3))
    with pytest.raises(ValueError, match=r"keep_BL is \[1, 3\], but must have the shape \[1, 2\]"):
        embedded_row_info_nce(torch.zeros(1), torch.zeros(1, 2, 4), torch.ones(1, 3), torch.zeros(4))
    ids_BL, table_VE = torch.zeros(1, 2, dtype=torch.long), torch.zeros(3, 4, requires_grad=True)
    with pytest.raises(ValueError, match="table_VE requires a gradient"):
        token_row_info_nce(torch.zeros(1), ids_BL, None, table_VE, torch.zeros(4))
    with pytest.raises(ValueError, match="table_VE is 4 wide"):
        token_row_info_nce(torch.zeros(1), ids_BL, None, table_VE.detach(), torch.zeros(3))
    with pytest.raises(ValueError, match="noise_BK requires a gradient"):
        gaussian_row_info_nce(torch.zeros(1), torch.zeros(1), torch.ones(1), torch.zeros(1, 2, requires_grad=True))
    with pytest.raises(ValueError, match="impl is 'triton', but float64 has no Triton kernels"):
        row_info_nce(torch.zeros(2).double(), torch.zeros(2, 4), impl="triton")
