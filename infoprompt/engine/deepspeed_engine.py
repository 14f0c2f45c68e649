"""Training under DeepSpeed, ZeRO stages 0 to 3. Loaded only when chosen.

How the stages keep what is trained (DeepSpeed 0.19.8, no fp16 or bf16 section):
    0     parameters and AdamW's state as in plain torch, whole on every rank.
    1, 2  parameters whole on every rank; AdamW runs on each rank's part of their concatenation.
    3     every parameter cut into one part per rank; AdamW runs on the concatenation of this rank's parts. What was
          loaded in parts (a backbone, also one that is fine-tuned) is whole only while its module runs; prompts,
          heads and critics are whole at all times.
"""

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal

import deepspeed
import torch
from deepspeed.utils import (
    logger,
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_optimizer_state,
    safe_set_local_optimizer_state,
)
from torch import Tensor, nn

from infoprompt.config import RunConfig
from infoprompt.data.batch import Batch
from infoprompt.engine.adamw import (
    MOMENTS,
    build_optimizer,
    check_state,
    cpu_copy,
    optimizer_shapes,
    trained_parameters,
)
from infoprompt.engine.deepspeed_config import deepspeed_config, loading_config
from infoprompt.engine.interface import require_finite_loss, require_finite_norm
from infoprompt.engine.plain_engine import set_whole_optimizer_state, whole_optimizer_state
from infoprompt.engine.ranks import Ranks
from infoprompt.objective.encoding import Encoding


