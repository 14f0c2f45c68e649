"""The process of one part, which `prove` starts."""

import importlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import torch

from infoprompt.kernels.machine import machine
from tests.gpu.record import NO_GPU, Recorder, read

PACKAGES = ("transformers", "deepspeed", "peft")


def run_part(name: str, folder: Path, dry: bool) -> NoReturn:
    """Run a part, whose findings go to the records, and end this process."""
    code = 0
    if dry or torch.cuda.is_available():
        recorder = Recorder(folder, name)
        if not read(folder).about:
            recorder.about(**about(dry))
        importlib.import_module(f"tests.gpu.{name}").prove(recorder, dry)
    else:
        code = NO_GPU
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # what CUDA, NCCL or DeepSpeed do while the interpreter is taken down says nothing of the numbers


def about(dry: bool) -> dict[str, str]:
    """Card, driver, versions and commit."""
    found = machine(torch.device("cpu" if dry else "cuda"))
    if not dry:
        found |= {"driver": _driver(), "CUDA": str(torch.version.cuda)}
        found["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    commit = found.pop("commit")
    carried = Path(os.environ["GPU_PROOF_WHEELS"]) / "COMMIT"  # where the working tree came without its history
    found["commit"] = carried.read_text().strip() if commit == "unknown" and carried.is_file() else commit
    return {**found, "run": "dry, on the CPU"} if dry else found


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"
