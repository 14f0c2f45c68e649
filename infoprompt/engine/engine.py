"""Which engine runs, and how a backbone is loaded for it. DeepSpeed takes seconds to import: only when chosen."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from infoprompt.config import RunConfig
from infoprompt.engine.interface import Engine
from infoprompt.engine.plain_engine import PlainEngine
from infoprompt.model.shared import SharedModel
from infoprompt.ranks import Ranks


def build_engine(model: SharedModel, configs: Sequence[RunConfig], ranks: Ranks) -> Engine:
    """The engine that `engine.kind` names.

    Args:
        model: the same on every rank; float32 where it is trained. The engine moves it.
        configs: of each member; settings of the engine, and how a batch is cut, are the same for all.
        ranks: of all members.
    Raises:
        ConfigError: the batch cannot be cut into equal parts for all ranks.
    """
    if configs[0].engine.kind == "deepspeed":
        from infoprompt.engine.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(model, configs, ranks)
    return PlainEngine(model, configs, ranks)


def partitions_weights(config: RunConfig) -> bool:
    """Whether each rank keeps only its part of the backbone."""
    return config.engine.kind == "deepspeed" and config.engine.zero_stage == 3


def partitioned_loading(config: RunConfig, ranks: Ranks) -> AbstractContextManager[Any]:
    """Context around loading: under ZeRO-3 each rank keeps its part only, else nothing is different."""
    if not partitions_weights(config):
        return nullcontext()
    from infoprompt.engine import deepspeed_loading

    return deepspeed_loading.partitioned_loading(config, ranks)


def gathered(parameters: Sequence[nn.Parameter]) -> AbstractContextManager[Any]:
    """Context in which partitioned parameters are whole, for reading; every rank must enter it."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return nullcontext()
    from infoprompt.engine import deepspeed_loading

    return deepspeed_loading.gathered(parameters)
