"""Training under DeepSpeed, ZeRO stages 0 to 3. Loaded only when chosen.

How the stages keep what is trained (DeepSpeed 0.19.8, no fp16 or bf16 section):
    0     parameters and AdamW's state as in plain torch, whole on every rank.
    1, 2  parameters whole on every rank; AdamW runs on each rank's part of their concatenation.
    3     every parameter cut into one part per rank; AdamW runs on the concatenation of this rank's parts. What was
          loaded in parts (a backbone, also one that is fine-tuned) is whole only while its module runs; prompts,
          heads and critics are whole at all times.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal

import deepspeed
import torch
from deepspeed.runtime.utils import clip_grad_norm_, combine_grad_norm_groups
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
from infoprompt.engine.deepspeed_config import deepspeed_config
from infoprompt.engine.deepspeed_loading import live_config
from infoprompt.engine.interface import NonFiniteLoss, Update, checked_norm, finite_losses, total
from infoprompt.engine.plain_engine import set_whole_optimizer_state, whole_optimizer_state
from infoprompt.model.backbone.row_reads import made_whole
from infoprompt.model.shared import SharedModel
from infoprompt.objective.encoding import Encoding
from infoprompt.ranks import Ranks

KEPT_WHOLE = "infoprompt_kept_whole"
"""Marks a parameter that is whole on every rank: a later engine finds it parted, and could not tell otherwise."""


class DeepSpeedEngine:
    """An `Engine`; `start_ranks` must have been called with the same settings.

    One DeepSpeed optimiser updates all members, each its parameter group. DeepSpeed clips all groups by one norm, so
    its clipping is off and each member's gradient is clipped here, before the update.
    """

    def __init__(self, model: SharedModel, configs: Sequence[RunConfig], ranks: Ranks) -> None:
        _quiet()
        config = configs[0]
        self.ranks = ranks
        self._max_norms = [config.optim.max_grad_norm for config in configs]
        self._trained = [trained_parameters(member) for member in model.members]
        self._shapes = [{name: _whole_shape(parameter) for name, parameter in own.items()} for own in self._trained]
        self._stage = config.engine.zero_stage
        parameters = [parameter for own in self._trained for parameter in own.values()]
        self._outputs = _TensorOutputs(model)
        self._loading = live_config(config, ranks.world_size)
        # Of what is trained, a backbone that was loaded in parts stays so.
        self._whole = [each for each in parameters if not hasattr(each, "ds_id") or hasattr(each, KEPT_WHOLE)]
        for parameter in self._whole:
            setattr(parameter, KEPT_WHOLE, True)
        if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
            # DeepSpeed moves a model that it has not loaded in parts; of one that it has, only the parts.
            _move_unpartitioned(model, ranks.device)
        self._engine, *_ = deepspeed.initialize(
            model=self._outputs,
            model_parameters=parameters,
            optimizer=build_optimizer(self._trained, [config.optim for config in configs]),
            config=deepspeed_config(config, ranks.world_size, _device_type(ranks.device), _largest_numel(model)),
        )
        if self._stage == 3:
            self._keep_whole()
        if self._stage > 0:
            self._start_moments()

    def forward(self, batches: Mapping[int, Batch]) -> dict[int, Encoding]:
        """See `Engine`."""
        self._engine.train()
        return self._pass(batches)

    def step(self, losses: Mapping[int, Tensor]) -> dict[int, Update]:
        """See `Engine`."""
        finite, updates = finite_losses(losses, self.ranks)
        if not finite:
            return updates
        self._engine.backward(total(finite))
        if self._engine.is_gradient_accumulation_boundary():
            updates |= {member: self._clip(member) for member in finite}
            updated = {member for member, update in updates.items() if isinstance(update, float)}
            if not updated:
                return updates
            for member in set(range(len(self._trained))) - updated:
                self._leave_out(member)
        self._engine.step()
        return updates

    def set_lr(self, lr: float, member: int = 0) -> None:
        """See `Engine`."""
        self._engine.optimizer.param_groups[member]["lr"] = lr

    @torch.no_grad()
    def infer(self, batches: Mapping[int, Batch]) -> dict[int, Encoding]:
        """See `Engine`."""
        self._engine.eval()
        return self._pass(batches)

    def trained_state(self, member: int = 0) -> dict[str, Tensor]:
        """See `Engine`."""
        whole = safe_get_full_fp32_param if self._stage == 3 else torch.Tensor.detach
        return {name: cpu_copy(whole(parameter)) for name, parameter in self._trained[member].items()}

    @torch.no_grad()
    def load_trained_state(self, state: Mapping[str, Tensor], member: int = 0) -> None:
        """See `Engine`."""
        check_state(state, self._shapes[member])
        for name, parameter in self._trained[member].items():  # one by one: a whole backbone may not fit a rank
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0, enabled=self._stage == 3):
                parameter.copy_(state[name])
        if self._stage == 3:
            self._gather_lasting()
        if self._stage > 0:
            self._engine.optimizer.refresh_fp32_params()

    def optimizer_state(self, member: int = 0) -> dict[str, Tensor]:
        """See `Engine`."""
        if self._stage == 0:
            return whole_optimizer_state(self._engine.optimizer, self._trained[member])
        state = {
            f"{name}.{moment}": cpu_copy(safe_get_full_optimizer_state(parameter, moment))
            for name, parameter in self._trained[member].items()
            for moment in MOMENTS
        }
        base = self._engine.optimizer.optimizer
        return state | {"step": base.state[self._flat(member)[0]]["step"].to("cpu", torch.int64)}

    def load_optimizer_state(self, state: Mapping[str, Tensor], member: int = 0) -> None:
        """See `Engine`."""
        check_state(state, optimizer_shapes(self._shapes[member]))
        if self._stage == 0:
            set_whole_optimizer_state(self._engine.optimizer, self._trained[member], state)
            return
        for flat in self._flat(member):
            self._engine.optimizer.optimizer.state[flat]["step"] = state["step"].to("cpu", torch.float32, copy=True)
        for name, parameter in self._trained[member].items():
            for moment in MOMENTS:
                whole = state[f"{name}.{moment}"].to(self.ranks.device)
                if self._stage < 3:
                    safe_set_full_optimizer_state(parameter, whole, moment)
                else:
                    safe_set_local_optimizer_state(parameter, _own_part(whole, parameter), moment)

    def close(self) -> None:
        """See `Engine`."""
        self._engine.destroy()
        for module in self._outputs.modules():  # made once for a module, they would ask this engine for ever
            for name in ("pre_bwd_fn", "post_bwd_fn"):
                vars(module).pop(name, None)
        # It would destroy once more when it is collected, and take from the parameters what the next engine has hung on
        # them by then (stages 1 and 2).
        self._engine.optimizer = None
        self._loading = None

    def _pass(self, batches: Mapping[int, Batch]) -> dict[int, Encoding]:
        outputs = self._engine(list(batches), list(batches.values()))
        return dict(zip(batches, self._outputs.take(outputs), strict=True))

    def _keep_whole(self) -> None:
        # Otherwise a trained parameter has its values only while the module that owns it runs. Some are used elsewhere
        # (a critic reads the head's vectors), or by a module that returns a dataclass (a prompt). Their gradient would
        # be taken of an empty tensor. DeepSpeed frees even persistent parameters after a pass that it has not
        # traced yet. It does not free those that it calls external.
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

    def _clip(self, member: int) -> float | NonFiniteLoss:
        """Clip a member's averaged gradient; its norm before."""
        max_norm = self._max_norms[member]
        if self._stage == 0:
            trained = self._trained[member].values()
            norm = nn.utils.get_total_norm([parameter.grad for parameter in trained if parameter.grad is not None])
            if max_norm > 0:
                clip_grad_norm_(trained, max_norm)
            return checked_norm(float(norm))
        zero = self._engine.optimizer
        groups = self._groups(member)
        of_group = zero.fp16_groups if self._stage == 3 else zero.params_in_partition
        norm = combine_grad_norm_groups(
            [zero.get_grad_norm_direct(zero.averaged_gradients[group], of_group[group]) for group in groups]
        )
        if max_norm > 0:
            scale = 1.0 / torch.clamp((norm + 1e-6) / max_norm, min=1.0)
            for group in groups:
                for gradient in zero.averaged_gradients[group]:
                    gradient.mul_(scale)
        return checked_norm(float(norm))

    def _leave_out(self, member: int) -> None:
        """Have the update leave a member's parameters as they are."""
        if self._stage == 0:
            for parameter in self._trained[member].values():
                parameter.grad = None
            return
        self.set_lr(0.0, member)  # a group that has no gradient is updated all the same
        for group in self._groups(member):
            for gradient in self._engine.optimizer.averaged_gradients[group]:
                gradient.zero_()

    def _groups(self, member: int) -> list[int]:
        """Which of ZeRO's flat groups hold a member's parameters."""
        if self._stage < 3:
            return [member]
        group_of = self._engine.optimizer.sub_group_to_group_id
        return [flat for flat in sorted(group_of) if group_of[flat] == member]

    def _flat(self, member: int) -> list[Tensor]:
        """What this rank's AdamW updates of a member: its part of the trained parameters, joined."""
        zero = self._engine.optimizer
        flat = zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups
        return [flat[group] for group in self._groups(member)]

    def _start_moments(self) -> None:
        # torch makes AdamW's state at the first update. A state may be asked for, or loaded, before; and stages 1 and 2
        # look for the state of every group as soon as the first one has been updated.
        zero = self._engine.optimizer
        for flat in (flat for member in range(len(self._trained)) for flat in self._flat(member)):
            moments = {moment: torch.zeros_like(flat, requires_grad=False) for moment in MOMENTS}
            zero.optimizer.state[flat] = {"step": torch.tensor(0.0)} | moments
        if self._stage < 3:
            zero._lazy_init_hp_params_optimizer_state()


