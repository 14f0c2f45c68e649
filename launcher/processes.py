"""Runs in this process, or in several on this machine that are started, watched and ended together."""

import gc
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infoprompt.config import NOTHING, RunConfig, dump_config
from infoprompt.credentials import shown_uri
from infoprompt.stopping import Preempted, Terminated
from launcher.comparison import Outcome, Resume
from launcher.exit_codes import BAD_INPUT, LOST, RESUMABLE, STOPPED
from launcher.exits import PARENT_VARIABLE

OUTCOME_NAME = "outcome.json"
LEFT_NAME = "left.json"

PEERS_SECONDS = 10.0  # after one rank failed, for the others to notice and say so
LOST_PEERS_SECONDS = 3.0  # after one rank found that another does not answer: all that can have noticed
SAVE_SECONDS = 120.0  # after a signal, for the update, or the evaluation, that the ranks are at; Slurm's notice
END_SECONDS = 40.0  # between SIGTERM and SIGKILL; MLflow's last records may take 30
POLL_SECONDS = 0.1


class WorkersFailed(RuntimeError):
    """A rank ended without having said why."""


@dataclass(frozen=True)
class Output:
    """What the ranks show."""

    progress: bool = True
    """Progress bar and log lines."""
    debug: bool = False
    to_stderr: bool = False
    """Keep standard output free, for JSON."""