class DeepSpeedEngine:
    """An `Engine`; `start_ranks` must have been called with the same settings."""

    def __init__(self, model: nn.Module, config: RunConfig, ranks: Ranks) -> None:
        _quiet()
        self.ranks = ranks
        self.model = model
        self._trained = trained_parameters(model)
        self._shapes = {name: _whole_shape(parameter) for name, parameter in self._trained.items()}
        self._stage = config.engine.zero_stage
        parameters = list(self._trained.values())
        self._outputs = _TensorOutputs(model)
        self._loading = _live_config(config, ranks.world_size)
        # Of what is trained, a backbone that was loaded in parts stays so.
        self._whole = [parameter for parameter in parameters if not hasattr(parameter, "ds_id")]
        if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
            # DeepSpeed moves a model that it has not loaded in parts; of one that it has, only the parts.
            _move_unpartitioned(model, ranks.device)
        self._engine, *_ = deepspeed.initialize(
            model=self._outputs,
            model_parameters=parameters,
            optimizer=build_optimizer(parameters, config.optim),
            config=deepspeed_config(config, ranks.world_size, _device_type(ranks.device)),
        )
        if self._stage == 3:
            self._keep_whole()

    def forward(self, batch: Batch) -> Encoding:
        """See `Engine`."""
        self._engine.train()
        return self._outputs.take(self._engine(batch))

    def step(self, loss: Tensor) -> float | None:
        """See `Engine`."""
        require_finite_loss(loss, self.ranks)
        self._engine.backward(loss)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
            return None
        if self._stage == 0:
            # DeepSpeed forgets this norm; the gradients are averaged already.
            gradients = [parameter.grad for parameter in self._trained.values() if parameter.grad is not None]
            norm = require_finite_norm(float(nn.utils.get_total_norm(gradients)))
            self._engine.step()
            return norm
        self._engine.step()
        # ZeRO makes no update where the norm is not finite, and may then still hold the norm of the update before.
        applied = self._engine.was_step_applied()
        return require_finite_norm(float(self._engine.get_global_grad_norm()) if applied else math.inf)

    def set_lr(self, lr: float) -> None:
        """See `Engine`."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr

    @torch.no_grad()
    def infer(self, batch: Batch) -> Encoding:
        """See `Engine`."""
        self._engine.eval()
        return self._outputs.take(self._engine(batch))

    def trained_state(self) -> dict[str, Tensor]:
        """See `Engine`."""
        if self._stage < 3:
            return {name: cpu_copy(parameter) for name, parameter in self._trained.items()}
        return {name: cpu_copy(safe_get_full_fp32_param(parameter)) for name, parameter in self._trained.items()}

    @torch.no_grad()
    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Engine`."""
        check_state(state, self._shapes)
        for name, parameter in self._trained.items():  # one by one: a whole backbone may not fit a rank
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=self._stage == 3):
                parameter.copy_(state[name])
        if self._stage == 3:
            self._gather_lasting()
        if self._stage > 0:
            self._engine.optimizer.refresh_fp32_params()

    def optimizer_state(self) -> dict[str, Tensor]:
        """See `Engine`."""
        if self._stage == 0:
            return whole_optimizer_state(self._engine.optimizer, self._trained)
        self._start_moments()
        state = {
            f"{name}.{moment}": cpu_copy(safe_get_full_optimizer_state(parameter, moment))
            for name, parameter in self._trained.items()
            for moment in MOMENTS
        }
        base = self._engine.optimizer.optimizer
        return state | {"step": base.state[self._parts()[0]]["step"].to("cpu", torch.int64)}

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Engine`."""
        check_state(state, optimizer_shapes(self._shapes))
        if self._stage == 0:
            set_whole_optimizer_state(self._engine.optimizer, self._trained, state)
            return
        self._start_moments()
        for part in self._parts():
            self._engine.optimizer.optimizer.state[part]["step"] = state["step"].to("cpu", torch.float32, copy=True)
        for name, parameter in self._trained.items():
            for moment in MOMENTS:
                whole = state[f"{name}.{moment}"].to(self.ranks.device)
                if self._stage < 3:
                    safe_set_full_optimizer_state(parameter, whole, moment)
                else:
                    safe_set_local_optimizer_state(parameter, _own_part(whole, parameter), moment)

    def close(self) -> None:
        """See `Engine`."""
        self._engine.destroy()
        self._loading = None

    def _keep_whole(self) -> None:
        # Otherwise a trained parameter has its values only while the module that owns it runs. The gradient of one that
        # is used elsewhere (a critic reading the head's vectors), or of a module that returns a dataclass (a prompt),
        # would be taken of an empty tensor. DeepSpeed takes even lasting parameters away after a pass of which it has
        # no trace yet, but for those that it calls external.
        zero = self._engine.optimizer
        for parameter in self._whole:
            parameter.is_external_param = True  # type: ignore[attr-defined]
            if not parameter.ds_persist:  # type: ignore[attr-defined]
                parameter.ds_persist = True  # type: ignore[attr-defined]
                zero.persistent_parameters.append(parameter)
        self._gather_lasting()

    def _gather_lasting(self) -> None:
        lasting = self._engine.optimizer.persistent_parameters
        if lasting:
            lasting[0].all_gather(lasting)

    def _parts(self) -> list[Tensor]:
        """What this rank's AdamW updates: its parts of the trained parameters, joined."""
        zero = self._engine.optimizer
        return zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups

    def _start_moments(self) -> None:
        # torch makes AdamW's state at the first update; a state may be asked for, or loaded, before.
        zero = self._engine.optimizer
        for part in self._parts():
            if not zero.optimizer.state.get(part):
                moments = {moment: torch.zeros_like(part, requires_grad=False) for moment in MOMENTS}
                zero.optimizer.state[part] = {"step": torch.tensor(0.0)} | moments
        if self._stage < 3:
            zero._lazy_init_hp_params_optimizer_state()


class _TensorOutputs(nn.Module):
    """Shows DeepSpeed the tensors of an Encoding: its hooks do not look into dataclasses."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._encoding: Encoding | None = None

    def forward(self, batch: Batch) -> tuple[Tensor, ...]:
        self._encoding = self.model(batch)
        return tuple(_tensors(self._encoding))

    def take(self, outputs: tuple[Tensor, ...]) -> Encoding:
        """The Encoding, made of the tensors that DeepSpeed has hooked."""
        encoding, self._encoding = self._encoding, None
        return _with_tensors(encoding, iter(outputs))


def _tensors(record: Any) -> Iterator[Tensor]:
    for value in (getattr(record, field.name) for field in fields(record)):
        if isinstance(value, Tensor):
            yield value
        elif is_dataclass(value):
            yield from _tensors(value)


def _with_tensors(record: Any, tensors: Iterator[Tensor]) -> Any:
    changes: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Tensor):
            changes[field.name] = next(tensors)
        elif is_dataclass(value):
            changes[field.name] = _with_tensors(value, tensors)
    return replace(record, **changes)


@contextmanager
def partitioned_loading(config: RunConfig, world_size: int) -> Iterator[None]:
    """Context around `from_pretrained`: under ZeRO-3 each rank keeps its part only, else nothing is different."""
    live = _live_config(config, world_size)
    yield
    del live


def gathered(parameters: Sequence[nn.Parameter]) -> AbstractContextManager[Any]:
    """Context in which partitioned parameters are whole, for reading; every rank must enter it."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return nullcontext()
    return deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=None)


def _live_config(config: RunConfig, world_size: int) -> Any:
    # transformers partitions while it loads, and takes other precautions, for as long as this object lives.
    if config.engine.zero_stage < 3:
        return None
    from transformers.integrations import HfDeepSpeedConfig

    return HfDeepSpeedConfig(loading_config(config, world_size, "cuda" if torch.cuda.is_available() else "cpu"))


def _own_part(whole: Tensor, parameter: nn.Parameter) -> Tensor:
    """This rank's part of a tensor shaped like the parameter, which stage 3 pads to equal parts."""
    size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
    start = size * parameter.ds_zero_partition_rank  # type: ignore[attr-defined]
    own = whole.flatten()[start : start + size]
    return nn.functional.pad(own, (0, size - own.numel()))


def _whole_shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)


def _move_unpartitioned(model: nn.Module, device: torch.device) -> None:
    for tensor in (*model.parameters(), *model.buffers()):
        if not hasattr(tensor, "ds_id"):
            tensor.data = tensor.data.to(device)


def _device_type(device: torch.device) -> Literal["cpu", "cuda"]:
    return "cuda" if device.type == "cuda" else "cpu"


def _quiet() -> None:
    logger.setLevel(logging.WARNING)
    logger.addFilter(_worth_reading)
    # torch 2.13 has renamed collectives that DeepSpeed calls in every step.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)


def _worth_reading(record: logging.LogRecord) -> bool:
    # It warns of parameters of modules that take or return a dataclass: those are the trained ones, kept whole.
    return "unknown inputs or outputs type" not in str(record.msg)