class _TensorOutputs(nn.Module):
    """Shows DeepSpeed the tensors of the encodings: its hooks do not look into dataclasses."""

    def __init__(self, model: SharedModel) -> None:
        super().__init__()
        self.model = model
        self._encodings: list[Encoding] = []

    def forward(self, places: Sequence[int], batches: Sequence[Batch]) -> tuple[Tensor, ...]:
        self._encodings = self.model(places, batches)
        return tuple(tensor for encoding in self._encodings for tensor in _tensors(encoding))

    def take(self, outputs: tuple[Tensor, ...]) -> list[Encoding]:
        """The encodings, made of the tensors that DeepSpeed has hooked."""
        encodings, self._encodings, hooked = self._encodings, [], iter(outputs)
        return [_with_tensors(encoding, hooked) for encoding in encodings]


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


def _own_part(whole: Tensor, parameter: nn.Parameter) -> Tensor:
    """This rank's part of a tensor shaped like the parameter, which stage 3 pads to equal parts."""
    size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
    start = size * parameter.ds_zero_partition_rank  # type: ignore[attr-defined]
    own = whole.flatten()[start : start + size]
    return nn.functional.pad(own, (0, size - own.numel()))


def _whole_shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)


def _largest_numel(model: nn.Module) -> int:
    return max(_whole_shape(parameter).numel() for parameter in made_whole(model))


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
