"""Weights in parts (ZeRO stage 3): how they come to be so, and how they are whole for a while."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import deepspeed
import torch
from torch import nn

from infoprompt.config import RunConfig
from infoprompt.engine.deepspeed_config import loading_config
from infoprompt.engine.heap import free_large_blocks_at_once
from infoprompt.model.backbone.in_parts import PARTITIONS
from infoprompt.ranks import Ranks


class DeepSpeedPartitions:
    """A `Partitions`."""

    def __init__(self, config: RunConfig, ranks: Ranks) -> None:
        self.ranks = ranks
        self._settings = _loading_config(config, ranks.world_size)
        self._live = live_config(config, ranks.world_size)
        self._first: Any = None

    def part(self, parameter: nn.Parameter) -> None:
        """See `Partitions`."""
        if self._first is not None:  # reading DeepSpeed's settings anew for every parameter would take seconds
            self._first.convert_to_zero_parameters([parameter])
            return
        module = nn.Module()
        module.register_parameter("parameter", parameter)
        deepspeed.zero.Init(module, config_dict_or_path=self._settings)
        self._first = parameter

    @contextmanager
    def whole_models(self) -> Iterator[None]:
        """See `Partitions`."""
        from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
        try:
            yield
        finally:
            set_hf_deepspeed_config(self._live)


@contextmanager
def partitioned_loading(config: RunConfig, ranks: Ranks) -> Iterator[None]:
    """Context around loading: under ZeRO-3 each rank keeps its part only, else nothing is different.

    It holds for `load_backbone`, which reads by need, and for transformers' `from_pretrained`, which reads whole files.
    """
    if config.engine.zero_stage < 3:
        yield
        return
    free_large_blocks_at_once()
    token = PARTITIONS.set(DeepSpeedPartitions(config, ranks))
    try:
        yield
    finally:
        PARTITIONS.reset(token)


def gathered(parameters: Sequence[nn.Parameter]) -> AbstractContextManager[Any]:
    """Context in which partitioned parameters are whole, for reading; every rank must enter it."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return nullcontext()
    return deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=None)


def live_config(config: RunConfig, world_size: int) -> Any:
    """While it lives, transformers partitions what it loads, and takes other precautions; None below stage 3."""
    if config.engine.zero_stage < 3:
        return None
    from transformers.integrations import HfDeepSpeedConfig

    return HfDeepSpeedConfig(_loading_config(config, world_size))


def _loading_config(config: RunConfig, world_size: int) -> dict[str, Any]:
    return loading_config(config, world_size, "cuda" if torch.cuda.is_available() else "cpu")
