"""What runs forward, backward and update: the interface of the engines, and what they share."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from infoprompt.config import OptimSettings, RunConfig
from infoprompt.data.batch import Batch
from infoprompt.engine.ranks import Ranks
from infoprompt.objective.encoding import Encoding

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's running moments, by torch's names."""


class NonFiniteLoss(RuntimeError):
    """A loss or gradient is infinite or not a number; the update was not made, on any rank."""


class Engine(Protocol):
    """Trains a model. Every method is collective but `set_lr`: all ranks call it, in the same order.

    The states are whole float32 CPU tensors that know nothing of ranks, ZeRO stages or the kind of engine, so one that
    was saved anywhere can be loaded anywhere.
    """

    ranks: Ranks
    model: nn.Module

    def forward(self, batch: Batch) -> Encoding:
        """Forward in training mode."""

    def step(self, loss: Tensor) -> float | None:
        """Backward of one micro-batch; at the last one of a batch clip, update, and zero the gradients.

        Args:
            loss: scalar, the mean over the micro-batch's examples of this rank.
        Returns:
            Norm of the whole gradient over all ranks, before clipping; None if no update was due.
        Raises:
            NonFiniteLoss: on every rank, if the loss of any rank or the gradient is not finite.
        """

    def set_lr(self, lr: float) -> None:
        """Learning rate of the next updates."""

    def infer(self, batch: Batch) -> Encoding:
        """Forward in evaluation mode, without gradients."""

    def trained_state(self) -> dict[str, Tensor]:
        """Every trained parameter, by its name in the model."""

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Set every trained parameter; raises ValueError if names or shapes differ."""

    def optimizer_state(self) -> dict[str, Tensor]:
        """`<parameter>.exp_avg` and `<parameter>.exp_avg_sq` of every trained parameter, and `step`, int64 scalar."""

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Set what `optimizer_state` gave; raises ValueError if names or shapes differ."""

    def close(self) -> None:
        """Let go of the model."""


def build_engine(model: nn.Module, config: RunConfig, ranks: Ranks) -> Engine:
    """The engine that `engine.kind` names.

    Args:
        model: Batch -> Encoding, the same on every rank; float32 where it is trained. The engine moves it.
    Raises:
        ConfigError: the batch cannot be cut into equal parts for all ranks.
    """
    # DeepSpeed takes seconds to import, so it is loaded only when chosen.
    if config.engine.kind == "deepspeed":
        from infoprompt.engine.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(model, config, ranks)
    from infoprompt.engine.plain_engine import PlainEngine

    return PlainEngine(model, config, ranks)


def partitions_weights(config: RunConfig) -> bool:
    """Whether each rank keeps only its part of the backbone."""
    return config.engine.kind == "deepspeed" and config.engine.zero_stage == 3


def partitioned_loading(config: RunConfig, ranks: Ranks) -> AbstractContextManager[Any]:
    """Context around `from_pretrained`: under ZeRO-3 each rank keeps its part only, else nothing is different."""
    if not partitions_weights(config):
        return nullcontext()
    from infoprompt.engine import deepspeed_engine

    return deepspeed_engine.partitioned_loading(config, ranks.world_size)


def gathered(parameters: Sequence[nn.Parameter]) -> AbstractContextManager[Any]:
    """Context in which partitioned parameters are whole, for reading; every rank must enter it."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return nullcontext()
    from infoprompt.engine import deepspeed_engine

    return deepspeed_engine.gathered(parameters)


@contextmanager
def seeded_dropout(seed: int, step: int, ranks: Ranks) -> Iterator[None]:
    """While open, what dropout draws depends on seed, update and rank alone, so a resumed run draws it again."""
    drawn = np.random.default_rng([seed, step, 3, ranks.rank]).integers(2**63)
    with torch.random.fork_rng(devices=[ranks.device] if ranks.device.type == "cuda" else []):
        torch.manual_seed(int(drawn))
        yield


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """What is trained, by the name that saved states have for it."""
    trained = {_saved_name(name): parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained, "nothing in the model is trained"
    assert all(parameter.dtype == torch.float32 for parameter in trained.values()), "trained parameters are float32"
    return trained


# Saved states and artifacts have the names of the first release.
_SAVED_NAMES = {
    f"{term}_information.{part}.": f"{term}_{saved}."
    for term in ("head", "representation")
    for part, saved in (("critic", "critic"), ("baseline", "baseline.baseline"))
}


def _saved_name(name: str) -> str:
    for ours, saved in _SAVED_NAMES.items():
        name = name.replace(ours, saved) if name.startswith(ours) else name
    return name


def build_optimizer(parameters: Sequence[nn.Parameter], optim: OptimSettings) -> torch.optim.AdamW:
    """The optimiser, the same in every engine."""
    return torch.optim.AdamW(parameters, lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay)


def require_finite_loss(loss: Tensor, ranks: Ranks) -> None:
    """Raise NonFiniteLoss on every rank if the loss of any is not finite."""
    value = float(loss.detach())
    if ranks.all_true(math.isfinite(value)):
        return
    losses = ", ".join(f"{value:g} on rank {rank}" for rank, value in enumerate(ranks.gather_objects(value)))
    raise NonFiniteLoss(f"the loss is not finite ({losses}). Lower optim.lr, or look at this batch's rows.")


def require_finite_norm(norm: float) -> float:
    """The gradient norm, which all ranks share; raises NonFiniteLoss if it is not finite."""
    if not math.isfinite(norm):
        raise NonFiniteLoss(f"the gradient's norm is {norm:g}, though the loss is finite. Lower optim.lr.")
    return norm


def check_state(state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
    """Raise ValueError, naming the culprits, if a saved state does not have exactly these names and shapes."""
    for what, names in (("lacks", shapes.keys() - state.keys()), ("has the unknown", state.keys() - shapes.keys())):
        if names:
            raise ValueError(
                f"the saved state {what} {', '.join(sorted(names))}. It belongs to another model: "
                "use the settings it was saved with."
            )
    for name, shape in shapes.items():
        if state[name].shape != shape:
            raise ValueError(
                f"the saved state's {name} is {list(state[name].shape)}, but the model's is {list(shape)}. "
                "Use the settings it was saved with."
            )


def optimizer_shapes(shapes: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
    """Names and shapes of the optimiser's state, for parameters of these names and shapes."""
    moments = {f"{name}.{moment}": shape for name, shape in shapes.items() for moment in MOMENTS}
    return moments | {"step": torch.Size([])}


def cpu_copy(tensor: Tensor) -> Tensor:
    """A float32 copy on the CPU that shares nothing with the tensor."""
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
