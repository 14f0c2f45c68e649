"""How many runs share each pass, where a study or a sweep says `pack: auto`."""

from typing import Literal

from infoprompt.config import RunConfig

PackSize = int | Literal["auto"]

ROWS_ON_CPU = 64
"""Rows of a pass from which on a CPU gains nothing by more (EXPERIMENTS 2026-11-29)."""
ROWS_ON_GPU = 1024
MOST = 64


def pack_size(pack: PackSize, config: RunConfig, *, num_ranks: int = 1, on_gpu: bool = False) -> int:
    """The number itself, or for `auto` as many runs as fill a pass of each rank.

    Args:
        pack: as the study or the sweep says.
        config: of one of its runs.
        num_ranks: that train a run.
        on_gpu: whether they do so on GPUs.
    """
    if pack != "auto":
        return pack
    rows = config.data.micro_batch_size or -(-config.data.batch_size // num_ranks)
    if config.objective.label_form != "off":
        rows += -(-config.data.unlabelled_batch // num_ranks)
    return max(1, min((ROWS_ON_GPU if on_gpu else ROWS_ON_CPU) // rows, MOST))
