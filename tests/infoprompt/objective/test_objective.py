"""The information terms on a real model: presets, gradients at the start, exact forms."""

import math
from dataclasses import replace

import pytest
import torch

from infoprompt.config import build_config
from infoprompt.data.batch import Noise
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.loader import TrainLoader
from infoprompt.data.rows import Example
from infoprompt.data.tasks import Task
from infoprompt.kernels.estimators.registry import ESTIMATORS
from infoprompt.model.backbone.load import load_backbone
from infoprompt.model.build import build_member
from infoprompt.model.inputs import make_template
from infoprompt.model.unprompted import with_unprompted_states
from infoprompt.objective.encoding import Latent
from infoprompt.objective.head_information import HeadInformation, drawn_tokens
from infoprompt.objective.noise import noise_of
from infoprompt.objective.representation_information import RepresentationInformation
from infoprompt.objective.terms import InformationTerm
from infoprompt.objective.total import information_objective, standard_normal_kl
from infoprompt.progress import Progress
from infoprompt.ranks import Ranks

ALONE = Ranks(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
TASK = Task("toy", ("bad", "good"), ("bad film", "good film"), ("accuracy",), "single")
PROGRESS = Progress(steps_per_epoch=2, total_steps=20)


@pytest.fixture
def encoded(tiny_bert):
    """Model, encoding and batch for a preset."""

    def make(preset="paper", **overrides):
        values = {"backbone": {"name": tiny_bert}, "objective": {"preset": preset}, "data": {"batch_size": 6}}
        config = build_config({**values, **overrides})
        backbone = load_backbone(config.backbone)
        model = build_member(config, backbone, TASK)
        examples = [Example(text="the film was good " * (1 + i % 3), label="good") for i in range(6)]
        rows = EncodedDataset.encode(examples, TASK.labels, make_template(config, backbone), "toy")
        model.eval()
        rows = with_unprompted_states(rows, torch.no_grad()(model), ALONE, backbone_key=tiny_bert, batch_size=4)
        model.train()
        draw = noise_of(config, has_latent=model.gaussian is not None)
        (batch,) = TrainLoader(rows, 6, 1, 0, 1, 0, draw).micro_batches(0)
        return config, model, model(batch), batch

    return make


def head_of(model, encoding, batch, **settings):
    """The head's term of an encoding, with other settings; in another estimator's place, if one is named."""
    module = with_settings(model.head_information, HeadInformation, (WIDTH, WIDTH), settings)
    tokens = model.backbone.embed(batch.input_ids_BL)
    return module(encoding.prompt_BPE, tokens, model.head.class_vectors(), batch)


def representation_of(model, encoding, batch, **settings):
    """As `head_of`, the representation's."""
    module = with_settings(model.representation_information, RepresentationInformation, (WIDTH, 1.0, None), settings)
    return module(encoding.prompt_BPE, encoding.latent, encoding.unprompted_latent, batch)


def with_settings(module, kind, sizes, settings):
    changed = kind(module.settings.model_copy(update=settings), *sizes)
    changed.critic = module.critic
    return changed


WIDTH = 32
TERMS = (head_of, representation_of)


@pytest.mark.parametrize("preset", ["paper", "analytic"])
@pytest.mark.parametrize("kind", ["instance", "static"])
def test_every_term_reaches_the_prompt_at_the_start(encoded, preset, kind):
    prompt = {"kind": kind}
    _, model, encoding, _ = encoded(preset, prompt=prompt, head={"init": "random"})
    for name in ("head", "representation"):
        model.zero_grad()
        getattr(encoding, name).loss.backward(retain_graph=True)
        gradients = [parameter.grad for parameter in model.prompt.parameters() if parameter.grad is not None]
        assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0, name


def test_the_released_clamp_puts_the_losses_to_sleep_at_the_start_and_the_share_says_so(encoded):
    _, model, encoding, _ = encoded("release")
    term = encoding.representation
    asleep = term.loss.item() == 2.0
    assert asleep == (term.active_share.item() == 0)
    if asleep:
        term.loss.backward(retain_graph=True)
        assert all(p.grad is None or not p.grad.any() for p in model.prompt.parameters())


def test_capped_rows_have_no_gradient_and_count_as_inactive():
    loss_B = torch.tensor([0.5, 3.5, 1.9, 0.0], requires_grad=True)
    term = InformationTerm.from_rows(loss_B, torch.full((4,), 32), cap=2.0)
    term.loss.backward()
    assert loss_B.grad.tolist() == [0.25, 0.0, 0.25, 0.25]
    assert term.active_share == 0.5
    assert term.value.item() == pytest.approx(math.log(33) - (0.5 + 3.5 + 1.9) / 4, rel=1e-6)
    assert term.ceiling.item() == pytest.approx(math.log(33), rel=1e-6)


def test_the_bound_never_passes_its_ceiling(encoded):
    for preset in ("paper", "analytic"):
        _, _, encoding, _ = encoded(preset)
        for term in (encoding.head, encoding.representation):
            assert term.value <= term.ceiling


def test_scalar_negatives_match_the_released_form_in_expectation(encoded):
    _, model, encoding, batch = encoded("release", objective={"preset": "release", "representation_loss_cap": None})
    latent, plain = encoding.latent, encoding.unprompted_latent
    direction_BZ, offset_B = model.representation_information.critic(encoding.prompt_BPE)
    generator = torch.Generator().manual_seed(0)
    released, ours = [], []
    for _ in range(400):
        positive_BZ = latent.mean_BZ + latent.log_std_BZ.exp() * torch.randn(latent.mean_BZ.shape, generator=generator)
        noise_BKZ = torch.randn(6, 24, plain.mean_BZ.shape[1], generator=generator)
        negative_BKZ = plain.mean_BZ.unsqueeze(1) + plain.log_std_BZ.exp().unsqueeze(1) * noise_BKZ
        score_B = (positive_BZ * direction_BZ).sum(1) + offset_B
        score_BK = torch.einsum("bkz,bz->bk", negative_BKZ, direction_BZ) + offset_B.unsqueeze(1)
        logits = torch.cat([score_B.unsqueeze(1), score_BK], 1)
        released.append(-logits.log_softmax(1)[:, 0].mean().item())
        noise = Noise(torch.randn(6, generator=generator), negative_BK=torch.randn(6, 24, generator=generator))
        ours.append(representation_of(model, encoding, replace(batch, noise=noise)).loss.item())
    difference = torch.tensor(released).mean() - torch.tensor(ours).mean()
    error = (torch.tensor(released).var() / 400 + torch.tensor(ours).var() / 400).sqrt()
    assert abs(difference) < 4 * error  # four standard errors


def test_drawn_tokens_are_real_and_all_can_be_drawn():
    real_BL = torch.tensor([[True, False, True, True, False], [False, True, False, False, False]])
    uniform_BK = torch.linspace(0, 0.999, 30).repeat(2, 1)
    drawn_BK = drawn_tokens(real_BL, uniform_BK)
    assert set(drawn_BK[0].tolist()) == {0, 2, 3}
    assert set(drawn_BK[1].tolist()) == {1}


def test_kl_of_a_standard_normal_is_zero_and_known_cases_hold():
    zero = torch.zeros(2, 3)
    assert standard_normal_kl(Latent(zero, zero)) == 0
    assert standard_normal_kl(Latent(zero + 2, zero)).item() == pytest.approx(2.0)
    expected = (math.exp(2) - 1) / 2 - 1
    assert standard_normal_kl(Latent(zero, zero + 1)).item() == pytest.approx(expected)


def test_a_weight_of_zero_leaves_its_term_out(encoded):
    config, model, encoding, batch = encoded("paper", objective={"preset": "paper", "head_weight": 0})
    terms = information_objective(encoding, batch, config.objective, PROGRESS)
    assert terms.head is None
    assert "train/head_loss" not in terms.as_metrics()
    assert model.head_information is None


def test_the_total_is_the_weighted_sum_and_decays(encoded):
    config, _, encoding, batch = encoded("release", objective={"preset": "release", "decay": 1.0})
    terms = information_objective(encoding, batch, config.objective, PROGRESS)
    weights = config.objective
    parts = weights.head_weight * terms.head.loss + weights.representation_weight * terms.representation.loss
    parts = parts + weights.kl_weight * terms.kl
    torch.testing.assert_close(terms.total, terms.task + parts)
    halfway = information_objective(encoding, batch, config.objective, Progress(2, 20, step=10))
    torch.testing.assert_close(halfway.total, terms.task + parts / 2)


@pytest.mark.parametrize("preset", ["paper", "release", "analytic"])
def test_presets_share_one_implementation_and_say_what_they_are(preset, encoded):
    config, _, encoding, batch = encoded(preset)
    terms = information_objective(encoding, batch, config.objective, PROGRESS)
    assert torch.isfinite(terms.total)
    assert (config.head.kind == "variational") == (preset != "analytic")
    caps = (config.objective.head_loss_cap, config.objective.representation_loss_cap)
    assert caps == ((2.0, 2.0) if preset == "release" else (None, None))
    assert (terms.kl is not None) == (preset == "release")
    assert config.objective.negatives == (24 if preset == "release" else 32)


def by_estimator(name, **others):
    return {"preset": "paper", "head_estimator": name, "representation_estimator": name, **others}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_serves_both_terms_and_names_its_metrics(encoded, name):
    config, model, encoding, batch = encoded(objective=by_estimator(name))
    terms = information_objective(encoding, batch, config.objective, PROGRESS)
    terms.total.backward()
    gradients = [parameter.grad for parameter in model.prompt.parameters() if parameter.grad is not None]
    assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0
    baselines = (model.head_information.baseline, model.representation_information.baseline)
    assert all((baseline is not None) == ESTIMATORS[name].needs_baseline for baseline in baselines)
    assert all(parameter.grad.any() for baseline in baselines if baseline for parameter in baseline.parameters())
    kind = "bound" if ESTIMATORS[name].is_lower_bound else "value"
    expected = {f"train/mi_{term}_{name}_{kind}" for term in ("head", "representation")}
    if ESTIMATORS[name].ceiling(torch.ones(1)) is not None:
        expected |= {f"train/mi_{term}_{name}_ceiling" for term in ("head", "representation")}
    metrics = terms.as_metrics()
    assert {key for key in metrics if "/mi_" in key} == expected
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["train/head_active_share"] == metrics["train/representation_active_share"] == 1


@pytest.mark.parametrize("name", [name for name, estimator in ESTIMATORS.items() if not estimator.needs_samples])
def test_exact_negatives_are_the_limit_of_many_draws_for_every_estimator(encoded, name):
    _, model, encoding, batch = encoded(objective=by_estimator(name, representation_negatives="exact"))
    draws_BK = torch.randn(6, 200_000, generator=torch.Generator().manual_seed(0))
    batch = replace(batch, noise=replace(batch.noise, negative_BK=draws_BK))
    values = [
        representation_of(model, encoding, batch, negatives=200_000, representation_negatives=negatives).value
        for negatives in ("exact", "sampled")
    ]
    # the mean of exp(score) over 200,000 draws errs by 0.3 % at these spreads; ten times that is allowed
    torch.testing.assert_close(*values, rtol=0.03, atol=0.03)


def test_estimator_parameters_reach_their_estimators(encoded):
    for key, name, values in (("smile_tau", "smile", (1e-3, 50)), ("interpolation", "interpolated", (0.1, 0.9))):
        _, model, encoding, batch = encoded(objective=by_estimator(name))
        for term in TERMS:
            low, high = (term(model, encoding, batch, **{key: value}).value for value in values)
            assert low != high, (key, term.__name__)


@pytest.mark.parametrize("name", ["tuba", "flo"])
def test_a_baseline_starts_as_nwj_without_a_draw_and_steers_nothing_but_itself(encoded, name):
    _, model, encoding, batch = encoded(objective=by_estimator(name))
    _, other, _, _ = encoded(objective=by_estimator("infonce"))
    started = dict(model.named_parameters())
    assert all(torch.equal(parameter, started[key]) for key, parameter in other.named_parameters())
    baselines = {"head_information.baseline", "representation_information.baseline"}
    assert {key.rsplit(".", 1)[0] for key in set(started) - set(dict(other.named_parameters()))} == baselines
    nwj = {"head_estimator": "nwj", "representation_estimator": "nwj"}
    for term in TERMS:
        torch.testing.assert_close(term(model, encoding, batch).value, term(model, encoding, batch, **nwj).value)
    # what a baseline sees is detached
    for module in (model.head_information, model.representation_information):
        seen = encoding.prompt_BPE.mean(1).repeat(1, 3)[:, : len(module.baseline.weight_W)]
        module.baseline(seen).sum().backward(retain_graph=True)
    touched = {key.rsplit(".", 1)[0] for key, parameter in started.items() if parameter.grad is not None}
    assert touched == baselines


def test_one_cap_may_be_on_and_the_other_off(encoded):
    low = {"preset": "paper", "head_loss_cap": 0.01}
    _, _, encoding, _ = encoded(objective=low)
    assert encoding.head.loss.item() == pytest.approx(0.01)
    assert encoding.representation.loss > 0.02
