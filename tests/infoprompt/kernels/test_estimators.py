"""Estimators of mutual information against Gaussians with a known one, and against their own formulas.

The critic is the true log ratio, so nothing is trained. Shapes: N examples of a batch, D dimensions of
either variable.
"""

import math
from dataclasses import replace

import pytest
import torch

from infoprompt.kernels.estimators.infonce import InfoNCE
from infoprompt.kernels.estimators.interpolated import Interpolated
from infoprompt.kernels.estimators.mine import Mine
from infoprompt.kernels.estimators.registry import ESTIMATORS
from infoprompt.kernels.estimators.scores import RowScores, log_mean_exp
from infoprompt.kernels.estimators.smile import Smile
from infoprompt.kernels.row_info_nce.reference import row_info_nce_reference
from infoprompt.settings import ObjectiveSettings

DIMENSIONS = 20
BOUNDS_BY_VALUE = ["nwj", "dv", "mine", "tuba", "interpolated", "flo", "infonce"]
BY_NAME = {**ESTIMATORS, "smile_1": Smile(1.0), "interpolated_half": Interpolated(0.5)}


def gaussian_scores(information, batch, seed):
    """Matrix of true log ratios of a batch of pairs from correlated Gaussians, [N, N], float64."""
    generator = torch.Generator().manual_seed(seed)
    rest = math.exp(-2 * information / DIMENSIONS)  # 1 - rho^2
    rho = math.sqrt(1 - rest)
    x_ND, noise_ND = torch.randn(2, batch, DIMENSIONS, generator=generator, dtype=torch.float64)
    y_ND = rho * x_ND + math.sqrt(rest) * noise_ND
    squares_NN = x_ND.square().sum(1, keepdim=True) + y_ND.square().sum(1)
    return information + rho / rest * x_ND @ y_ND.T - rho**2 / (2 * rest) * squares_NN


def estimates(information, batch, repeats, names=tuple(BY_NAME)):
    """Value of each estimator in each of the repeats, [R]."""
    values = {name: [] for name in names}
    for seed in range(repeats):
        scores = RowScores.from_matrix(gaussian_scores(information, batch, seed))
        for name in names:
            values[name].append(BY_NAME[name](scores).value_B.mean())
    return {name: torch.stack(value) for name, value in values.items()}


@pytest.fixture(scope="module")
def small_batches():
    """300 batches of 64 at 2, 4 and 10 nats."""
    return {information: estimates(information, 64, 300) for information in (2, 4, 10)}


def random_scores(rows=5, negatives=7, **options):
    generator = torch.Generator().manual_seed(3)
    scores = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in (rows, (rows, negatives), rows)]
    positive_B, negative_BK, baseline_B = (score.requires_grad_() for score in scores)
    return RowScores.from_samples(positive_B, negative_BK, baseline_B=baseline_B, **options)


# Means (and standard deviations of one batch) of an independent implementation, over 400 batches of 64 and 60 of 1024.
TABLE = {
    (2, 64): {"infonce": (1.821, 0.19), "nwj": (2.010, 0.25), "dv": (2.015, 0.25), "smile_1": (2.381, 0.23),
              "smile": (2.037, 0.24), "interpolated": (2.010, 0.25), "interpolated_half": (1.938, 0.25)},
    (4, 64): {"infonce": (3.063, 0.19), "nwj": (3.966, 0.56), "dv": (4.025, 0.46), "smile_1": (4.644, 0.34),
              "smile": (4.249, 0.37), "interpolated": (3.939, 0.52), "interpolated_half": (3.491, 0.42)},
    (10, 64): {"infonce": (4.121, 0.04), "nwj": (10.2, 2.7), "dv": (11.24, 1.3), "smile_1": (10.96, 0.42),
               "smile": (12.03, 0.67), "interpolated": (8.40, 1.7), "interpolated_half": (5.61, 0.29)},
    (6, 1024): {"infonce": (5.227, 0.07), "nwj": (5.990, 0.18), "dv": (5.997, 0.17), "smile_1": (6.831, 0.11),
                "smile": (6.699, 0.12), "interpolated": (5.957, 0.16), "interpolated_half": (5.548, 0.16)},
}  # fmt: skip
for _row in TABLE.values():
    _row["mine"] = _row["dv"]  # the value is the same, the gradient is not


