"""How many runs share each pass, where a study or a sweep says `pack: auto`."""

from typing import Literal

from infoprompt.config import RunConfig
from infoprompt.engine.deepspeed_config import accumulation_steps

PackSize = int | Literal["auto"]

TOKENS_ON_CPU = 3072
"""Positions of a pass from which on a CPU gains nothing by more: 8 runs of 8 rows of SST-2 (EXPERIMENTS 2026-11-29)."""
TOKENS_ON_GPU = 49_152
"""Not measured."""
MEMORY_SHARE = 0.8
"""Of a machine's memory, for all that it trains at a time: what a run takes is an estimate."""
MOST = 64


def pack_size(
    pack: PackSize, config: RunConfig, *, num_ranks: int = 1, num_workers: int = 1, on_gpu: bool = False
) -> int:
    """The number itself, or for `auto` as many runs as fill a pass of each rank, and fit into memory beside each other.

    Args:
        pack: as the study or the sweep says.
        config: of one of its runs.
        num_ranks: that train a run.
        num_workers: processes that share the machine, each with a pack.
        on_gpu: whether they train on GPUs, whose memory is not looked at.
    Raises:
        ConfigError: the run cannot be planned, see `make_plan`.
    """
    if pack != "auto":
        return pack
    from launcher.plan.plan import make_plan  # imports torch

    plan = make_plan(config, None, num_ranks)
    tokens = plan.real_tokens / accumulation_steps(config.data, num_ranks)
    size = (TOKENS_ON_GPU if on_gpu else TOKENS_ON_CPU) // max(tokens, 1)
    if not on_gpu:
        size = min(size, plan.memory.fitting(int(MEMORY_SHARE * plan.device.memory_bytes / num_workers)))
    return max(1, min(int(size), MOST))
