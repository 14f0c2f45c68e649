"""From a config to what its run takes: parameters, operations, tokens, memory and time."""

import importlib
import resource
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from infoprompt.config import RunConfig
from infoprompt.model.member import Member
from launcher.plan.devices import Device, find_device
from launcher.plan.memory import Memory, rank_memory, weights_made_whole
from launcher.plan.model import parameters, read_model_config, weightless_backbone, weightless_member
from launcher.plan.passes import Passes, count_passes
from launcher.plan.rows import Batches, planned_batches, read_rows


@dataclass(frozen=True)
class Plan:
    """What a run takes, of one rank where it has several."""

    backbone: str
    body_parameters: int
    head_parameters: int
    """Of the language-model head, where it is loaded."""
    trained: dict[str, int]
    """Trained parameters of each part."""
    ranks: int
    device: Device
    padded_tokens: float
    """Positions an update, padding counted."""
    real_tokens: float
    unpadded: bool
    """Whether the backbone passes over the real ones alone."""
    rows: str
    """Where the lengths come from."""
    steps_per_epoch: int
    forward_flops: int
    backward_flops: int
    memory: Memory
    runs_that_fit: int
    step_seconds: float
    """Without what ranks send each other."""
    fetched_bytes: int
    """Weights of other ranks that come to a rank an update (ZeRO stage 3)."""

    def as_json(self) -> dict[str, Any]:
        """Plain values; bytes of the peak and trained parameters in all beside their parts."""
        values = asdict(self)
        values["memory"] |= {"peak": self.memory.peak, "member": self.memory.member}
        return values | {"trained_parameters": sum(self.trained.values())}


def make_plan(config: RunConfig, device_name: str | None, ranks: int) -> Plan:
    """Read `config.json`, rows and tokenizer, and count; no weight is loaded.

    Args:
        config: every setting.
        device_name: see `find_device`; the CPU if not given.
        ranks: of the run.
    Raises:
        ConfigError: a setting, the model or the device does not fit.
    """
    device = find_device(device_name or "cpu")
    on_cpu = device.name == "cpu"
    found = read_model_config(config)
    splits, task, problem = read_rows(config)
    backbone = weightless_backbone(config, found, on_cpu=on_cpu)
    member = weightless_member(config, backbone, task)
    batches = planned_batches(config, splits, task, backbone, member, ranks)
    base = process_bytes(config) if on_cpu else device.context_bytes  # tokenizer and rows are there
    passes = count_passes(config, member, batches)
    memory = rank_memory(
        config, member, passes, ranks=ranks, base=base, kept_state_bytes=_kept_bytes(member, batches), on_cpu=on_cpu
    )
    body = parameters(backbone.body)
    return Plan(
        backbone=config.backbone.name,
        body_parameters=body,
        head_parameters=parameters(backbone) - body,
        trained=_trained(member),
        ranks=ranks,
        device=device,
        padded_tokens=batches.padded_tokens * batches.accumulation,
        real_tokens=batches.real_tokens * batches.accumulation,
        unpadded=backbone.packs,
        rows=batches.source + ("" if splits else f" ({problem})"),
        steps_per_epoch=batches.steps_per_epoch,
        forward_flops=passes.forward_flops,
        backward_flops=passes.backward_flops,
        memory=memory,
        runs_that_fit=memory.fitting(device.memory_bytes),
        step_seconds=step_seconds(config, passes, device),
        fetched_bytes=_fetched_bytes(config, member, batches, ranks),
    )


def step_seconds(config: RunConfig, passes: Passes, device: Device) -> float:
    """Time of an update: of its operations one after the other, each bound by arithmetic or by memory."""
    dtype = config.backbone.dtype
    return sum(count * device.seconds(*work, dtype) for work, count in passes.operations.items())


def process_bytes(config: RunConfig) -> int:
    """What this process holds with the modules of a run, as the run does before it has a model."""
    modules = ["infoprompt.train"]
    modules += ["infoprompt.engine.deepspeed_engine"] if config.engine.kind == "deepspeed" else []
    modules += ["infoprompt.tracking.client", "mlflow"] if config.tracking.enabled else []
    for module in modules:
        importlib.import_module(module)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _fetched_bytes(config: RunConfig, member: Member, batches: Batches, ranks: int) -> int:
    """The parts of all others for forward, for backward and, where inner states are computed anew, once more."""
    if config.engine.kind != "deepspeed" or config.engine.zero_stage < 3:
        return 0
    whole = sum(parameter.nbytes for parameter in weights_made_whole(config, member))
    passes = (2 + config.backbone.gradient_checkpointing) * batches.accumulation
    return passes * whole * (ranks - 1) // ranks


def _kept_bytes(member: Member, batches: Batches) -> int:
    width = member.backbone.hidden_size * (3 if member.pooling == "entities" else 2)
    return batches.kept_state_rows * width * torch.float32.itemsize


def _trained(member: Member) -> dict[str, int]:
    parts = dict(member.named_children())
    counts = {name: parameters(part, trained=True) for name, part in parts.items()}
    return {name: count for name, count in counts.items() if count}
