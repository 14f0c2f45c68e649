"""DeepSpeed at every stage trains as plain torch does, and states go from any engine to any other.

One start of the processes serves all engines, since importing DeepSpeed costs more than the training here.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from infoprompt.config import RunConfig, build_config
from infoprompt.data.batch import Batch
from infoprompt.engine import deepspeed_config
from infoprompt.engine.engine import build_engine, gathered, partitioned_loading
from infoprompt.engine.interface import Engine, NonFiniteLoss
from infoprompt.engine.ranks import start_ranks, stop_ranks
from infoprompt.model.shared import SharedModel
from infoprompt.objective.encoding import Encoding, Latent
from infoprompt.ranks import Ranks

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(1200)]  # several starts, on a busy machine

PLAIN = ("plain", 0)
STAGES = [("deepspeed", stage) for stage in range(4)]
BATCH_SIZE, MICRO_BATCH_SIZE = 8, 2

# Engines add the same float32 numbers in different orders: errors of 1e-7 per operation, which AdamW's division by
# the root of small second moments may blow up for single weights.
CLOSE = {"rtol": 2e-4, "atol": 2e-6}


@dataclass(frozen=True)
class ToyBatch:
    """Stands in for a Batch: features of the examples and their classes."""

    x_BD: Tensor
    label_B: Tensor


class Critic(nn.Module):
    """Its weight is read from outside its own forward, and its size is odd, so that parts need padding."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 3))

    def vectors(self) -> Tensor:
        return self.weight.tanh()


class Toy(nn.Module):
    """A frozen net between trained parts: a parameter of the model's own, modules, and one no loss reaches."""

    def __init__(self, dtype: torch.dtype, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.frozen = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 5)).to(dtype).requires_grad_(False)
        self.register_buffer("scale", torch.tensor(0.5))
        self.prompt = nn.Parameter(torch.randn(6) / 3)
        self.generator = nn.Linear(6, 6)
        self.head = nn.Linear(5, 3)
        self.critic = Critic()
        self.unused = nn.Linear(3, 1)

    def forward(self, batch: ToyBatch) -> Encoding:
        prompt_BD = self.prompt + self.generator(batch.x_BD)
        prompted_BD = batch.x_BD + self.scale * prompt_BD
        dtype = self.frozen[0].weight.dtype
        pooled_BD = self.frozen(prompted_BD.to(dtype)).float()
        latent = Latent(pooled_BD @ self.critic.vectors(), pooled_BD.sin())
        return Encoding(self.head(pooled_BD), pooled_BD, prompt_BPE=prompt_BD[:, None], latent=latent)


def settings(engine: tuple[str, int], **changes: Any) -> RunConfig:
    kind, stage = engine
    return build_config(
        {
            "data": {"batch_size": BATCH_SIZE, "micro_batch_size": MICRO_BATCH_SIZE},
            "optim": {"lr": 0.02, "weight_decay": 0.1, "max_grad_norm": 0.4} | changes,
            "engine": {"kind": kind, "zero_stage": stage, "device": "cpu", "timeout_seconds": 120},
        }
    )


def micro_batches(step: int, ranks: Ranks) -> list[ToyBatch]:
    """This rank's parts of the batch of an update, which is the same whatever the number of ranks."""
    generator = torch.Generator().manual_seed(step)
    x_BD = torch.randn(BATCH_SIZE, 6, generator=generator)
    label_B = (x_BD @ torch.arange(18.0).sin().view(6, 3)).argmax(1)
    parts = zip(x_BD.split(MICRO_BATCH_SIZE), label_B.split(MICRO_BATCH_SIZE), strict=True)
    return [ToyBatch(x, label) for x, label in parts][ranks.rank :: ranks.world_size]


def loss_of(encoding: Encoding, batch: ToyBatch) -> Tensor:
    assert encoding.latent is not None
    assert encoding.prompt_BPE is not None
    task = nn.functional.cross_entropy(encoding.logits_BC, batch.label_B)
    return task + 0.1 * encoding.latent.mean_BZ.square().mean() + 0.01 * encoding.prompt_BPE.square().mean()


