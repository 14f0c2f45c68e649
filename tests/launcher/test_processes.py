import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import yaml

import launcher.processes
from infoprompt.config import ConfigError
from infoprompt.stopping import Preempted, Terminated, forget
from launcher.ancestors import launchers
from launcher.exit_codes import LOST, STOPPED
from launcher.exits import signals_heard
from launcher.processes import LEFT_NAME, WorkersFailed, _left, _run_group, held_port, prepare_environment
from launcher.sweep import start_sweep

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


def test_threads_may_be_known_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    prepare_environment(threads=5)
    assert os.environ["OMP_NUM_THREADS"] == "5"


def test_workers_of_a_sweep_have_the_threads_of_their_share_and_no_more(toy_settings, tmp_path, monkeypatch):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(toy_settings))
    sweep = {"base": "base.yaml", "space": {"optim.lr": {"grid": [0.1]}}, "output_dir": str(tmp_path / "sweep")}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))

    def stopped(*arguments, **named):
        raise ConfigError(f"{os.environ['OMP_NUM_THREADS']} threads")

    monkeypatch.setattr("launcher.sweeps.ray_driver.run_sweep", stopped)
    for cpus, threads in ((0.5, 1), (1, 1), (3, 3)):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        with pytest.raises(ConfigError, match=f"{threads} threads"):
            start_sweep(tmp_path / "sweep.yaml", [f"cpus_per_worker={cpus}"], quiet=True)


