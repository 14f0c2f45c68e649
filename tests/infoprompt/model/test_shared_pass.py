"""A training pass that several members share gives each the losses and gradients that it has alone."""

import itertools

import pytest
import torch

from infoprompt.config import build_config
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.loader import TrainLoader
from infoprompt.data.rows import Example
from infoprompt.data.task import Task
from infoprompt.engine.plain_engine import PlainEngine
from infoprompt.model.backbone.load import load_backbone
from infoprompt.model.build import backbone_needs, build_member
from infoprompt.model.heads.kind import head_kind
from infoprompt.model.inputs import make_template
from infoprompt.model.shared import SharedModel, shared_pass
from infoprompt.model.unprompted import with_unprompted_states
from infoprompt.objective.noise import noise_of
from infoprompt.objective.total import information_objective
from infoprompt.progress import Progress
from infoprompt.ranks import Ranks
from infoprompt.settings import PROMPT_KINDS

ALONE = Ranks(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
TASKS = {
    "bert": Task("toy", ("bad", "good"), ("bad film", "good film"), ("accuracy",), "single"),
    "llama": Task("three", ("no", "maybe", "yes"), ("bad", "it was", "good"), ("accuracy",), "single"),
}
PROGRESS = Progress(steps_per_epoch=2, total_steps=20)
NO_TERMS = {"head_weight": 0, "representation_weight": 0}
TEXTS = ("a film", "the money was stolen and they have lost a bank card", "great", "it is not bad at all")

MEMBERS = {
    **{kind: {"prompt": {"kind": kind, "length": 3}, "objective": NO_TERMS} for kind in PROMPT_KINDS},
    "none": {"prompt": {"kind": "none"}, "objective": NO_TERMS},
    "layer_0": {"prompt": {"kind": "lpt", "length": 5, "layer": 0}, "objective": NO_TERMS},
    "paper": {"objective": {"preset": "paper", "latent_size": 8}, "seed": 3, "prompt": {"length": 7}},
    "mine": {"objective": {"head_estimator": "mine", "representation_estimator": "flo"}, "seed": 4},
    "words": {"head": {"kind": "label_words"}, "prompt": {"kind": "static"}, "objective": NO_TERMS},
}


@pytest.fixture(scope="module")
def made(tiny_backbones, tmp_path_factory):
    """A function from a family to its members by name, each with a batch of its own, of 2 to 4 rows."""
    backbones = {}

    def make(family, name):
        settings = {"seed": 1, **MEMBERS[name]}
        size = 2 + len(name) % 3
        config = build_config({"backbone": {"name": tiny_backbones[family]}, "data": {"batch_size": size}, **settings})
        lm_head = head_kind(config.head.kind).lm_head
        if (family, lm_head) not in backbones:
            needs = backbone_needs(config)
            backbones[family, lm_head] = load_backbone(config.backbone, needs=needs, lm_head=lm_head)
        task = TASKS[family]
        member = build_member(config, backbones[family, lm_head], task)
        with torch.no_grad():  # away from the zeros of some starts
            for parameter in member.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)))
        texts = [Example(text=text, label=task.labels[i % 2]) for i, text in enumerate(TEXTS)]
        rows = EncodedDataset.encode(texts, task.labels, make_template(config, member.backbone), name)
        member.eval()
        key = f"{tiny_backbones[family]} {name}"
        rows = with_unprompted_states(rows, torch.no_grad()(member), ALONE, backbone_key=key, batch_size=4)
        member.train()
        draw = noise_of(config, has_latent=member.gaussian is not None)
        (batch,) = TrainLoader(rows, size, 1, 0, 1, config.seed, draw).micro_batches(0)
        return config, member, batch

    return make


def outcome(config, member, encoding, batch):
    """Every term of a loss, and the gradient of the total by parameter."""
    terms = information_objective(encoding, batch, config.objective, PROGRESS)
    trained = {name: parameter for name, parameter in member.named_parameters() if parameter.requires_grad}
    gradients = torch.autograd.grad(terms.total, list(trained.values()), retain_graph=True, allow_unused=True)
    return terms.as_metrics(), dict(zip(trained, gradients, strict=True))


def check_together(members):
    alone = [outcome(config, member, member(batch), batch) for config, member, batch in members]
    for _, member, _ in members:  # MINE's mean moves with each pass
        if member.head_information is not None:
            member.head_information.log_average = None
    encodings = shared_pass([member for _, member, _ in members], [batch for _, _, batch in members])
    for (config, member, batch), encoding, (losses, gradients) in zip(members, encodings, alone, strict=True):
        found, shared = outcome(config, member, encoding, batch)
        assert found == losses
        for name, gradient in gradients.items():
            if gradient is None:
                assert shared[name] is None
                continue
            assert torch.equal(shared[name], gradient), name


PAIRS = [("bert", pair) for pair in itertools.combinations_with_replacement(PROMPT_KINDS, 2)]
PAIRS += [("llama", pair) for pair in zip(PROMPT_KINDS, reversed(PROMPT_KINDS), strict=True)]


@pytest.mark.parametrize(("family", "pair"), PAIRS, ids=str)
def test_every_pair_of_prompt_kinds_trains_as_each_alone(made, family, pair):
    torch.manual_seed(0)
    check_together([made(family, name) for name in pair])


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_unlike_heads_terms_seeds_and_lengths_train_together(made, family):
    check_together([made(family, name) for name in ("paper", "mine", "static", "none", "prefix", "layer_0", "lpt")])


def test_heads_that_are_the_models_own_train_beside_others(made):
    check_together([made("bert", "words"), made("bert", "words")])


def test_one_pass_serves_all_but_those_that_need_their_own(made, monkeypatch):
    members = [made("bert", name) for name in ("static", "prefix", "instance", "layer_0", "lpt", "none")]
    passes = []
    backbone = members[0][1].backbone
    forward = backbone.forward
    monkeypatch.setattr(backbone, "forward", lambda states, *rest: passes.append(len(states)) or forward(states, *rest))
    shared_pass([member for _, member, _ in members], [batch for _, _, batch in members])
    sizes = [len(batch) for _, _, batch in members]
    # a prompt of kind lpt enters at its own layer; a head alone reads kept states
    assert sorted(passes) == sorted([sum(sizes[:4]), sizes[4]])


def trained(members, rates):
    """What each has after three updates, and its optimiser's state."""
    configs = [config for config, _, _ in members]
    engine = PlainEngine(SharedModel([member for _, member, _ in members]), configs, ALONE)
    batches = {place: batch for place, (_, _, batch) in enumerate(members)}
    for _ in range(3):
        for place, rate in enumerate(rates):
            engine.set_lr(rate, place)
        losses = {
            place: information_objective(encoding, batches[place], configs[place].objective, PROGRESS).total
            for place, encoding in engine.forward(batches).items()
        }
        assert all(isinstance(norm, float) for norm in engine.step(losses).values())
    return [engine.trained_state(place) | engine.optimizer_state(place) for place in batches]


def test_members_of_unlike_kinds_and_rates_train_together_as_alone(made):
    rates = {"paper": 0.01, "prefix": 0.03, "layer_0": 0.02, "none": 0.05, "static": 0.1}
    together = trained([made("bert", name) for name in rates], rates.values())
    for (name, rate), state in zip(rates.items(), together, strict=True):
        (alone,) = trained([made("bert", name)], [rate])
        torch.testing.assert_close(state, alone, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