def train_in_processes(config: RunConfig, num_processes: int, resume: Resume, output: Output) -> Outcome:
    """Train `config` and what it is compared with in processes of their own.

    Args:
        config: every setting; its rows were read once, so that faults are known.
        num_processes: ranks on this machine.
        resume: `auto` goes on from the newest resume state.
        output: what is shown meanwhile.
    Raises:
        SystemExit: what a rank has raised, which it has said itself.
        WorkersFailed: a rank was killed, or ended without a result.
    """
    with tempfile.TemporaryDirectory(prefix="infoprompt-") as name:
        folder = Path(name)
        (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
        options = [*_worker_options(output), f"--resume={resume}", f"--outcome={folder / OUTCOME_NAME}"]
        command = [sys.executable, str(Path(__file__).with_name("train.py")), str(folder / "config.yaml"), *options]
        try:
            _run_group(command, num_processes, to_stderr=output.to_stderr, variables=_credentials(config))
        except Terminated as told:  # by a signal to this process, or to a rank
            raise _left(folder / LEFT_NAME, told) from None
        # Only rank 0 writes it, at the very end: a zero exit alone proves nothing.
        if not (folder / OUTCOME_NAME).is_file():
            raise WorkersFailed(f"Every process ended without an error, but none left a result: {shlex.join(command)}")
        return Outcome.load(folder / OUTCOME_NAME)


def prepare_environment(local_world_size: int = 1, *, threads: int | None = None) -> None:
    """Set what must be set before torch, tokenizers and compilers are loaded; keeps what the environment has.

    Args:
        local_world_size: processes that share this machine's cores.
        threads: of each, where that is known otherwise.
    """
    collect_seldom()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(threads or max(1, cores // local_world_size)))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a fork after tokenising can freeze otherwise
    # Two ninja versions throw away each other's builds, so every process finds this interpreter's own first.
    own, path = str(Path(sys.executable).parent), os.environ.get("PATH", "")
    if path.split(os.pathsep)[0] != own:
        os.environ["PATH"] = os.pathsep.join([own, path])


def collect_seldom() -> None:
    """Have Python look for garbage every 20,000 new objects, not 700, which takes a fifth of the time of imports."""
    gc.set_threshold(20_000)


def end_with_parent() -> None:
    """In a rank: have the kernel send SIGTERM when the process that started it is gone (Linux), even if killed."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is None or not sys.platform.startswith("linux"):
        return
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != int(parent):  # it was gone before the line above
        raise SystemExit(STOPPED)


@contextmanager
def held_port() -> Iterator[int]:
    """A TCP port of this machine that nobody listens on, and that nobody who asks for any free port is given within."""
    with socket.socket() as holder:
        # Bound but not listening: a listener that sets SO_REUSEADDR too, as torch's store does, may still have it.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # On all addresses, for gloo asks for ports on one of them; elsewhere than on Linux the store could not then.
        holder.bind(("" if sys.platform.startswith("linux") else "127.0.0.1", 0))
        yield int(holder.getsockname()[1])


def _worker_options(output: Output) -> list[str]:
    return [*([] if output.progress else ["--quiet"]), *(["--debug"] if output.debug else [])]


def _credentials(config: RunConfig) -> dict[str, str]:
    """What the ranks need to know of `tracking.uri` beside the file that they read: no file holds a password."""
    uri = config.tracking.uri
    return {"MLFLOW_TRACKING_URI": uri} if uri is not None and shown_uri(uri) != uri else {}


def _run_group(
    command: Sequence[str], num_processes: int, *, to_stderr: bool, variables: Mapping[str, str] = NOTHING
) -> None:
    """Run one process per rank in one process group; return when all succeeded, end all when one fails."""
    ranks: list[subprocess.Popen[bytes]] = []
    with held_port() as port:
        try:
            for rank in range(num_processes):
                environment = {**_rank_environment(rank, num_processes, str(port)), **variables}
                group = ranks[0].pid if ranks else 0
                stdout = sys.stderr.fileno() if to_stderr else None
                ranks.append(subprocess.Popen(command, env=environment, stdout=stdout, process_group=group))
            failed = _wait(ranks)
        except Terminated:
            _let_save(ranks)
            raise
        finally:
            _end(ranks)
    if failed:
        raise _failure(ranks, failed)


def _rank_environment(rank: int, num_processes: int, port: str) -> dict[str, str]:
    size = str(num_processes)
    return {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        PARENT_VARIABLE: str(os.getpid()),
    }


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    """Wait for all, or for the first to fail and a little longer; the numbers of those that failed by themselves."""
    deadline = float("inf")
    while any(process.poll() is None for process in ranks) and time.monotonic() < deadline:
        codes = [process.poll() for process in ranks]
        if any(codes):
            lost = LOST in codes
            deadline = min(deadline, time.monotonic() + (LOST_PEERS_SECONDS if lost else PEERS_SECONDS))
        time.sleep(POLL_SECONDS)
    return [rank for rank, process in enumerate(ranks) if process.poll()]


def _let_save(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Pass a signal on, once, and wait for the ranks to save their state and leave; a second signal raises here."""
    try:
        _signal(ranks, signal.SIGTERM)
        deadline = time.monotonic() + SAVE_SECONDS
        while any(process.poll() is None for process in ranks) and time.monotonic() < deadline:
            if any(process.poll() is not None for process in ranks):
                deadline = min(deadline, time.monotonic() + END_SECONDS)
            time.sleep(POLL_SECONDS)
    finally:
        _signal(ranks, signal.SIGKILL)


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """SIGTERM, then SIGKILL, for whatever of the group is left."""
    try:
        if LOST not in [process.poll() for process in ranks]:  # what does not answer, does not heed it either
            _signal(ranks, signal.SIGTERM)
            deadline = time.monotonic() + END_SECONDS
            while any(_heeds_signals(process) for process in ranks) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
    finally:  # also when a second Ctrl-C ends the waiting
        _signal(ranks, signal.SIGKILL)
        for process in ranks:
            process.wait()


def _heeds_signals(process: subprocess.Popen[bytes]) -> bool:
    """Whether it lives, and is not stopped (SIGSTOP, or Ctrl-Z): such a process heeds SIGKILL alone."""
    if process.poll() is not None:
        return False
    try:
        return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] not in "Tt"
    except OSError:
        return True


def _signal(ranks: Sequence[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    if any(process.poll() is None for process in ranks):
        os.killpg(ranks[0].pid, number)


def _failure(ranks: Sequence[subprocess.Popen[bytes]], failed: Sequence[int]) -> BaseException:
    """What to raise where ranks failed by themselves. Whatever has a code of ours was said by the rank itself."""
    codes = {rank: int(ranks[rank].returncode) for rank in failed}
    told = [code for code in codes.values() if code == RESUMABLE or 128 < code <= 128 + signal.SIGRTMAX]
    if told:
        return Terminated(signal.SIGTERM if told[0] == RESUMABLE else told[0] - 128)
    for rank, code in codes.items():
        if code < 0 and -code != signal.SIGTERM:
            hint = " The kernel does that when memory runs out." if -code == signal.SIGKILL else ""
            return WorkersFailed(
                f"Rank {rank} was killed by {signal.Signals(-code).name}, and the others were ended.{hint} "
                "--resume auto goes on from the last resume state."
            )
    for rank, code in codes.items():
        if code not in (STOPPED, BAD_INPUT, LOST):
            return WorkersFailed(
                f"Rank {rank} ended with exit code {code} and without a word, and the others were ended. "
                "--resume auto goes on from the last resume state."
            )
    return SystemExit(next(code for code in (BAD_INPUT, STOPPED, LOST) if code in codes.values()))


def _left(file: Path, told: Terminated) -> Terminated:
    """Where the ranks were when they left because of a signal, if the first one could say so."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return told
    return Preempted(told.number, values["step"], values["folder"], saved=values["saved"])