def train(engine: Engine, first: int, last: int) -> list[tuple[float, float]]:
    """Updates `first` to `last`, with an inference before each: (mean loss, gradient norm) of each update."""
    curve = []
    for step in range(first, last):
        engine.set_lr(0.02 / (1 + step))
        losses, norms = [], []
        batches = micro_batches(step, engine.ranks)
        assert not engine.infer({0: batches[0]})[0].logits_BC.requires_grad  # type: ignore[arg-type]
        for batch in batches:
            loss = loss_of(engine.forward({0: batch})[0], batch)  # type: ignore[dict-item]
            losses.append(loss.item())
            norms.append(engine.step({0: loss})[0])
        assert norms[:-1] == [None] * (len(batches) - 1)
        assert norms[-1] is not None
        curve.append((engine.ranks.mean({"loss": sum(losses) / len(losses)})["loss"], norms[-1]))
    return curve


def each_engine(use: Callable[[tuple[str, int], Ranks], Any], engines: list[tuple[str, int]]) -> dict[Any, Any]:
    """Call with each kind of engine and the ranks it needs, all in this process."""
    results = {}
    for kind in engines:
        ranks = start_ranks(settings(kind).engine)
        results[kind] = use(kind, ranks)
        stop_ranks()
    return results


def state_of(engine: Engine, member: int = 0) -> dict[str, Tensor]:
    return engine.trained_state(member) | engine.optimizer_state(member)


def infinite_slope(value: Tensor) -> Tensor:
    """Zero, but its gradient is infinite: the slope of the root there."""
    return (value - value.detach()).abs().sqrt().sum()


def assert_equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name
        assert left[name].dtype == (torch.int64 if name == "step" else torch.float32), name


def assert_close(actual: Any, expected: Any, kind: tuple[str, int]) -> None:
    torch.testing.assert_close(actual, expected, **CLOSE, msg=lambda message: f"{kind}: {message}")


# ---- every stage follows plain torch


# Under stage 3, persistence 0 partitions even this toy's frozen weights.
VARIANTS = [(torch.bfloat16, 0, 0.4), (torch.float32, 100_000, 0.0)]


def run_curves() -> list[dict[Any, Any]]:
    return [run_variant(*variant) for variant in VARIANTS]


def run_variant(dtype: torch.dtype, persistence: int, clip: float) -> dict[Any, Any]:
    deepspeed_config.PERSISTENCE_NUMEL = persistence

    def curve(kind: tuple[str, int], ranks: Ranks) -> tuple[list[tuple[float, float]], dict[str, Tensor]]:
        model = Toy(dtype, seed=3)
        frozen = {name: value.clone() for name, value in model.state_dict().items() if "frozen" in name}
        engine = build_engine(SharedModel([model]), [settings(kind, max_grad_norm=clip)], ranks)
        fresh = engine.optimizer_state()
        assert fresh["step"] == 0
        assert not any(value.any() for value in fresh.values())
        points = train(engine, 0, 8)
        state = state_of(engine)
        for name, parameter in model.named_parameters():
            if "frozen" in name:
                with gathered([parameter]):
                    assert parameter.dtype == dtype
                    assert torch.equal(parameter, frozen[name]), f"{name} changed under {kind}"
        engine.close()
        return points, state

    return each_engine(curve, [PLAIN, *STAGES])


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_stage_trains_as_plain_torch_does(run_distributed, world_size):
    for rank_results in run_distributed(__file__, "run_curves", world_size=world_size):
        for curves in rank_results:
            truth, truth_state = curves[PLAIN]
            assert max(norm for _, norm in truth) > 0.4  # clipping at 0.4 has something to do
            for kind, (points, state) in curves.items():
                assert_close(points, truth, kind)
                assert_close(state, truth_state, kind)
                assert state["step"] == 8


# ---- states go anywhere


