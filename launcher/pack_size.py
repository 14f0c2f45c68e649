"""How many runs share each pass, where a study or a sweep says `pack: auto`."""

import os
from typing import Literal

from infoprompt.config import RunConfig
from infoprompt.engine.deepspeed_config import accumulation_steps
from launcher.pool.needs import Needs

PackSize = int | Literal["auto"]

TOKENS_ON_CPU = 3072
"""Positions of a pass from which on a CPU gains nothing by more: 8 runs of 8 rows of SST-2 (EXPERIMENTS 2026-11-29)."""
TOKENS_ON_GPU = 49_152
"""Not measured."""
MEMORY_SHARE = 0.8
"""Of a machine's memory, for all that it trains at a time: what a run takes is an estimate."""
MOST = 64


def pack_size(pack: PackSize, config: RunConfig, needs: Needs) -> int:
    """The number itself, or for `auto` as many runs as fill a pass of each rank, and fit into memory beside each other.

    Args:
        pack: as the study or the sweep says.
        config: of one of its runs.
        needs: of a worker group. Where it says no most groups, as many share a machine as its cores are for. The memory
            of GPUs is not looked at.
    Raises:
        ConfigError: the run cannot be planned, see `make_plan`.
    """
    if pack != "auto":
        return pack
    from launcher.plan.plan import make_plan  # imports torch

    plan = make_plan(config, None, needs.workers)
    tokens = plan.real_tokens / accumulation_steps(config.data, needs.workers)
    size = (TOKENS_ON_GPU if needs.gpus else TOKENS_ON_CPU) // max(tokens, 1)
    if not needs.gpus:
        num_groups = needs.most_groups or max(1, int((os.cpu_count() or 1) // (needs.workers * needs.cpus)))
        share = MEMORY_SHARE * plan.device.memory_bytes / (num_groups * needs.workers)
        size = min(size, plan.memory.fitting(int(share)))
    return max(1, min(int(size), MOST))