def test_a_given_number_of_threads_is_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    prepare_environment(1)
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_this_interpreters_programs_come_first_and_once(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    prepare_environment(1)
    prepare_environment(1)
    assert os.environ["PATH"].split(":") == [str(Path(sys.executable).parent), "/usr/bin"]


def test_what_imports_make_is_not_searched_for_garbage_again_and_again():
    prepare_environment(1)
    gc.collect()
    before = [generation["collections"] for generation in gc.get_stats()]
    kept = [[] for _ in range(10_000)]
    assert len(kept) == 10_000
    assert [generation["collections"] for generation in gc.get_stats()] == before


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


@pytest.mark.distributed
@pytest.mark.parametrize("world_size", [1, 2])
def test_ranks_of_one_machine_listen_on_its_loopback_alone(monkeypatch, tmp_path, world_size):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    code = (
        "import os, pathlib, psutil, torch.distributed as dist\n"
        "from infoprompt.config import EngineSettings\n"
        "from infoprompt.engine.ranks import start_ranks, stop_ranks\n"
        "ranks = start_ranks(EngineSettings(kind='deepspeed'))\n"
        "found = [it.laddr.ip for it in psutil.Process().net_connections('inet') if it.status == 'LISTEN']\n"
        f"pathlib.Path({str(tmp_path)!r}, str(ranks.rank)).write_text('\\n'.join(found))\n"
        "ranks.barrier()\n"
        "stop_ranks()\n"
    )
    _run_group(python(code), world_size, to_stderr=False)
    listening = [file.read_text().splitlines() for file in sorted(tmp_path.iterdir())]
    assert len(listening) == world_size
    assert len(listening[0]) >= world_size  # gloo, and the store of several ranks
    assert {address for addresses in listening for address in addresses} == {"127.0.0.1"}


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


def test_a_stopped_rank_is_killed_at_once_when_another_fails(monkeypatch):
    monkeypatch.setattr(launcher.processes, "PEERS_SECONDS", 0.5)
    code = (
        "import os, signal, sys, time\n"
        "if os.environ['RANK'] == '1': os.kill(os.getpid(), signal.SIGSTOP)\n"
        "time.sleep(1); sys.exit(1)"
    )
    start = time.monotonic()
    with pytest.raises(SystemExit) as caught:
        _run_group(python(code), 2, to_stderr=False)
    assert caught.value.code == STOPPED
    assert time.monotonic() - start < launcher.processes.END_SECONDS


def test_when_a_rank_finds_another_lost_nobody_waits_for_that_one():
    code = (
        "import os, signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"if os.environ['RANK'] == '0': sys.exit({LOST})\ntime.sleep(600)"
    )
    start = time.monotonic()
    with pytest.raises(SystemExit) as caught:
        _run_group(python(code), 2, to_stderr=False)
    assert caught.value.code == LOST
    assert time.monotonic() - start < launcher.processes.END_SECONDS


def test_a_rank_that_ends_without_a_word_is_named():
    code = f"import os, sys\nsys.exit(7 if os.environ['RANK'] == '1' else {LOST})"
    with pytest.raises(WorkersFailed, match="Rank 1 ended with exit code 7 and without a word"):
        _run_group(python(code), 2, to_stderr=False)


@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_is_passed_on_once_and_ranks_have_time_to_save_until_a_second_one(tmp_path, times):
    # a rank notes each signal that it gets, and takes a second to leave with 75; told twice, the parent kills it
    code = (
        "import os, pathlib, signal, sys, time\n"
        f"file = pathlib.Path({str(tmp_path)!r}, os.environ['RANK'])\n"
        "told = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: told.append('TERM'))\n"
        "file.write_text('ready')\n"
        "while not told: time.sleep(0.05)\n"
        f"time.sleep(1 if {times} == 1 else 600)\n"
        "file.write_text(' '.join(told)); sys.exit(75)"
    )
    sender = (
        "import os, pathlib, signal, time\n"
        f"while not all(pathlib.Path({str(tmp_path)!r}, rank).exists() for rank in '01'): time.sleep(0.05)\n"
        "time.sleep(0.2)\n"
        f"for _ in range({times}): os.kill({os.getpid()}, signal.SIGUSR1); time.sleep(1.5)"
    )
    with subprocess.Popen(python(sender)), signals_heard(), pytest.raises(Terminated) as caught:
        _run_group(python(code), 2, to_stderr=False)
    forget()
    assert caught.value.number == signal.SIGUSR1
    said = [(tmp_path / rank).read_text() for rank in "01"]
    assert said == (["TERM", "TERM"] if times == 1 else ["ready", "ready"])


def test_where_the_ranks_left_is_what_the_first_one_wrote(tmp_path):
    (tmp_path / LEFT_NAME).write_text(json.dumps({"step": 7, "folder": "/x", "saved": True}))
    left = _left(tmp_path / LEFT_NAME, Terminated(signal.SIGINT))
    assert isinstance(left, Preempted)
    assert (left.number, left.step, left.folder, left.saved) == (signal.SIGINT, 7, "/x", True)
    killed = Terminated(signal.SIGINT)
    assert _left(tmp_path / "none.json", killed) is killed


def test_the_process_that_started_a_rank_is_watched_whatever_it_is():
    assert launchers()[0].pid == os.getppid()


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ranks_save_and_end_with_the_command(tiny_config, tmp_path, number):
    # a shell that starts the tests in the background has them ignore SIGINT, and so would the command
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", f"{heeding}from launcher.cli import main; main()", "train", str(tiny_config)]
    options = ["--processes", "2", "--quiet", *ENDLESS]
    with trained(tmp_path, [*command, *options], number) as (process, said):
        code = process.wait(timeout=60)
        ranks_save_and_end(tmp_path)
    assert code == {signal.SIGINT: 75, signal.SIGKILL: -9}[number]
    if number != signal.SIGKILL:
        assert said.read_text().count("--resume auto") == 1
    assert "Traceback" not in said.read_text()


ENDLESS = ["optim.max_steps=1000000", "optim.epochs=1000000", "evaluation.every_steps=1000000"]


@contextmanager
def trained(folder: Path, command: list[str], number: int) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """Starts it, waits until it trains, and sends it the signal; nothing of its process group is left afterwards."""
    said = folder / "said"
    with said.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_until(lambda: (folder / "run/metrics.jsonl").exists() or process.poll() is not None, 120)
        assert process.poll() is None, said.read_text()
        process.send_signal(number)
        yield process, said
    finally:
        for pid in of_run(folder):
            os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()


def of_run(folder: Path) -> list[int]:
    """Processes that train in the folder: ranks, by what they were started with."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdigit() and process.name != str(os.getpid()):
                environment = (process / "environ").read_bytes().split(b"\0")
                in_folder = str((process / "cwd").readlink()) == str(folder)
                if in_folder and any(one.startswith(b"RANK=") for one in environment) and alive(int(process.name)):
                    found.append(int(process.name))
    return found


def ranks_save_and_end(folder: Path) -> None:
    """Passes when no rank is left and a state was saved, which is none of an evaluation."""
    wait_until(lambda: not of_run(folder))
    assert [path.name for path in (folder / "run/checkpoints").glob("step-*")]


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "number"),
    [
        (["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port"], signal.SIGKILL),
        (["-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--master_port"], signal.SIGTERM),
    ],
    ids=["torchrun", "deepspeed"],
)
def test_ranks_save_and_end_when_their_launcher_is_gone(tiny_config, tmp_path, launcher, number):
    script = str(REPOSITORY / "launcher/train.py")
    with held_port() as port:
        command = [sys.executable, *launcher, str(port), script, str(tiny_config), "--quiet", *ENDLESS]
        with trained(tmp_path, command, number) as (process, said):
            process.wait(timeout=60)
            ranks_save_and_end(tmp_path)
    assert said.read_text().count("stopped by SIGTERM after update") == 1
