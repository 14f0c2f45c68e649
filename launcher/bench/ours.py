"""Our own training steps: set up as every run is, with the methods' settings as in configs/recipes/."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from infoprompt.build_setup import build_setup
from infoprompt.config import RunConfig, build_config
from infoprompt.data.batch import Batch
from infoprompt.data.splits import Splits
from infoprompt.engine.interface import SeededDropout
from infoprompt.engine.ranks import start_ranks
from infoprompt.objective.total import information_objective
from infoprompt.progress import Progress
from infoprompt.setup import Setup
from launcher.bench.contender import Contender

LEARNING_RATE = 1e-3
NO_TERMS = {"preset": "analytic", "head_weight": 0, "representation_weight": 0}
METHODS: dict[str, dict[str, Any]] = {
    # before the first token, as PEFT has them
    "prompt tuning": {"prompt": {"kind": "static", "template": "before"}, "objective": NO_TERMS},
    "prefix tuning": {"prompt": {"kind": "prefix"}, "objective": NO_TERMS},
    "InfoPrompt": {"prompt": {"kind": "instance"}, "objective": {"preset": "analytic"}},
    "InfoPrompt, release": {
        "prompt": {"kind": "instance"},
        "objective": {"preset": "release"},
        "head": {"kind": "variational", "pooling": "mask"},
    },
}
"""Settings of each method; `InfoPrompt, release` is the preset that computes what the released code does."""

PADDED = {"unpadded": False, "attention": "sdpa"}


@dataclass(frozen=True)
class Wanted:
    """What all contenders of a table share."""

    backbone: str
    dtype: str
    device: str
    batch_size: int
    prompt_length: int = 20


def config_of(method: str, wanted: Wanted, backbone: dict[str, Any] | None = None) -> RunConfig:
    """The config of a method; `backbone` are further settings of it, the defaults if not given."""
    values = METHODS[method]
    return build_config(
        {
            **values,
            "prompt": {**values["prompt"], "length": wanted.prompt_length},
            "backbone": {"name": wanted.backbone, "dtype": wanted.dtype, **(backbone or {})},
            "data": {"train": "not read", "batch_size": wanted.batch_size},
            "optim": {"lr": LEARNING_RATE},
            "evaluation": {"test": False},
            "engine": {"kind": "plain", "device": wanted.device},
        }
    )


@dataclass(frozen=True)
class Training:
    """The loop of `infoprompt.train`, an update at a time, without evaluation or records."""

    setup: Setup

    @classmethod
    def start(cls, config: RunConfig, splits: Splits) -> "Training":
        """Set up on rows that were read."""
        return cls(build_setup(config, start_ranks(config.engine), splits))

    @cached_property
    def steps(self) -> int:
        """Updates of a pass over the rows."""
        return self.setup.train.steps_per_epoch

    def batches(self, number: int) -> Iterator[tuple[int, list[Batch]]]:
        """The updates of a pass: their number, and their micro-batches."""
        for step in range(number * self.steps, (number + 1) * self.steps):
            yield step, list(self.setup.train.micro_batches(step))

    def update(self, made: tuple[int, list[Batch]]) -> Tensor:
        """One update; the last micro-batch's loss."""
        step, batches = made
        setup, config = self.setup, self.setup.config
        setup.engine.set_lr(config.optim.lr)
        progress = Progress(self.steps, self.steps * config.optim.epochs, step)
        setup.member.drawing = SeededDropout(config.seed, step, setup.ranks)
        for batch in batches:
            on_device = batch.to(setup.ranks.device)
            encoding = setup.engine.forward({0: on_device})[0]
            terms = information_objective(encoding, on_device, config.objective, progress, setup.class_weight_C)
            setup.engine.step({0: terms.total})
        return terms.total.detach()


def positions(made: tuple[int, list[Batch]]) -> int:
    """Positions of an update's batches."""
    return sum(len(batch) * batch.length for batch in made[1])


def contender(method: str, splits: Splits, wanted: Wanted, *, padded: bool = False) -> Contender:
    """Ours, with the backbone's default settings or `padded`."""
    training = Training.start(config_of(method, wanted, PADDED if padded else None), splits)
    name = "ours, padded" if padded else "ours"
    if method == "InfoPrompt, release":
        name, method = "ours, release preset", "InfoPrompt"
    return Contender(f"{name}: {method}", method, training.batches, training.update, positions)
