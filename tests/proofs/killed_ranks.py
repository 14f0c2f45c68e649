"""Proof that a rank killed in an update, a save or an evaluation ends its run, which then goes on to the same numbers.

    python -m tests.proofs.killed_ranks > tests/proofs/killed_ranks.txt

Two ranks on this machine, started by `infoprompt train --processes`, `deepspeed`, torchrun and a sweep on Ray. SIGKILL
comes from within, so that it hits the same instruction each time. The command must end with another code than 0 and
leave no rank; with --resume auto it must then come, to the bit, to the losses and tensors of a run that was never
killed. A sweep must go on by itself.

Exits with 1 where one did not.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from infoprompt.config import dump_config, load_config, override_config
from launcher.processes import held_port
from tests.proofs.fault_sweep import write_sweep

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 240.0
"""For a command to end; plenty, as a busy machine starts processes slowly."""
SHORT = "optim.max_steps=12 evaluation.every_steps=3 checkpoint.every_steps=3 tracking.enabled=false".split()
ENGINE = "engine.kind=plain engine.timeout_seconds=20".split()
LAUNCHERS = ("processes", "deepspeed", "torchrun", "Ray")
MOMENTS = {
    # which rank, what it calls, and how often it does so before it is killed
    "update": (1, "infoprompt.engine.plain_engine", "PlainEngine.step", 7),
    "save": (0, "infoprompt.checkpoint", "write_manifest", 1),
    "evaluation": (1, "infoprompt.setup", "Setup.evaluate", 1),
}

# Python runs it at its start, in the ranks too. Ray tells a worker its rank later, so that is asked when it matters.
KILLER = """
import functools, importlib.util, os, signal, sys


def patch(module):
    *owners, name = os.environ["KILLED_CALL"].split(".")
    owner = functools.reduce(getattr, owners, module)
    call, left = getattr(owner, name), [int(os.environ["KILLED_AFTER"])]

    @functools.wraps(call)
    def last(*arguments, **named):
        left[0] -= os.environ.get("RANK") == os.environ["KILLED_RANK"]
        if left[0] < 0 and not os.path.exists(os.environ["KILLED_ONCE"]):
            open(os.environ["KILLED_ONCE"], "x").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)

    setattr(owner, name, last)


class Killer:
    def find_spec(self, name, path, target=None):
        if name != os.environ.get("KILLED_MODULE"):
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (execute(module), patch(module))
        return spec


sys.meta_path.insert(0, Killer())
"""


def prepare(folder: Path) -> None:
    """The task, what kills, and the run that was never killed."""
    write_sweep(folder)
    base = override_config(load_config(folder / "base.yaml"), [*SHORT, *ENGINE])
    (folder / "short.yaml").write_text(dump_config(base))
    (folder / "one.yaml").write_text("{base: short.yaml, space: {seed: {grid: [0]}}, workers_per_trial: 2}")
    (folder / "killer").mkdir()
    (folder / "killer/sitecustomize.py").write_text(KILLER)
    code, said = start(folder, "processes", "whole")
    if code:
        raise RuntimeError(said)


def start(folder: Path, launcher: str, out: str, *options: str, moment: str | None = None) -> tuple[int, str]:
    """Start a run and wait for its end: its code, and what was said."""
    rank, module, call, calls = MOMENTS.get(moment or "", ("none", "", "", 0))
    variables = {
        "PYTHONPATH": f"{folder / 'killer'}{os.pathsep}{REPOSITORY}",
        "KILLED_RANK": str(rank),
        "KILLED_MODULE": module,
        "KILLED_CALL": call,
        "KILLED_AFTER": str(calls),
        "KILLED_ONCE": str(folder / f"{out}.killed"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "DS_ACCELERATOR": "cpu",
        "INFOPROMPT_CACHE": str(folder / "cache"),
    }
    with held_port() as port, (folder / f"{out}.log").open("w+") as log:
        run = ["base.yaml", *SHORT, *ENGINE, f"run.output_dir={out}"]
        given = [f"output_dir={out}"] if launcher == "Ray" else run
        command = [*_command(launcher, port), "--quiet", *options, *given]
        process = subprocess.Popen(command, cwd=folder, env=os.environ | variables, stdout=log, stderr=log)
        try:
            code = process.wait(timeout=SECONDS)
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        return code, log.read()


def _command(launcher: str, port: int) -> list[str]:
    script, python = str(REPOSITORY / "launcher/train.py"), sys.executable
    return {
        "processes": [python, "-c", "from launcher.cli import main; main()", "train", "--processes=2"],
        "Ray": [python, str(REPOSITORY / "launcher/sweep.py"), "one.yaml"],
        "deepspeed": [python, "-m", "deepspeed.launcher.runner", "--num_gpus=2", f"--master_port={port}", script],
        "torchrun": [python, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}", script],
    }[launcher]


def ranks_of(folder: Path) -> list[int]:
    """Processes that still train in the folder."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and str((process / "cwd").readlink()) == str(folder):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def problems(folder: Path, launcher: str, moment: str) -> list[str]:
    """Kill a rank, and go on; what was other than it should be."""
    out = f"{launcher}-{moment}"
    place = folder / out / ("trials/0000/seed_0" if launcher == "Ray" else "")
    code, said = start(folder, launcher, out, moment=moment)
    found = [] if (folder / f"{out}.killed").exists() else ["nothing was killed"]
    time.sleep(1)
    if left := ranks_of(folder):
        found.append(f"processes are left: {left}")
    if launcher == "Ray":  # it goes on by itself
        again = ""
    else:
        found += [] if code else ["the command ended with 0"]
        code, again = start(folder, launcher, out, "--resume=auto")
    if code:
        return [*found, f"it did not go on:\n{said}\n{again}"]
    for file in ("history.json", "artifact/prompt.safetensors"):
        if (folder / "whole" / file).read_bytes() != (place / file).read_bytes():
            found.append(f"{file} differs")
    return found


def main(launchers: Sequence[str] = LAUNCHERS) -> int:
    """A line for each launcher and moment."""
    print(f"Linux {platform.release()}, Python {platform.python_version()}, ", end="")
    print(", ".join(f"{package} {version(package)}" for package in ("torch", "deepspeed")))
    failed = False
    with tempfile.TemporaryDirectory(prefix="killed-") as name:
        folder = Path(name)
        prepare(folder)
        for launcher in launchers:
            for moment, (rank, *_) in MOMENTS.items():
                begun = time.monotonic()
                found = problems(folder, launcher, moment)
                failed = failed or bool(found)
                good = "ended, and went on to the same bits"
                seconds = time.monotonic() - begun
                told = "; ".join(found) or good
                print(f"{launcher}: rank {rank} killed in its {moment}: {told} ({seconds:.0f} s)", flush=True)
    print("FAIL" if failed else "PASS")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
