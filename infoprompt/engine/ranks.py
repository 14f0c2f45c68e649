"""How the processes of a run come together and part."""

import atexit
import errno
import os
import socket
import sys
import time
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _set_pg_timeout

from infoprompt.config import ConfigError, EngineSettings
from infoprompt.engine.deepspeed_ops import start_communication, stop_communication
from infoprompt.progress import RankLost
from infoprompt.ranks import Ranks

START_SECONDS = 120
"""For all ranks to come together, or longer where a collective may wait longer: one may load Python's modules from
a cold disk, which is no hang."""

LOOPBACK = ("127.0.0.1", "localhost")
"""MASTER_ADDR of ranks that are all on one machine."""


@dataclass
class _Process:
    """What torch's process group, itself the state of a process, needs beside it."""

    owns_group: bool = False
    """Whether the group is ours to destroy; Ray's is not."""
    store: dist.Store | None = None
    """Where the ranks find each other. It lives as long as the process: a second run's ranks would else race for
    the port that the first run's store is about to leave."""
    num_starts: int = 0
    awaits_gloo: bool = False


_process = _Process()


def start_ranks(settings: EngineSettings) -> Ranks:
    """Join the other processes of this run.

    Reads RANK, WORLD_SIZE and LOCAL_RANK as torchrun, `deepspeed` and Ray set them; without them this process is alone.
    A process group that exists is adopted. One is made otherwise, where there are several ranks or DeepSpeed needs it.

    Raises:
        ConfigError: `engine.device` is cuda and there is none, or too few; or the port is taken.
        RankLost: not all ranks have come.
    """
    rank, world_size, local_rank = (int(os.environ.get(name, default)) for name, default in _ALONE.items())
    device = _device(settings, local_rank)
    timeout = timedelta(seconds=settings.timeout_seconds)
    if dist.is_initialized():
        rank, world_size = dist.get_rank(), dist.get_world_size()
        _set_pg_timeout(timeout)
    elif world_size > 1 or settings.kind == "deepspeed":
        seconds = max(settings.timeout_seconds, START_SECONDS)
        _start_group(rank, world_size, "nccl" if device.type == "cuda" else "gloo", seconds)
        _set_pg_timeout(timeout)
        _process.owns_group = True
        if not _process.awaits_gloo:
            atexit.register(_await_gloo)
            _process.awaits_gloo = True
    if settings.kind == "deepspeed":
        start_communication(device, local_rank, timeout)
    ranks = Ranks(rank, world_size, local_rank, device)
    ranks.barrier()  # gloo connects one after the other: a rank that is done at once would close on those behind it
    return ranks


def _start_group(rank: int, world_size: int, backend: str, seconds: int) -> None:
    wait = timedelta(seconds=seconds)
    if (world_size == 1 or os.environ.get("MASTER_ADDR") in LOOPBACK) and sys.platform.startswith("linux"):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else gloo listens where the host name leads
    try:
        store = _new_store(rank, world_size, wait)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=wait)
    except (dist.DistError, RuntimeError, OSError) as error:
        if world_size == 1:
            raise
        reason = str(error).partition("\n")[0]
        # of the first rank alone, whose store listens
        if "EADDRINUSE" in reason or (isinstance(error, OSError) and error.errno == errno.EADDRINUSE):
            raise ConfigError(
                f"MASTER_PORT is {os.environ.get('MASTER_PORT')}, but another program listens on it on "
                f"{socket.gethostname()}. A run needs a port of its own: give a free one, by --master_port=N of "
                "`deepspeed` or torchrun."
            ) from None
        raise RankLost(
            f"Not all of the {world_size} ranks came together within {seconds} seconds ({reason}). Look at what "
            "the others say, and whether all find MASTER_ADDR and MASTER_PORT.",
            said=False,
        ) from None


def stop_ranks() -> None:
    """Destroy the process group if `start_ranks` made it."""
    if _process.owns_group and dist.is_initialized():
        stop_communication()
    _process.owns_group = False


def num_starts() -> int:
    """Process groups that `start_ranks` has made so far: what belongs to one ends with it."""
    return _process.num_starts


def _await_gloo() -> None:
    """Let gloo's threads drop the tensors of the last collectives while the interpreter still lets them.

    A thread that does so while the interpreter is taken down aborts the process (pytorch pull request 179291). The
    threads only end with their process group, which DeepSpeed and torch's own default arguments keep alive.
    """
    time.sleep(0.2)


_ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}


def _new_store(rank: int, world_size: int, timeout: timedelta) -> dist.Store:
    _process.num_starts += 1
    if world_size == 1:
        return dist.HashStore()  # in memory: no port, and no race for one
    if _process.store is None:
        address, agent = os.environ.get("MASTER_ADDR"), os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        if rank == 0 and address in LOOPBACK and not agent:
            _process.store = _loopback_store(world_size, timeout)
        else:
            _process.store, _, _ = next(dist.rendezvous("env://", rank, world_size, timeout=timeout))
    return dist.PrefixStore(f"start{_process.num_starts}", _process.store)


def _loopback_store(world_size: int, timeout: timedelta) -> dist.Store:
    """Where ranks of one machine meet: torch's own listens on every address, and asks nobody who he is."""
    port = int(os.environ["MASTER_PORT"])
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK[0], port))
        listener.listen(4096)
        return dist.TCPStore(
            LOOPBACK[0], port, world_size, is_master=True, timeout=timeout, master_listen_fd=listener.detach()
        )


def _device(settings: EngineSettings, local_rank: int) -> torch.device:
    num_gpus = torch.cuda.device_count()
    if settings.device == "cpu" or (settings.device == "auto" and num_gpus == 0):
        return torch.device("cpu")
    if local_rank >= num_gpus:
        raise ConfigError(
            f"engine.device is {settings.device}, but rank {local_rank} of this machine needs a GPU of its own, and "
            f"torch sees {num_gpus}. Start fewer processes, or set engine.device to cpu."
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