@pytest.mark.parametrize(("information", "batch"), TABLE)
def test_values_under_the_true_log_ratio_are_the_known_ones(information, batch, small_batches):
    values = small_batches[information] if batch == 64 else estimates(information, batch, 20)
    for name, (mean, deviation) in TABLE[information, batch].items():
        # four standard errors of the difference of two means, plus the last digit of the table
        error = math.sqrt(deviation**2 / (400 if batch == 64 else 60) + values[name].var() / len(values[name]))
        assert abs(values[name].mean() - mean) < 4 * error + 0.001, name


def test_info_nce_never_passes_the_log_of_the_batch(small_batches):
    for values in small_batches.values():
        assert values["infonce"].max() <= math.log(64)
    assert small_batches[10]["infonce"].mean() > math.log(64) - 0.1


def test_nwj_is_unbiased_and_its_variance_grows_with_the_information(small_batches):
    nwj = small_batches[2]["nwj"]
    assert abs(nwj.mean() - 2) < 4 * nwj.std() / math.sqrt(len(nwj))
    deviations = [small_batches[information]["nwj"].std() for information in (2, 4, 10)]
    # the second term's variance, (exp(2 I) - 1) / n, itself is seen in full only by far more samples at 10 nats
    assert deviations[0] < 0.7 * deviations[1] < 0.7 * 0.5 * deviations[2]


def test_donsker_varadhan_and_smile_are_biased_up_even_under_the_true_critic(small_batches):
    assert small_batches[10]["dv"].mean() > 11
    assert small_batches[10]["dv"].mean() > small_batches[10]["nwj"].mean()
    assert small_batches[2]["smile_1"].mean() > 2.3
    assert small_batches[10]["smile"].std() < small_batches[10]["nwj"].std() / 2
    assert not BY_NAME["dv"].is_lower_bound
    assert not BY_NAME["mine"].is_lower_bound
    assert not BY_NAME["smile"].is_lower_bound


@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize(("rows", "negatives"), [(64, 3), (2, 1)])
def test_values_never_pass_their_ceilings(alpha, rows, negatives):
    for gap in (-50.0, 0.0, 3.0, 50.0):
        scores = RowScores.from_samples(torch.full((rows,), gap), -gap * torch.ones(rows, negatives))
        for estimator in (InfoNCE(), Interpolated(alpha)):
            ceiling_B = estimator.ceiling(scores.num_negatives_B)
            if alpha == 0 and isinstance(estimator, Interpolated):
                assert ceiling_B is None
            else:
                assert (estimator(scores).value_B <= ceiling_B + 1e-5).all()
                assert gap < 50 or (estimator(scores).value_B > ceiling_B - 1e-3).all()


def test_row_form_and_square_form_agree():
    score_NN = gaussian_scores(2, 16, 0)
    rows = torch.stack([torch.cat([score_NN[i, :i], score_NN[i, i + 1 :]]) for i in range(16)])
    off_diagonal = score_NN[~torch.eye(16, dtype=torch.bool)]
    positive = score_NN.diagonal()
    plain = {
        "infonce": positive.mean() - score_NN.logsumexp(1).mean() + math.log(16),
        "nwj": 1 + positive.mean() - off_diagonal.exp().mean(),
        "tuba": 1 + positive.mean() - off_diagonal.exp().mean(),
        "jsd": 1 + positive.mean() - off_diagonal.exp().mean(),
        "dv": positive.mean() - off_diagonal.exp().mean().log(),
        "mine": positive.mean() - off_diagonal.exp().mean().log(),
        "smile": positive.mean() - off_diagonal.clamp(-5, 5).exp().mean().log(),
    }
    for name, estimator in ESTIMATORS.items():
        square = estimator(RowScores.from_matrix(score_NN))
        row = estimator(RowScores.from_samples(positive, rows))
        torch.testing.assert_close(square.value_B, row.value_B)
        torch.testing.assert_close(square.loss_B, row.loss_B)
        if name in plain:
            torch.testing.assert_close(square.value_B.mean(), plain[name])


