"""Draws that are a function of (seed, offset, row, k), and the loss on them against that on scored latents."""

import math

import pytest
import torch
from scipy import stats

from infoprompt.kernels.row_info_nce import chunked
from infoprompt.kernels.row_info_nce.op import drawn_gaussian_row_info_nce, gaussian_row_info_nce
from infoprompt.kernels.row_info_nce.philox import gaussian_draws, philox_4x32_10

CPU = torch.device("cpu")

# Known answers of the generator's authors (Random123, kat_vectors, philox4x32 with 10 rounds): counter, key, words.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text):
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_the_generator_gives_the_published_words(counter, key, answer):
    made = philox_4x32_10([torch.tensor(word) for word in words(counter)], tuple(words(key)))
    assert [int(word) for word in made] == words(answer)


def test_draws_are_made_of_the_words_by_box_and_muller():
    seed, offset, row, k = 2**40 + 7, 2**35 + 5, 3, 6
    counter = [torch.tensor(word) for word in (k // 4, row, 5, 8)]  # 2**35 + 5 = 8 * 2**32 + 5
    made = philox_4x32_10(counter, (7, 256))
    first, second = (((int(word) >> 9) + 0.5) / 2**23 for word in made[2:])
    radius, angle = math.sqrt(-2 * math.log(first)), 2 * math.pi * (second - 0.5)
    draws_B2 = gaussian_draws(seed, offset, range(row, row + 1), range(k, k + 2), torch.float64, CPU)
    assert draws_B2.tolist()[0] == pytest.approx([radius * math.cos(angle), radius * math.sin(angle)], rel=1e-12)


def test_any_part_of_the_draws_is_that_part_of_the_whole():
    whole_BK = gaussian_draws(1, 2, range(20), range(50), torch.float32, CPU)
    for rows, columns in ((range(3, 9), range(50)), (range(20), range(7, 30)), (range(4, 5), range(13, 14))):
        part = gaussian_draws(1, 2, rows, columns, torch.float32, CPU)
        assert torch.equal(part, whole_BK[rows.start : rows.stop, columns.start : columns.stop])


def test_seed_offset_row_and_column_all_give_other_draws():
    def draw(seed=0, offset=0, row=0, column=0):
        return gaussian_draws(seed, offset, range(row, row + 1), range(column, column + 1), torch.float32, CPU).item()

    far = [2**32, 2**40, 2**62]
    made = [draw(), *(draw(seed=n) for n in (1, *far)), *(draw(offset=n) for n in (1, *far))]
    made += [draw(row=n) for n in (1, 2**31, 2**32 - 1)] + [draw(column=n) for n in (1, 2, 3, 4, 2**33)]
    assert len(set(made)) == len(made)


def test_draws_are_standard_normal_and_do_not_depend_on_each_other():
    draws_BK = gaussian_draws(0, 0, range(2000), range(100), torch.float32, CPU)
    assert stats.kstest(draws_BK.flatten().numpy(), "norm").pvalue > 0.01
    # 4,950 correlations of standard error 1 / sqrt(2000): the largest of so many is below 4.5 of them
    correlation_KK = torch.corrcoef(draws_BK.T).fill_diagonal_(0)
    assert correlation_KK.abs().max() < 4.5 / math.sqrt(2000)
    # squares too: a pair of Box and Muller's shares its radius, but not its squares
    correlation_KK = torch.corrcoef(draws_BK.square().T).fill_diagonal_(0)
    assert correlation_KK.abs().max() < 6 / math.sqrt(2000)  # heavier tails
    next_BK = gaussian_draws(0, 1, range(2000), range(100), torch.float32, CPU)
    assert abs(torch.corrcoef(torch.stack([draws_BK.flatten(), next_BK.flatten()]))[0, 1]) < 4 / math.sqrt(200_000)


def row_statistics(size):
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(size, generator=generator),
        torch.randn(size, generator=generator),
        torch.rand(size, generator=generator),
    )


@pytest.mark.parametrize("impl", ["chunked", "triton"])
def test_drawing_inside_is_drawing_outside(impl, device):
    positive_B, mean_B, std_B = (tensor.to(device) for tensor in row_statistics(3))
    noise_BK = gaussian_draws(5, 6, range(40, 43), range(70), torch.float32, torch.device(device))
    inside_B = drawn_gaussian_row_info_nce(positive_B, mean_B, std_B, 70, 5, 6, 40, impl=impl)
    torch.testing.assert_close(inside_B, gaussian_row_info_nce(positive_B, mean_B, std_B, noise_BK, impl="reference"))


@pytest.mark.parametrize("impl", ["chunked", "triton"])
def test_rows_may_be_shared_out_and_cut_into_parts_of_any_size(impl, device, monkeypatch):
    rows = [tensor.to(device) for tensor in row_statistics(6)]
    whole_B = drawn_gaussian_row_info_nce(*rows, 2100, 1, 2, impl=impl)
    halves = [drawn_gaussian_row_info_nce(*(t[i : i + 3] for t in rows), 2100, 1, 2, i, impl=impl) for i in (0, 3)]
    assert torch.equal(torch.cat(halves), whole_B)
    if impl == "chunked":
        for part_bytes in (4, 1000, 9000):
            monkeypatch.setattr(chunked, "PART_BYTES", part_bytes)
            parted_B = drawn_gaussian_row_info_nce(*rows, 21, 1, 2, impl=impl)
            torch.testing.assert_close(parted_B, drawn_gaussian_row_info_nce(*rows, 21, 1, 2, impl="reference"))


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

    def ours(self, seed):
        """The same with one number for each negative."""
        direction_Z = self.context_D @ self.out_DZ / len(self.context_D) ** 0.5
        offset = self.bias_D @ self.context_D / len(self.context_D) ** 0.5
        std_B = (self.log_std_BZ.exp() * direction_Z).norm(dim=1)
        mean_B = self.mean_BZ @ direction_Z + offset
        return drawn_gaussian_row_info_nce(self.positive_B, mean_B, std_B, self.shape[1], seed)

    def gradients(self, loss_B):
        """Of each row's own loss, [B, 2Z]."""
        return torch.cat(torch.autograd.grad(loss_B.sum(), [self.mean_BZ, self.log_std_BZ]), 1)


def standard_error(sample):
    return sample.std(0) / math.sqrt(len(sample))


def test_the_loss_has_the_distribution_of_the_released_form_and_its_expected_gradient():
    rows = Released(20_000)
    released_B, ours_B = rows.loss(), rows.ours(seed=0)
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_negatives": 0}, "num_negatives is 0, but must be at least 1"),
        ({"seed": -1}, "seed is -1, but must be at least 0"),
        ({"offset": 2**63}, "offset is 9223372036854775808, but must be at least 0 and below 9223372036854775808"),
        ({"first_row": 2**32 - 1}, "first_row is 4294967295, but must be at least 0 and below 4294967295"),
        ({"impl": "fast"}, "impl is 'fast'"),
    ],
)
def test_errors_name_the_culprit(change, message):
    with pytest.raises(ValueError, match=message):
        drawn_gaussian_row_info_nce(*row_statistics(2), **{"num_negatives": 3, "seed": 0, **change})