def run_resume() -> dict[Any, Any]:
    def halves(kind: tuple[str, int], ranks: Ranks) -> tuple[list[Any], dict[str, Tensor], dict[str, Tensor]]:
        whole = build_engine(SharedModel([Toy(torch.bfloat16)]), [settings(kind)], ranks)
        train(whole, 0, 4)
        middle = state_of(whole)
        trained, optimizer = whole.trained_state(), whole.optimizer_state()
        points = train(whole, 4, 8)
        end = state_of(whole)
        whole.close()
        fresh = Toy(torch.bfloat16, seed=9)
        fresh.frozen.load_state_dict(Toy(torch.bfloat16).frozen.state_dict())
        engine = build_engine(SharedModel([fresh]), [settings(kind)], ranks)
        engine.load_trained_state(trained)
        engine.load_optimizer_state(optimizer)
        assert_equal(state_of(engine), middle)
        assert train(engine, 4, 8) == points
        assert_equal(state_of(engine), end)
        engine.close()
        return points, middle, end

    return each_engine(halves, [PLAIN, *STAGES])


def run_continue(middle: dict[str, Tensor]) -> dict[Any, Any]:
    def second_half(kind: tuple[str, int], ranks: Ranks) -> dict[str, Tensor]:
        engine = build_engine(SharedModel([Toy(torch.bfloat16)]), [settings(kind)], ranks)
        optimizer = {name: value for name, value in middle.items() if name.endswith(("step", "exp_avg", "exp_avg_sq"))}
        engine.load_trained_state({name: value for name, value in middle.items() if name not in optimizer})
        engine.load_optimizer_state(optimizer)
        assert_equal(state_of(engine), middle)
        train(engine, 4, 8)
        with pytest.raises(ValueError, match=r"lacks .*prompt"):
            engine.load_trained_state({})
        with pytest.raises(ValueError, match=r"the unknown other"):
            engine.load_optimizer_state(optimizer | {"other": torch.zeros(1)})
        with pytest.raises(ValueError, match=r"prompt is \[2\], but the model's is \[6\]"):
            engine.load_trained_state(engine.trained_state() | {"prompt": torch.zeros(2)})
        end = state_of(engine)
        engine.close()
        return end

    return each_engine(second_half, [PLAIN, *STAGES])


def test_a_resumed_run_equals_an_uninterrupted_one_and_states_change_engine_and_ranks(run_distributed):
    results = run_distributed(__file__, "run_resume", world_size=2)
    for kind in (PLAIN, *STAGES):
        assert_equal(results[0][kind][2], results[1][kind][2])
    _, middle, end = results[0][("deepspeed", 3)]
    for world_size in (1, 2):
        (continued, *_) = run_distributed(__file__, "run_continue", middle, world_size=world_size)
        for kind, state in continued.items():
            assert_close(state, end, kind)


# ---- what is not finite stops every rank


def run_not_finite() -> None:
    def poison(kind: tuple[str, int], ranks: Ranks) -> None:
        engine = build_engine(SharedModel([Toy(torch.float32)]), [settings(kind)], ranks)
        train(engine, 0, 1)
        before = state_of(engine)
        batch = micro_batches(1, ranks)[0]
        loss = loss_of(engine.forward({0: batch})[0], batch)
        update = engine.step({0: loss * (math.nan if ranks.rank == 1 else 1.0)})[0]
        assert isinstance(update, NonFiniteLoss)
        assert "on rank 0, nan on rank 1" in str(update)
        assert_equal(state_of(engine), before)
        engine.close()

        engine = build_engine(SharedModel([Toy(torch.float32)]), [settings(kind)], ranks)
        before = state_of(engine)
        *accumulated, last = [engine.forward({0: batch})[0] for batch in micro_batches(1, ranks)]
        for encoding in accumulated:
            engine.step({0: encoding.logits_BC.sum()})
        update = engine.step({0: infinite_slope(last.logits_BC)})[0]
        assert isinstance(update, NonFiniteLoss)
        assert "gradient's norm" in str(update)
        assert_equal(state_of(engine), before)
        engine.close()

    each_engine(poison, [PLAIN, *STAGES])