@pytest.mark.parametrize("name", BOUNDS_BY_VALUE)
def test_a_log_mean_exp_in_closed_form_is_as_good_as_samples(name):
    sampled = random_scores()
    closed = RowScores.from_log_mean_exp(
        sampled.positive_B, sampled.negative_BK.exp().mean(1).log(), 7, sampled.baseline_B
    )
    torch.testing.assert_close(ESTIMATORS[name](sampled).loss_B, ESTIMATORS[name](closed).loss_B)


@pytest.mark.parametrize("name", BY_NAME)
def test_masked_negatives_do_not_count(name):
    whole = random_scores()
    keep_BK = torch.arange(7).expand(5, -1) < torch.tensor([[7], [3], [1], [2], [4]])
    filled_BK = whole.negative_BK.masked_fill(~keep_BK, 80.0)
    masked = RowScores.from_samples(whole.positive_B, filled_BK, keep_BK, whole.baseline_B)
    together = BY_NAME[name](masked)
    if name not in ("dv", "mine", "smile", "smile_1"):  # their value has a term of the whole batch
        for row, count in enumerate([7, 3, 1, 2, 4]):
            at = slice(row, row + 1)
            baseline_B = whole.baseline_B[at]
            alone = RowScores.from_samples(whole.positive_B[at], whole.negative_BK[at, :count], None, baseline_B)
            torch.testing.assert_close(together.value_B[at], BY_NAME[name](alone).value_B)
    together.loss_B.sum().backward()
    assert torch.isfinite(whole.positive_B.grad).all()
    other = BY_NAME[name](RowScores.from_samples(whole.positive_B, filled_BK - 3 * ~keep_BK, keep_BK, whole.baseline_B))
    torch.testing.assert_close(together.value_B, other.value_B)
    torch.testing.assert_close(together.loss_B, other.loss_B)


@pytest.mark.parametrize("name", [*BY_NAME, "interpolated_0", "interpolated_1"])
def test_gradients_agree_with_finite_differences(name):
    estimator = {**BY_NAME, "interpolated_0": Interpolated(0.0), "interpolated_1": Interpolated(1.0)}[name]
    scores = random_scores(3, 4)

    def loss_B(positive_B, negative_BK, baseline_B):
        scores = RowScores.from_samples(positive_B, negative_BK, None, baseline_B)
        return estimator(replace(scores, log_average=torch.tensor(0.5))).loss_B

    assert torch.autograd.gradcheck(loss_B, (scores.positive_B, scores.negative_BK, scores.baseline_B))


def test_info_nce_is_the_kernels_loss():
    scores = random_scores()
    estimate = InfoNCE()(scores)
    torch.testing.assert_close(estimate.loss_B, row_info_nce_reference(scores.positive_B, scores.negative_BK))
    torch.testing.assert_close(estimate.value_B, math.log(8) - estimate.loss_B.detach())


def test_interpolation_ends_at_nwj_and_at_info_nce():
    scores = RowScores.from_matrix(gaussian_scores(2, 64, 0))
    torch.testing.assert_close(Interpolated(0.0)(scores).value_B, ESTIMATORS["nwj"](scores).value_B)
    # a share of 1 contrasts the positive with K - 1 negatives, InfoNCE with K
    one, nce = Interpolated(1.0)(scores).value_B, InfoNCE()(scores).value_B
    fewer = -torch.nn.functional.softplus(math.log(62) + scores.log_mean_exp_B - scores.positive_B) + math.log(63)
    torch.testing.assert_close(one, fewer)
    assert (one - nce).abs().max() < math.log(64 / 63) + 1e-6


