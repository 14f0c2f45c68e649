"""How DeepSpeed starts in this process: on which device, without compiling anything, and on our process group.

On a CPU, DeepSpeed compiles the operation `deepspeed_shm_comm` when communication first starts, which needs a compiler
and 30 to 60 seconds. A process killed meanwhile leaves a lock file on which every later start waits for ever (pytorch
issue 189245). Only tensor-parallel inference calls that operation, never training, so it is switched off here.
"""

import importlib.metadata
import os
import sys
from datetime import timedelta
from typing import Literal

import torch
from torch.distributed.distributed_c10d import _set_pg_timeout

from infoprompt.config import ConfigError

UNUSED_OP = "deepspeed_shm_comm"


def prepare_ops(device_type: Literal["auto", "cpu", "cuda"] = "auto") -> None:
    """Choose DeepSpeed's device and switch off what it would compile; call before DeepSpeed starts. Repeatable."""
    if device_type == "cpu" or not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed.ops

    # The first access probes every operation (0.2 s) and keeps the dictionary, so the change lasts.
    deepspeed.ops.__compatible_ops__[UNUSED_OP] = False


def start_communication(device: torch.device, local_rank: int, timeout: timedelta) -> None:
    """Have DeepSpeed adopt torch's process group, which must exist.

    Raises:
        ConfigError: DeepSpeed already computes on another kind of device in this process.
    """
    prepare_ops("cuda" if device.type == "cuda" else "cpu")
    import deepspeed
    from deepspeed.accelerator import get_accelerator
    from deepspeed.utils import groups

    if get_accelerator().device_name() != device.type:
        raise ConfigError(
            f"engine.device is {device.type}, but DeepSpeed computes on {get_accelerator().device_name()} in this "
            f"process. Start a new process with DS_ACCELERATOR={device.type}."
        )
    os.environ.setdefault("LOCAL_RANK", str(local_rank))  # DeepSpeed reads it even where nothing was launched
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
    # ZeRO talks in a copy of the world group, which DeepSpeed makes with torch's default of 10 or 30 minutes.
    _set_pg_timeout(timeout, groups._get_data_parallel_group())


def stop_communication() -> None:
    """Destroy the process group, and DeepSpeed's references to it where it has any."""
    if "deepspeed" in sys.modules:
        import deepspeed.comm

        if deepspeed.comm.is_initialized():
            deepspeed.comm.destroy_process_group()
            return
    torch.distributed.destroy_process_group()


def ops_status() -> str:
    """One line for people: whether a start of DeepSpeed compiles anything on this machine."""
    try:
        version = importlib.metadata.version("deepspeed")
    except importlib.metadata.PackageNotFoundError:
        return "DeepSpeed is not installed; use engine.kind=plain, or `pip install deepspeed`."
    prepare_ops()
    from deepspeed.accelerator import get_accelerator

    return (
        f"DeepSpeed {version} on {get_accelerator().device_name()}: nothing is compiled at start "
        f"({UNUSED_OP}, which training never calls, is switched off)."
    )