def test_a_poisoned_rank_stops_every_rank_before_the_update(run_distributed):
    run_distributed(__file__, "run_not_finite")


# ---- several members


class Beside(SharedModel):
    """Toys that share nothing, each called alone."""

    def forward(self, places: Sequence[int], batches: Sequence[Batch]) -> list[Encoding]:
        return [self.members[place](batch) for place, batch in zip(places, batches, strict=True)]


MEMBERS = [
    {"lr": 0.02, "max_grad_norm": 0.4},
    {"lr": 0.02, "max_grad_norm": 0.0, "weight_decay": 0.0, "betas": [0.8, 0.99]},
    {"lr": 0.1, "max_grad_norm": 0.05},
    {"lr": 0.02, "max_grad_norm": 0.4},
]
ENDS = {1: 3, 3: 1}
"""Members that diverge, and the update they do so in: member 1 by its loss, member 3 by its gradient."""


def updates_of(engine: Engine, members: Sequence[int], steps: int = 6) -> dict[int, list[float]]:
    """The norms of the members that live through all updates; one alone does not diverge."""
    norms: dict[int, list[float]] = {place: [] for place in range(len(members))}
    last_rank = engine.ranks.rank == engine.ranks.world_size - 1
    for step in range(steps):
        for place, member in enumerate(members):
            engine.set_lr(MEMBERS[member]["lr"] / (1 + step), place)
        for part, batch in enumerate(micro_batches(step, engine.ranks)):
            encodings = engine.forward(dict.fromkeys(norms, batch))  # type: ignore[misc]
            losses = {place: loss_of(encoding, batch) for place, encoding in encodings.items()}
            diverging = [place for place in losses if len(members) > 1 and ENDS.get(place) == step and part == 1]
            for place in diverging:
                slope = infinite_slope(encodings[place].logits_BC)
                losses[place] = slope if place == 3 else losses[place] * (math.nan if last_rank else 1)
            for place, update in engine.step(losses).items():
                if isinstance(update, NonFiniteLoss):
                    del norms[place]
                elif update is not None:
                    norms[place].append(update)
    return norms


def run_members() -> None:
    def compare(kind: tuple[str, int], ranks: Ranks) -> None:
        configs = [settings(kind, **optim) for optim in MEMBERS]
        engine = build_engine(Beside([Toy(torch.float32, member) for member in range(len(MEMBERS))]), configs, ranks)
        norms = updates_of(engine, range(len(MEMBERS)))
        assert norms.keys() == {0, 2}
        for member, config in enumerate(configs):
            alone = build_engine(SharedModel([Toy(torch.float32, member)]), [config], ranks)
            own = updates_of(alone, [member], ENDS.get(member, 6))[0]
            assert_close(engine.trained_state(member), alone.trained_state(), kind)
            if member in norms:
                assert_close(norms[member], own, kind)
                assert_close(engine.optimizer_state(member), alone.optimizer_state(), kind)
            alone.close()
        engine.close()

    each_engine(compare, [PLAIN, *STAGES])


@pytest.mark.parametrize("world_size", [1, 2])
def test_members_are_updated_as_if_alone_and_one_that_diverges_ends_alone(run_distributed, world_size):
    run_distributed(__file__, "run_members", world_size=world_size)


# ---- ranks


