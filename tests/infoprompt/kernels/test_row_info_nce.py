"""InfoNCE per row: facts known without the code, and one distribution in two forms."""

import math

import pytest
import torch
from scipy import stats

from infoprompt.kernels.row_info_nce.op import (
    embedded_row_info_nce,
    exact_gaussian_row_info_nce,
    gaussian_row_info_nce,
    token_scores,
)
from infoprompt.kernels.row_info_nce.reference import row_info_nce_reference as row_info_nce


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


def test_vectors_and_the_scores_of_those_give_one_loss():
    generator = torch.Generator().manual_seed(0)
    embeddings_BLE = torch.randn(4, 7, 6, generator=generator, dtype=torch.float64)
    keep_BL = torch.rand(4, 7, generator=generator) < 0.7
    positive_B, direction_E = scores(4, 6)[0], scores(1, 6)[1].detach().squeeze(0).requires_grad_()
    losses = [
        row_info_nce(positive_B, token_scores(embeddings_BLE, direction_E), keep_BL),
        embedded_row_info_nce(positive_B, embeddings_BLE, keep_BL, direction_E),
    ]
    gradients = [torch.autograd.grad(loss_B.square().sum(), (positive_B, direction_E)) for loss_B in losses]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)


def test_tokens_that_are_all_the_same_word_are_as_many_equal_scores():
    word_BLE, direction_E = torch.tensor([0.0, 1.0, 0.0]).expand(1, 9, 3), torch.tensor([0.5, 1.5, -2.0])
    loss_B = embedded_row_info_nce(torch.tensor([1.5]), word_BLE, torch.ones(1, 9, dtype=torch.bool), direction_E)
    assert loss_B.item() == pytest.approx(math.log(10))


def test_token_scores_are_dot_products():
    embeddings_BLE = torch.arange(12.0).reshape(1, 3, 4)
    direction_E = torch.tensor([1.0, 0.0, 0.0, 2.0])
    torch.testing.assert_close(token_scores(embeddings_BLE, direction_E), torch.tensor([[6.0, 18.0, 30.0]]))


class Released:
    """A row of the released code: K latents of the unprompted state, mapped to the model's width, and scored."""

    def __init__(self, count, latent=8, width=16, negatives=24):
        generator = torch.Generator().manual_seed(0)
        self.generator, self.shape = generator, (count, negatives, latent)
        self.mean_Z, self.log_std_Z = torch.randn(2, latent, generator=generator) * 0.5
        self.out_DZ = torch.randn(width, latent, generator=generator) * 0.6
        self.bias_D, self.context_D = torch.randn(2, width, generator=generator) * 0.6
        self.positive_B = torch.full((count,), 0.3)
        # one leaf per row, so that each has a gradient of its own
        self.mean_BZ = self.mean_Z.repeat(count, 1).requires_grad_()
        self.log_std_BZ = self.log_std_Z.repeat(count, 1).requires_grad_()

    def loss(self):
        """As released, but for its clamp: [B, K, Z] draws, [B, K, D] candidates."""
        noise_BKZ = torch.randn(self.shape, generator=self.generator)
        latent_BKZ = self.mean_BZ.unsqueeze(1) + self.log_std_BZ.exp().unsqueeze(1) * noise_BKZ
        candidate_BKD = latent_BKZ @ self.out_DZ.T + self.bias_D
        score_BK = candidate_BKD @ self.context_D / len(self.context_D) ** 0.5
        return -torch.cat([self.positive_B.unsqueeze(1), score_BK], 1).log_softmax(1)[:, 0]

    def ours(self):
        """The same with one number for each negative."""
        direction_Z = self.context_D @ self.out_DZ / len(self.context_D) ** 0.5
        offset = self.bias_D @ self.context_D / len(self.context_D) ** 0.5
        std_B = (self.log_std_BZ.exp() * direction_Z).norm(dim=1)
        mean_B = self.mean_BZ @ direction_Z + offset
        noise_BK = torch.randn(self.shape[:2], generator=self.generator)
        return gaussian_row_info_nce(self.positive_B, mean_B, std_B, noise_BK)

    def gradients(self, loss_B):
        """Of each row's own loss, [B, 2Z]."""
        return torch.cat(torch.autograd.grad(loss_B.sum(), [self.mean_BZ, self.log_std_BZ]), 1)


def standard_error(sample):
    return sample.std(0) / math.sqrt(len(sample))


def test_the_loss_has_the_distribution_of_the_released_form_and_its_expected_gradient():
    rows = Released(20_000)
    released_B, ours_B = rows.loss(), rows.ours()
    gradients = [rows.gradients(loss_B) for loss_B in (released_B, ours_B)]
    released_B, ours_B = released_B.detach(), ours_B.detach()
    # each statistic within four standard errors of a difference of two samples
    error = torch.hypot(standard_error(released_B), standard_error(ours_B))
    assert error < 0.003  # of a loss of 3.3 nats: the test sees a tenth of a percent
    assert abs(released_B.mean() - ours_B.mean()) < 4 * error
    squares = [(loss_B - loss_B.mean()).square() for loss_B in (released_B, ours_B)]
    error = torch.hypot(*map(standard_error, squares))
    assert error < 0.05 * squares[0].mean()
    assert abs(squares[0].mean() - squares[1].mean()) < 4 * error
    assert stats.ks_2samp(released_B.numpy(), ours_B.numpy()).pvalue > 0.01
    error_G = torch.hypot(*map(standard_error, gradients))
    assert ((gradients[0].mean(0) - gradients[1].mean(0)).abs() < 4 * error_G).all()
    # and what varies about it does so less: the draws across the direction that is scored are not made
    variance, ours = (gradient_BG[:, 8:].var(0).sum() for gradient_BG in gradients)
    assert ours < 0.5 * variance


def test_errors_name_the_culprit():
    one_B, kept_BL = torch.zeros(1), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="noise_BK has 3 rows, but positive_B has 2"):
        gaussian_row_info_nce(torch.zeros(2), torch.zeros(2), torch.ones(2), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="num_negatives is 0"):
        exact_gaussian_row_info_nce(torch.zeros(2), torch.zeros(2), torch.zeros(2), 0)
    with pytest.raises(ValueError, match="impl is 'cuda'"):
        gaussian_row_info_nce(one_B, one_B, one_B, torch.zeros(1, 4), impl="cuda")
    with pytest.raises(ValueError, match="direction_E has 3 entries"):
        token_scores(torch.zeros(1, 2, 4), torch.zeros(3))
    with pytest.raises(ValueError, match="embeddings_BLE is 4 wide"):
        embedded_row_info_nce(one_B, torch.zeros(1, 2, 4), kept_BL, torch.zeros(3))
    with pytest.raises(ValueError, match=r"keep_BL is \[1, 2\], but must have the shape \[1, 3\]"):
        embedded_row_info_nce(one_B, torch.zeros(1, 3, 4), kept_BL, torch.zeros(4))
    with pytest.raises(ValueError, match="noise_BK requires a gradient"):
        gaussian_row_info_nce(one_B, one_B, one_B, torch.zeros(1, 2, requires_grad=True))
    with pytest.raises(ValueError, match="impl is 'triton', but float64 has no Triton kernels"):
        gaussian_row_info_nce(one_B.double(), one_B, one_B, torch.zeros(1, 4), impl="triton")
