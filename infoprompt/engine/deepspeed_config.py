"""DeepSpeed's settings, worked out from ours: the one place that knows their names. Pure, and without DeepSpeed."""

from typing import Any, Literal

from infoprompt.config import ConfigError, DataSettings, RunConfig

# Only what is trained has gradients, a few million numbers at most. DeepSpeed's own default of 500 million would
# take a buffer of 2 GB for them.
REDUCE_BUCKET_NUMEL = 16_000_000

# Stage 3 keeps smaller tensors whole on every rank: gathering a norm or a bias costs more time than holding it costs
# memory. What is trained stays whole at any size, see deepspeed_engine.py.
PERSISTENCE_NUMEL = 100_000

# Stage 3 gathers this many numbers ahead of use: one to two layers of a large language model. So many may also stay
# whole between two uses. DeepSpeed's own default of 1,000 million would keep a small model whole on every rank.
PREFETCH_NUMEL = 50_000_000

NEVER = 2**31


def micro_batch_size(data: DataSettings, world_size: int) -> int:
    """Examples per rank per forward."""
    return data.micro_batch_size or data.batch_size // world_size


def accumulation_steps(data: DataSettings, world_size: int) -> int:
    """Forward passes per update on each rank.

    Raises:
        ConfigError: the batch cannot be cut into equal parts for all ranks.
    """
    if data.micro_batch_size:
        part = world_size * data.micro_batch_size
        parts = f"{world_size} ranks x data.micro_batch_size {data.micro_batch_size} = {part} examples per forward"
    else:
        part, parts = world_size, f"{world_size} ranks"
    if data.batch_size % part:
        above = part * -(-data.batch_size // part)
        fitting = [str(size) for size in (above - part, above) if size > 0]
        raise ConfigError(
            f"data.batch_size is {data.batch_size}, but {parts} must divide it. Use {' or '.join(fitting)}."
        )
    return data.batch_size // part if data.micro_batch_size else 1


def deepspeed_config(
    config: RunConfig, world_size: int, device_type: Literal["cpu", "cuda"], largest_numel: int = 0
) -> dict[str, Any]:
    """The dictionary that `deepspeed.initialize` takes.

    No fp16 or bf16 section: either would cast the whole model. The frozen weights come in the dtype they have, and
    what is trained is float32, so it is its own master copy.

    Args:
        config: every setting.
        world_size: number of ranks.
        device_type: of the model.
        largest_numel: numbers of its largest tensor, which is whole while it is used (stage 3).
    Raises:
        ConfigError: the batch cannot be cut into equal parts for all ranks.
    """
    stage = config.engine.zero_stage
    zero: dict[str, Any] = {"stage": stage}
    if stage > 0:
        zero["reduce_bucket_size"] = REDUCE_BUCKET_NUMEL
    if stage == 3:
        zero["overlap_comm"] = device_type == "cuda"
        zero["stage3_param_persistence_threshold"] = PERSISTENCE_NUMEL
        zero["stage3_prefetch_bucket_size"] = PREFETCH_NUMEL
        zero["stage3_max_live_parameters"] = largest_numel + PREFETCH_NUMEL
        zero["stage3_max_reuse_distance"] = PREFETCH_NUMEL
        if config.engine.offload != "none":
            zero["offload_param"] = {"device": config.engine.offload, "pin_memory": device_type == "cuda"}
    return {
        "train_batch_size": config.data.batch_size,
        "train_micro_batch_size_per_gpu": micro_batch_size(config.data, world_size),
        "gradient_accumulation_steps": accumulation_steps(config.data, world_size),
        "gradient_clipping": 0.0,  # of one member, see deepspeed_engine.py
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        # DeepSpeed shall neither print nor measure: that is the tracker's.
        "steps_per_print": NEVER,
        "wall_clock_breakdown": False,
    }


def loading_config(config: RunConfig, world_size: int, device_type: Literal["cpu", "cuda"]) -> dict[str, Any]:
    """The dictionary under which `from_pretrained` partitions the backbone as it loads it (stage 3).

    Partitioned weights get the dtype of the section that is enabled here, whatever `from_pretrained` was asked for.
    """
    return deepspeed_config(config, world_size, device_type) | {
        "bf16": {"enabled": config.backbone.dtype == "bfloat16"}
    }
