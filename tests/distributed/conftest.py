"""Starts the ranks of a distributed test."""

import contextlib
import os
import pickle
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from preloaded import Forked, Preloaded
from torch.distributed import TCPStore

# What a rank runs: load the test's file, call its function, keep what it returns.
WORKER = """
import importlib.util, os, pickle, sys
path, name, arguments, result = sys.argv[1:]
spec = importlib.util.spec_from_file_location("worker_functions", path)
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
spec.loader.exec_module(module)
with open(arguments, "rb") as file:
    values = pickle.load(file)
returned = getattr(module, name)(*values)
with open(result, "wb") as file:
    pickle.dump(returned, file)
sys.stdout.flush()
sys.stderr.flush()
os._exit(0)  # gloo's threads may abort an interpreter that is taken down
"""


@pytest.fixture
def run_distributed(tmp_path: Path, processes: Preloaded) -> Callable[..., list[Any]]:
    """`run_distributed(path, name, *arguments, world_size=2, seconds=600, env=None)`.

    Calls the module-level function `name` of the Python file `path` in `world_size` processes, which find each other
    by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. They meet at a store that is open before they start,
    so neither a port that another process takes meanwhile nor a slow first rank can part them. Arguments and results
    are pickled. Returns the results in rank order; fails with the output of the first rank that fails, or of all when
    the time is up.
    """

    def run(
        path: str | Path,
        name: str,
        *arguments: Any,
        world_size: int = 2,
        seconds: float = 600,
        env: dict[str, str] | None = None,
    ) -> list[Any]:
        folder = tmp_path / f"{name}-{time.monotonic_ns()}"
        folder.mkdir()
        (folder / "arguments").write_bytes(pickle.dumps(arguments))
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        rendezvous = {
            "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",  # no rank opens a store of its own
        }
        outputs = [folder / f"output{rank}" for rank in range(world_size)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"} | rendezvous | (env or {})
        ranks = [
            processes.start(
                WORKER,
                [path, name, folder / "arguments", folder / f"result{rank}"],
                Path.cwd(),
                environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                [Path(os.devnull), outputs[rank], outputs[rank]],
            )
            for rank in range(world_size)
        ]
        try:
            wait(ranks, outputs, seconds)
        finally:
            for rank in ranks:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(rank.pid, signal.SIGKILL)
                rank.wait()
        return [pickle.loads((folder / f"result{rank}").read_bytes()) for rank in range(world_size)]

    return run


def wait(ranks: list[Forked], outputs: list[Path], seconds: float) -> None:
    """Return when all have ended well; fail as soon as one has not, or when the time is up."""
    deadline = time.monotonic() + seconds
    while True:
        codes = [rank.poll() for rank in ranks]
        for rank, code in enumerate(codes):
            if code:
                pytest.fail(f"rank {rank} ended with {code}:\n{outputs[rank].read_text()[-8000:]}", pytrace=False)
        if all(code == 0 for code in codes):
            return
        if time.monotonic() > deadline:
            said = "\n".join(f"rank {rank}: {file.read_text()[-4000:]}" for rank, file in enumerate(outputs))
            pytest.fail(f"not done after {seconds} s:\n{said}", pytrace=False)
        time.sleep(0.05)