@pytest.mark.parametrize("name", ["infonce", "dv", "mine"])
def test_a_critic_that_is_off_by_a_constant_costs_nothing(name):
    score_NN = gaussian_scores(2, 32, 0)
    shifted = ESTIMATORS[name](RowScores.from_matrix(score_NN + 5))
    torch.testing.assert_close(shifted.value_B, ESTIMATORS[name](RowScores.from_matrix(score_NN)).value_B)


def test_the_best_baseline_makes_tuba_tight_for_a_critic_that_is_not_normalised():
    score_NN = gaussian_scores(2, 64, 0)
    nwj = ESTIMATORS["nwj"](RowScores.from_matrix(score_NN)).value_B
    shift_N = torch.linspace(-4, 4, 64, dtype=torch.float64)
    shifted = score_NN + shift_N.unsqueeze(1)
    tuba = ESTIMATORS["tuba"](RowScores.from_matrix(shifted, shift_N)).value_B
    torch.testing.assert_close(tuba, nwj)
    assert ESTIMATORS["nwj"](RowScores.from_matrix(shifted)).value_B.mean() < tuba.mean() - 1


def test_flo_is_below_its_value_at_the_best_u_and_learns_it():
    scores = RowScores.from_matrix(gaussian_scores(2, 64, 0))
    best_N = scores.log_mean_exp_B - scores.positive_B
    tight = ESTIMATORS["flo"](
        RowScores(scores.positive_B, scores.log_mean_exp_B, scores.num_negatives_B, None, None, best_N)
    )
    torch.testing.assert_close(tight.value_B, -best_N)
    learned_N = torch.zeros(64, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([learned_N], line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = ESTIMATORS["flo"](
            RowScores(scores.positive_B, scores.log_mean_exp_B, scores.num_negatives_B, None, None, learned_N)
        ).loss_B.mean()
        value.backward()
        return value

    start = loss().item()
    for _ in range(5):
        optimizer.step(loss)
    assert -tight.value_B.mean() <= loss().item() + 1e-9 < start
    assert loss().item() == pytest.approx(-tight.value_B.mean().item(), abs=1e-3)


def test_discriminator_losses_are_trained_apart_from_their_value():
    scores = random_scores()
    softplus = torch.nn.functional.softplus
    plain_B = softplus(-scores.positive_B) + softplus(scores.negative_BK).mean(1)
    for name in ("jsd", "smile", "smile_1"):
        estimate = BY_NAME[name](scores)
        torch.testing.assert_close(estimate.loss_B, plain_B)
        assert not estimate.value_B.requires_grad


def test_mine_has_the_gradient_of_the_batch_at_first_and_of_the_running_mean_later():
    scores = random_scores()
    inputs = (scores.positive_B, scores.negative_BK)

    def gradients(loss_B):
        return torch.autograd.grad(loss_B.mean(), inputs, retain_graph=True)

    first = Mine()(scores)
    torch.testing.assert_close(gradients(first.loss_B), gradients(ESTIMATORS["dv"](scores).loss_B))
    torch.testing.assert_close(first.loss_B.mean(), -first.value_B.mean())
    log_average = torch.tensor(2.0, dtype=torch.float64)
    later = Mine()(replace(scores, log_average=log_average))
    tuba = ESTIMATORS["tuba"](replace(scores, baseline_B=log_average.expand(5)))
    torch.testing.assert_close(gradients(later.loss_B), gradients(tuba.loss_B))
    torch.testing.assert_close(later.value_B, first.value_B)
    assert later.loss_B.mean() > first.loss_B.mean()


def test_the_running_mean_of_mine_moves_by_its_rate():
    before, batch = torch.tensor(2.0), torch.tensor(-1.0)
    torch.testing.assert_close(Mine(0.1).move_average(before, batch).exp(), 0.9 * before.exp() + 0.1 * batch.exp())
    assert Mine(0.1).move_average(None, batch) == Mine(1.0).move_average(before, batch) == batch
    assert Mine(0.1).move_average(torch.tensor(200.0), torch.tensor(-200.0)).isfinite()  # exp(200) is no float32


def test_the_running_mean_takes_the_bias_from_the_gradient():
    """Scores of negatives are slope * g, g standard normal: the slope's gradient of log E[exp n] is the slope."""
    generator = torch.Generator().manual_seed(0)
    slope = torch.ones((), dtype=torch.float64, requires_grad=True)
    gradients = {"dv": [], "mine": []}
    log_average = None
    for _ in range(4000):
        negative_BK = slope * torch.randn(4, 1, generator=generator, dtype=torch.float64)
        scores = RowScores.from_samples(negative_BK.detach().squeeze(1), negative_BK)
        log_average = Mine().move_average(log_average, log_mean_exp(scores.log_mean_exp_B.detach()))
        for name, kept in gradients.items():
            loss_B = ESTIMATORS[name](replace(scores, log_average=log_average)).loss_B
            kept.append(torch.autograd.grad(loss_B.mean(), slope, retain_graph=True)[0])
    dv, mine = (torch.stack(kept) for kept in gradients.values())
    # four standard errors of 4000 batches, and the hundredth that the batch itself has in the running mean
    assert abs(mine.mean() - 1) < 4 * mine.std() / math.sqrt(4000) + 0.03
    assert dv.mean() < 0.8


@pytest.mark.parametrize("name", BY_NAME)
def test_the_active_flag_says_which_rows_have_a_gradient(name):
    positive_B = torch.tensor([0.0, 400.0], requires_grad=True)
    negative_BK = torch.tensor([[0.0, 1.0], [-400.0, -401.0]], requires_grad=True)
    estimate = BY_NAME[name](RowScores.from_samples(positive_B, negative_BK))
    estimate.loss_B.sum().backward()
    has_gradient = (positive_B.grad != 0) | (negative_BK.grad != 0).any(1)
    assert estimate.active_B.tolist() == has_gradient.tolist()


@pytest.mark.parametrize("name", BY_NAME)
def test_half_precision_scores_are_summed_in_single(name):
    scores = random_scores()
    low = RowScores.from_samples(scores.positive_B.bfloat16(), scores.negative_BK.bfloat16())
    assert BY_NAME[name](low).loss_B.dtype == torch.float32


def test_errors_name_the_culprit():
    with pytest.raises(ValueError, match="score_NN is"):
        RowScores.from_matrix(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="negative_BK has 3 rows, but positive_B has 2"):
        RowScores.from_samples(torch.zeros(2), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="keep_BK is"):
        RowScores.from_samples(torch.zeros(2), torch.zeros(2, 4), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="num_negatives is 0"):
        RowScores.from_log_mean_exp(torch.zeros(2), torch.zeros(2), 0)
    closed = RowScores.from_log_mean_exp(torch.zeros(2), torch.zeros(2), 4)
    for name in ("jsd", "smile"):
        with pytest.raises(ValueError, match="reads the score of every negative"):
            ESTIMATORS[name](closed)


def test_the_settings_know_every_estimator_and_which_need_samples():
    for name, estimator in ESTIMATORS.items():
        settings = {"representation_estimator": name, "head_estimator": name}
        if estimator.needs_samples:
            with pytest.raises(ValueError, match=f"objective.representation_estimator is {name}"):
                ObjectiveSettings(**settings, representation_negatives="exact")
            settings["representation_negatives"] = "sampled"
        assert ObjectiveSettings(**settings).head_estimator == name
