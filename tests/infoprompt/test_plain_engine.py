import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from infoprompt.config import ConfigError, EngineSettings, RunConfig, build_config
from infoprompt.engine.engine import build_engine, gathered, partitioned_loading
from infoprompt.engine.interface import NonFiniteLoss
from infoprompt.engine.plain_engine import PlainEngine
from infoprompt.engine.ranks import start_ranks, stop_ranks
from infoprompt.model.shared import SharedModel
from infoprompt.objective.encoding import Encoding
from infoprompt.ranks import Ranks

ALONE = Ranks(0, 1, 0, torch.device("cpu"))


@dataclass(frozen=True)
class ToyBatch:
    x_BD: Tensor


class Toy(nn.Module):
    """A frozen layer before a trained one; `unused` gets no gradient."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(4, 4).to(torch.bfloat16).requires_grad_(False)
        self.head = nn.Linear(4, 2)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, batch: ToyBatch) -> Encoding:
        pooled_BD = self.frozen(batch.x_BD.to(torch.bfloat16)).float()
        return Encoding(self.head(pooled_BD), pooled_BD)


def config(micro_batch_size: int | None = None, **optim: Any) -> RunConfig:
    values = {
        "data": {"batch_size": 4, "micro_batch_size": micro_batch_size},
        "optim": {"lr": 0.1, "weight_decay": 0.5} | optim,
        "engine": {"kind": "plain"},
    }
    return build_config(values)


def engine(micro_batch_size: int | None = None, **optim: Any) -> PlainEngine:
    built = build_engine(SharedModel([Toy()]), [config(micro_batch_size, **optim)], ALONE)
    assert isinstance(built, PlainEngine)
    return built


def batch(seed: int = 0) -> ToyBatch:
    return ToyBatch(torch.randn(4, 4, generator=torch.Generator().manual_seed(seed)))


def step(engine: PlainEngine, batch: ToyBatch) -> Any:
    update = engine.step({0: engine.forward({0: batch})[0].logits_BC.square().mean()})[0]  # type: ignore[dict-item]
    assert not isinstance(update, NonFiniteLoss)
    return update


def assert_equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_the_first_update_moves_every_weight_by_the_learning_rate():
    # AdamW's first step is lr * sign(gradient) after the decay, whatever the gradient's size.
    trained = engine(eps=1e-30, max_grad_norm=0.0)
    before = trained.trained_state()
    step(trained, batch())
    after = trained.trained_state()
    for name in ("head.weight", "head.bias"):
        moved = (after[name] - before[name] * (1 - 0.1 * 0.5)).abs()
        torch.testing.assert_close(moved, torch.full_like(moved, 0.1))
    torch.testing.assert_close(after["unused"], before["unused"] * (1 - 0.1 * 0.5))
    assert trained.optimizer_state()["step"] == 1


def test_the_returned_norm_is_that_before_clipping():
    free, clipped = engine(max_grad_norm=0.0), engine(max_grad_norm=1e-3)
    norm = step(free, batch())
    assert norm == step(clipped, batch())
    assert norm is not None
    # exp_avg after one update is (1 - beta1) times the gradient that AdamW saw.
    seen = clipped.optimizer_state()["head.weight.exp_avg"] / free.optimizer_state()["head.weight.exp_avg"]
    torch.testing.assert_close(seen, torch.full_like(seen, 1e-3 / norm))


def test_accumulated_parts_make_the_same_update_as_the_whole_batch():
    whole, parts = engine(), engine(micro_batch_size=2)
    norm = step(whole, batch())
    first, second = (ToyBatch(x) for x in batch().x_BD.split(2))
    assert step(parts, first) is None
    assert step(parts, second) == pytest.approx(norm, rel=1e-6)
    # The two means of two examples are added in another order than one mean of four.
    torch.testing.assert_close(parts.trained_state(), whole.trained_state())


def test_a_resumed_run_equals_an_uninterrupted_one():
    whole = engine()
    for seed in range(3):
        step(whole, batch(seed))
    trained, optimizer = whole.trained_state(), whole.optimizer_state()
    resumed = engine()
    resumed.load_trained_state(trained)
    resumed.load_optimizer_state(optimizer)
    for seed in range(3, 6):
        step(whole, batch(seed))
        step(resumed, batch(seed))
    assert_equal(resumed.trained_state(), whole.trained_state())
    assert_equal(resumed.optimizer_state(), whole.optimizer_state())
    assert optimizer["step"] == 3  # a saved state shares nothing with the engine


def test_a_state_holds_what_is_trained_and_nothing_else():
    assert engine().trained_state().keys() == {"head.weight", "head.bias", "unused"}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_update(bad):
    trained = engine()
    before = trained.trained_state()
    update = trained.step({0: trained.forward({0: batch()})[0].logits_BC.mean() * bad})[0]
    assert isinstance(update, NonFiniteLoss)
    assert f"{bad:g} on rank 0" in str(update)
    assert_equal(trained.trained_state(), before)


class Reads(TorchDispatchMode):
    """Counts the values that are read out of tensors, each of which waits for the device."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_an_engine_that_does_not_wait_makes_the_same_update_and_reads_no_value():
    waiting = engine(max_grad_norm=1e-3)
    other = PlainEngine(SharedModel([Toy()]), [config(max_grad_norm=1e-3)], ALONE, waits=False)
    with Reads() as reads:
        norms = [step(waiting, batch(seed)) for seed in range(3)]
    with Reads() as fewer:
        found = [step(other, batch(seed)) for seed in range(3)]
    own = 3 * len(waiting.trained_state())  # AdamW keeps its count of each parameter on the CPU
    assert (reads.count, fewer.count) == (own + 3 * 2, own)
    assert [float(norm) for norm in found] == norms
    assert_equal(other.trained_state(), waiting.trained_state())
    assert_equal(other.optimizer_state(), waiting.optimizer_state())


def test_the_learning_rate_is_that_of_the_next_update():
    trained = engine(weight_decay=0.0)
    before = trained.trained_state()
    trained.set_lr(0.0)
    step(trained, batch())
    assert_equal(trained.trained_state(), before)


def test_a_process_alone_needs_no_group_and_partitions_nothing():
    ranks = start_ranks(EngineSettings(kind="plain", device="cpu"))
    assert (ranks.rank, ranks.world_size, ranks.is_first) == (0, 1, True)
    assert not torch.distributed.is_initialized()
    assert ranks.mean({"a": 1.5}) == {"a": 1.5}
    assert ranks.gather_objects("x") == ["x"]
    stop_ranks()
    config = build_config({"engine": {"kind": "plain", "zero_stage": 3}})
    with partitioned_loading(config, ranks), gathered(list(Toy().parameters())):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"engine\.device is cuda, but rank 0 .* torch sees 0"):
        start_ranks(EngineSettings(kind="plain", device="cuda"))
