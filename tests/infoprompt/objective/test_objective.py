"""The information terms on a real model: presets, gradients at the start, exact forms."""

import math

import pytest
import torch

from infoprompt.artifact import make_template
from infoprompt.config import build_config
from infoprompt.data.loader import Rows, TrainLoader
from infoprompt.data.rows import Example
from infoprompt.data.tasks import Task
from infoprompt.engine.ranks import Ranks
from infoprompt.model.backbone import load_backbone
from infoprompt.model.encoding import Latent
from infoprompt.model.prompted import build_model
from infoprompt.model.unprompted import with_unprompted_states
from infoprompt.objective.head_information import drawn_tokens, head_information
from infoprompt.objective.representation_information import representation_information
from infoprompt.objective.terms import InformationTerm
from infoprompt.objective.total import information_objective, standard_normal_kl
from infoprompt.progress import Progress

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
        model = build_model(config, backbone, TASK)
        examples = [Example(text="the film was good " * (1 + i % 3), label="good") for i in range(6)]
        rows = Rows.encode(examples, TASK.labels, make_template(config, backbone), "toy")
        model.eval()
        rows = with_unprompted_states(rows, torch.no_grad()(model), ALONE, backbone_key=tiny_bert, batch_size=4)
        model.train()
        (batch,) = TrainLoader(rows, 6, 1, 0, 1, 0, config.objective).micro_batches(0)
        return config, model, model(batch), batch

    return make


@pytest.mark.parametrize("preset", ["paper", "analytic"])
@pytest.mark.parametrize("kind", ["instance", "static"])
def test_every_term_reaches_the_prompt_at_the_start(encoded, preset, kind):
    prompt = {"kind": kind}
    config, model, encoding, batch = encoded(preset, prompt=prompt, head={"init": "random"})
    for term in (head_information, representation_information):
        model.zero_grad()
        term(encoding, batch, config.objective).loss.backward(retain_graph=True)
        gradients = [parameter.grad for parameter in model.prompt.parameters() if parameter.grad is not None]
        assert sum(float(gradient.abs().sum()) for gradient in gradients) > 0, term.__name__


def test_the_released_clamp_puts_the_losses_to_sleep_at_the_start_and_the_share_says_so(encoded):
    config, model, encoding, batch = encoded("release")
    term = representation_information(encoding, batch, config.objective)
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
    assert term.bound.item() == pytest.approx(math.log(33) - (0.5 + 3.5 + 1.9) / 4, rel=1e-6)
    assert term.ceiling.item() == pytest.approx(math.log(33), rel=1e-6)


def test_the_bound_never_passes_its_ceiling(encoded):
    for preset in ("paper", "analytic"):
        config, _, encoding, batch = encoded(preset)
        for term in (head_information, representation_information):
            result = term(encoding, batch, config.objective)
            assert result.bound <= result.ceiling


def test_scalar_negatives_match_the_released_form_in_expectation(encoded):
    config, _, encoding, batch = encoded("release", objective={"preset": "release", "loss_cap": None})
    latent, plain = encoding.latent, encoding.unprompted_latent
    direction_BZ, offset_B = encoding.representation_direction_BZ, encoding.representation_offset_B
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
        drawn = batch.__class__(**{**vars(batch), "gaussian_BN": torch.randn(6, 57, generator=generator)})
        ours.append(representation_information(encoding, drawn, config.objective).loss.item())
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
    config, _, encoding, batch = encoded("paper", objective={"preset": "paper", "head_weight": 0})
    terms = information_objective(encoding, batch, config.objective, PROGRESS)
    assert terms.head is None
    assert "train/head_loss" not in terms.as_metrics()
    assert encoding.head_direction_E is None


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
    assert (config.objective.loss_cap == 2.0) == (preset == "release")
    assert (terms.kl is not None) == (preset == "release")
    assert config.objective.negatives == (24 if preset == "release" else 32)