def run_ranks(done: str) -> None:
    engine_settings = settings(("deepspeed", 2)).engine
    ranks = start_ranks(engine_settings)
    assert ranks.is_first == (ranks.rank == 0)
    assert ranks.all_true(True)
    assert not ranks.all_true(ranks.is_first)
    assert ranks.mean({"a": float(ranks.rank), "b": 5.0}) == {"a": 0.5, "b": 5.0}
    assert ranks.gather_objects({"rank": ranks.rank}) == [{"rank": 0}, {"rank": 1}]
    assert ranks.broadcast_object(f"from {ranks.rank}") == "from 0"

    from deepspeed.utils import groups

    # A second run of this process may have less patience.
    start_ranks(engine_settings.model_copy(update={"timeout_seconds": 2}))
    if ranks.rank == 1:
        while not Path(done).exists():
            time.sleep(0.1)
        return
    started = time.monotonic()
    with pytest.raises(RuntimeError, match=r"(?i)timed? ?out"):  # ZeRO's own group, not only the world's
        torch.distributed.all_reduce(torch.zeros(1), group=groups._get_data_parallel_group())
    waited = time.monotonic() - started
    Path(done).touch()
    assert 1.5 < waited < 60  # a busy machine wakes late, but the timeout before was twice this


def test_ranks_agree_and_wait_for_an_absent_one_no_longer_than_the_timeout(run_distributed, tmp_path):
    run_distributed(__file__, "run_ranks", str(tmp_path / "done"))


# ---- what DeepSpeed would compile


def run_start() -> float:
    started = time.monotonic()
    start_ranks(settings(("deepspeed", 0)).engine)
    return time.monotonic() - started


def test_a_lock_left_by_a_killed_build_does_not_hang_the_start(run_distributed, tmp_path: Path):
    folder = tmp_path / "deepspeed_shm_comm"
    folder.mkdir()
    (folder / "lock").touch()
    run_distributed(__file__, "run_start", env={"TORCH_EXTENSIONS_DIR": str(tmp_path)})
    assert [file.name for file in folder.iterdir()] == ["lock"]


# ---- a backbone that is partitioned while it is loaded


class AroundBert(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        torch.manual_seed(0)
        self.prompt = nn.Parameter(torch.randn(16) / 3)
        self.head = nn.Linear(16, 3)

    def forward(self, batch: ToyBatch) -> Encoding:
        ids_BL = (batch.x_BD.abs() * 20).long().clamp(max=49)
        embeddings_BLD = self.backbone.get_input_embeddings()(ids_BL) + self.prompt.to(self.backbone.dtype)
        pooled_BD = self.backbone(inputs_embeds=embeddings_BLD).last_hidden_state.float().mean(1)
        return Encoding(self.head(pooled_BD), pooled_BD, prompt_BPE=self.prompt, latent=Latent(pooled_BD, pooled_BD))


def run_partitioned(folder: str) -> dict[str, dict[Any, Any]]:
    deepspeed_config.PERSISTENCE_NUMEL = 0
    return {dtype: run_partitioned_as(folder, dtype) for dtype in ("float32", "bfloat16")}


def run_partitioned_as(folder: str, dtype: str) -> dict[Any, Any]:
    from transformers import AutoModel

    def curve(kind: tuple[str, int], ranks: Ranks) -> tuple[list[tuple[float, float]], Tensor, int]:
        config = settings(kind)
        config = config.model_copy(update={"backbone": config.backbone.model_copy(update={"dtype": dtype})})
        with partitioned_loading(config, ranks):
            backbone = AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype), add_pooling_layer=False)
        embedding = backbone.get_input_embeddings().weight
        held = sum(parameter.numel() for parameter in backbone.parameters())
        with gathered([embedding]):
            table_VD = embedding.detach().clone()
        engine = build_engine(SharedModel([AroundBert(backbone)]), [config], ranks)
        points = train(engine, 0, 4)
        assert {parameter.dtype for parameter in backbone.parameters()} == {getattr(torch, dtype)}
        engine.close()
        return points, table_VD, held

    return each_engine(curve, [PLAIN, ("deepspeed", 3)])


def test_a_backbone_loaded_in_parts_trains_as_a_whole_one(run_distributed, tmp_path: Path):
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "bert")
    for results in run_distributed(__file__, "run_partitioned", str(tmp_path / "bert")):
        for engines in results.values():
            (truth, table_VD, _), (points, same_VD, held) = engines.values()
            assert held == 0  # no weight is whole outside a gathered context
            assert torch.equal(table_VD, same_VD)
            assert_close(points, truth, ("deepspeed", 3))
