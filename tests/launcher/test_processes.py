import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

import launcher.processes
from launcher.exits import STOPPED
from launcher.processes import WorkersFailed, _run_group, held_port, prepare_environment

REPOSITORY = Path(__file__).resolve().parents[2]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def test_threads_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))
    prepare_environment(2 * cores)
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_a_given_number_of_threads_is_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    prepare_environment(1)
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_this_interpreters_programs_come_first_and_once(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    prepare_environment(1)
    prepare_environment(1)
    assert os.environ["PATH"].split(":") == [str(Path(sys.executable).parent), "/usr/bin"]


def test_each_rank_knows_its_place(tmp_path):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    code = f"import os, pathlib; pathlib.Path({str(tmp_path)!r}, os.environ['RANK']).write_text("
    _run_group(python(code + f"' '.join(os.environ[name] for name in {names}))"), 2, to_stderr=False)
    first, second = ((tmp_path / rank).read_text().split() for rank in ("0", "1"))
    assert first[:4] == ["0", "0", "2", "2"]
    assert second[:4] == ["1", "1", "2", "2"]
    assert first[4:] == second[4:]


def test_runs_that_start_at_once_get_ports_of_their_own():
    # 300 of some 28 000 ports: drawn without being held, two would be the same in most tries
    with ExitStack() as stack:
        ports = {stack.enter_context(held_port()) for _ in range(300)}
        assert len(ports) == 300
        for address in ("", "127.0.0.1", "127.0.0.2") * 100:
            other = stack.enter_context(socket.socket())
            other.bind((address, 0))
            assert other.getsockname()[1] not in ports


def test_the_first_rank_listens_on_the_port_that_is_held_and_nobody_else_after_it():
    from torch.distributed import TCPStore

    with held_port() as port:
        store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
        TCPStore("127.0.0.1", port, is_master=False).set("from", "the second rank")
        assert store.get("from") == b"the second rank"
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                other.bind(("", port))


def test_a_failing_rank_ends_the_others_and_its_code_is_ours(monkeypatch, tmp_path):
    monkeypatch.setattr(launcher.processes, "PEERS_SECONDS", 0.2)
    code = (
        "import os, pathlib, sys, time\n"
        "if os.environ['RANK'] == '1': sys.exit(2)\n"
        f"pathlib.Path({str(tmp_path)!r}, 'pid').write_text(str(os.getpid()))\n"
        "time.sleep(60)"
    )
    start = time.monotonic()
    with pytest.raises(SystemExit) as caught:
        _run_group(python(code), 2, to_stderr=False)
    assert caught.value.code == 2
    assert time.monotonic() - start < 20
    assert not (tmp_path / "pid").exists() or not alive(int((tmp_path / "pid").read_text()))


def test_a_killed_rank_is_named(monkeypatch):
    monkeypatch.setattr(launcher.processes, "PEERS_SECONDS", 0.2)
    code = "import os, time\nif os.environ['RANK'] == '1': os.kill(os.getpid(), 9)\ntime.sleep(60)"
    with pytest.raises(WorkersFailed, match="Rank 1 was killed by SIGKILL"):
        _run_group(python(code), 2, to_stderr=False)


def test_a_rank_that_ignores_sigterm_is_killed(monkeypatch):
    monkeypatch.setattr(launcher.processes, "PEERS_SECONDS", 1.0)
    monkeypatch.setattr(launcher.processes, "END_SECONDS", 0.5)
    code = (
        "import os, signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if os.environ['RANK'] == '1': sys.exit(1)\ntime.sleep(60)"
    )
    start = time.monotonic()
    with pytest.raises(SystemExit) as caught:
        _run_group(python(code), 2, to_stderr=False)
    assert caught.value.code == STOPPED
    assert time.monotonic() - start < 20


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_train_and_their_result_is_printed_once(infoprompt, tiny_config):
    done = infoprompt("train", tiny_config, "--processes", 2, "--json", "run.compare_with={other: [seed=1]}")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["steps"] == 4
    assert result["compare"]["other"]["steps"] == 4
    assert done.stderr.count("to 95 %") == 1


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_ranks_end_with_the_command(tiny_config, tmp_path, number):
    # a shell that starts the tests in the background has them ignore SIGINT, and so would the command
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", f"{heeding}from launcher.cli import main; main()", "train", str(tiny_config)]
    options = ["--processes", "2", "--quiet", "optim.max_steps=100000", "optim.epochs=100000"]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, process_group=0)
    try:
        wait_until(lambda: (tmp_path / "run/metrics.jsonl").exists() or process.poll() is not None)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 2
        process.send_signal(number)
        code = process.wait(timeout=60)
        wait_until(lambda: not any(alive(int(child)) for child in children))
    finally:
        process.kill()
        process.communicate()
    assert code == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[number]


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize(
    "start",
    [
        ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port"],
        ["-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--master_port"],
    ],
    ids=["torchrun", "deepspeed"],
)
def test_other_launchers_start_the_same_run(tiny_config, tmp_path, start):
    script = str(REPOSITORY / "launcher/train.py")
    with held_port() as port:
        command = [sys.executable, *start, str(port), script, str(tiny_config), "seed=3", "--json"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1] if "torch" in start[1] else _json_line(done.stdout))["steps"] == 4


def _json_line(text: str) -> str:
    """DeepSpeed's launcher writes lines of its own, before and after."""
    return next(line for line in text.splitlines() if line.startswith('{"test"'))
