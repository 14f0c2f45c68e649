"""What a benchmark ran on."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

PACKAGES = (
    *("torch", "transformers", "peft", "triton"),
    *("liger-kernel", "quack-kernels", "cut-cross-entropy", "inf-cl"),
)


def machine(device: torch.device) -> dict[str, str]:
    """What was measured on, with which versions, at which commit."""
    found = {"device": _device_name(device), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "threads": str(torch.get_num_threads()), "commit": _commit()}


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "CPU"


def _commit() -> str:
    folder = Path(__file__).parent
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
