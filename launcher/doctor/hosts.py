"""`infoprompt doctor --hostfile FILE`: whether `deepspeed --hostfile FILE` would find its machines alike and ready.

Run as a module with the name of a file and a port, as it is on each machine by ssh, it prints what there is.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from infoprompt.config import ConfigError
from launcher.doctor.checks import Check, Status

ANSWER_SECONDS = 120.0
"""For a machine to log in and load torch, from a cold disk perhaps."""
NO_FOLDER, NO_PYTHON, NO_LOGIN = 71, 72, 255


def read_hostfile(path: Path) -> dict[str, int]:
    """The slots of each machine.

    Raises:
        ConfigError: there is no such file, it names no machine or one twice, or a line says something else.
    """
    form = "Each machine has a line `NAME slots=N`: its name as ssh knows it, and its number of ranks."
    if not path.is_file():
        raise ConfigError(
            f"--hostfile is {path}, but there is no such file; `deepspeed` would train on this machine alone. {form}"
        )
    lines: dict[str, int] = {}
    slots: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        where, text = f"line {number} of {path}", line.partition("#")[0].strip()
        if not text:
            continue
        found = re.fullmatch(r"(\S+)\s+slots=(\d+)", text)
        if found is None:
            raise ConfigError(f"{where} is {text!r}, which is no machine. {form}")
        host, number_of_slots = found[1], int(found[2])
        if number_of_slots == 0:
            raise ConfigError(f"{where} gives {host} slots=0, but each machine needs at least 1. Remove the line.")
        if host in lines:
            raise ConfigError(
                f"{where} names {host}, as line {lines[host]} does. Write one line, with all slots of the machine."
            )
        lines[host], slots[host] = number, number_of_slots
    if not slots:
        raise ConfigError(f"--hostfile is {path}, which names no machine. {form}")
    return slots


def examine_hosts(hostfile: Path, port: int) -> list[Check]:
    """A finding for each machine of a host file, and for what starts their ranks.

    Raises:
        ConfigError: as `read_hostfile` does.
    """
    slots = read_hostfile(hostfile)
    checks = [_pdsh()]
    with tempfile.NamedTemporaryFile(dir=Path.cwd(), prefix=".seen-") as sign, ThreadPoolExecutor(32) as asking:
        answers = asking.map(lambda host: _ask(host, Path(sign.name), port), slots)
        for (host, number), answer in zip(slots.items(), answers, strict=True):
            checks.append(_finding(host, number, answer, port if host == next(iter(slots)) else None))
    return checks


def _pdsh() -> Check:
    found = shutil.which("pdsh")
    remedy = (
        "`deepspeed --hostfile` starts the other machines by it. Install it, or start the run on each machine with "
        "--no_ssh or torchrun."
    )
    return Check("pdsh", "ok", found) if found else Check("pdsh", "fail", "not on PATH", remedy)


def _ask(host: str, sign: Path, port: int) -> dict[str, Any] | str:
    """What a machine says of itself, or why it does not."""
    folder = Path.cwd()
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    words = [sys.executable, "-m", "launcher.doctor.hosts", sign.name, str(port)]
    there = (
        f"cd {shlex.quote(str(folder))} 2>/dev/null || exit {NO_FOLDER}; "
        f"test -x {shlex.quote(sys.executable)} || exit {NO_PYTHON}; "
        f"PYTHONPATH={shlex.quote(paths)} exec {shlex.join(words)}"
    )
    command = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", host, there]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=ANSWER_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"It did not answer within {ANSWER_SECONDS:.0f} s. Look whether it is busy, or its disk hangs."
    except OSError as error:
        return f"ssh cannot be started ({error}). Install OpenSSH's client."
    if done.returncode:
        return _obstacle(host, done.returncode, next(iter(reversed(done.stderr.strip().splitlines())), "no word"))
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _obstacle(host: str, code: int, said: str) -> str:
    """Why a machine said nothing of itself, by what ssh ended with and said last."""
    if code == NO_FOLDER:
        return f"{Path.cwd()} is not there. The project must be at the same path on each machine: share or copy it."
    if code == NO_PYTHON:
        return f"{sys.executable} is not there. The environment must be at the same path on each machine."
    if code == NO_LOGIN:
        return (
            f"No login by ssh ({said}). `ssh {host} true` must succeed without a question: correct the name, or put "
            "your public key in its ~/.ssh/authorized_keys and its own key in your ~/.ssh/known_hosts."
        )
    return f"infoprompt cannot be loaded there ({said}). Install the same commit and constraints.txt as here."


def _finding(host: str, slots: int, answer: dict[str, Any] | str, port: int | None) -> Check:
    """`port` is that of the first machine, whose first rank listens on it."""
    from infoprompt.nodes import software, unlike

    if isinstance(answer, str):
        return Check(host, "fail", f"slots={slots}", answer)
    gpus, cores = answer["gpus"], answer["cores"]
    found = (
        f"slots={slots}; {f'{gpus} GPUs' if gpus else f'no GPU, {cores} cores'}; torch {answer['software']['torch']}"
    )
    difference = unlike({"this machine": software(), host: answer["software"]})
    problems: list[tuple[bool, Status, str]] = [
        (bool(difference), "fail", difference),
        (0 < gpus < slots, "fail", f"slots={slots}, but each rank needs a GPU of its own. Write slots={gpus}."),
        (
            port is not None and answer["taken"],
            "fail",
            f"Another program listens on port {port} there. Give a free one: `deepspeed --master_port N`.",
        ),
        (
            not answer["sees"],
            "warn",
            f"It does not see what is written in {Path.cwd()} here, where runs/ is by default. Give a run.output_dir "
            "in a folder that all machines share.",
        ),
        (
            not gpus and slots > cores,
            "warn",
            f"slots={slots}, but ranks will wait for each other's cores. Write slots={cores} or fewer.",
        ),
    ]
    status, remedy = next(((status, text) for so, status, text in problems if so), ("ok", ""))
    return Check(host, status, found, remedy)


def report(sign: str, port: int) -> dict[str, Any]:
    """What this machine is and has; `sign` is a file in the current folder of the machine that asks."""
    import torch

    from infoprompt.nodes import software

    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
            taken = False
        except OSError:
            taken = True
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cores = os.cpu_count() or 1
    return {"software": software(), "gpus": gpus, "cores": cores, "sees": Path(sign).exists(), "taken": taken}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(report(sys.argv[1], int(sys.argv[2]))) + "\n")
