"""`infoprompt doctor`: what works on this machine, what would fail, and the way out."""

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from infoprompt.config import BackboneSettings, TrackingSettings
from launcher.doctor.ray import ray_version, token, upload
from launcher.processes import prepare_environment

ANSWER_SECONDS = 2.0
LEAST_MEMORY_GIB = 2.0
LEAST_DISK_GIB = 2.0

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    status: Status
    detail: str
    remedy: str = ""
    """What would fail, and the way out; empty when all is well."""


def examine() -> list[Check]:
    """Every check, in order; one that itself breaks is a failure with its error."""
    prepare_environment(1)
    return [check for examination in EXAMINATIONS for check in _safely(examination)]


def show_checks(checks: list[Check], json_output: bool) -> None:
    """A table, or a JSON list."""
    if json_output:
        sys.stdout.write(json.dumps([asdict(check) for check in checks]) + "\n")
        return
    from rich.text import Text

    from launcher.literal_table import LiteralTable
    from launcher.report import console

    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = LiteralTable(show_lines=False)
    for heading in ("check", "", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        table.add_row(check.name, Text(check.status, style=colours[check.status]), check.detail, check.remedy)
    console().print(table)


def _safely(examination: Callable[[], Iterator[Check]]) -> list[Check]:
    try:
        return list(examination())
    except Exception as error:  # a broken installation may raise anything
        name = examination.__name__.strip("_").replace("_", " ")
        return [Check(name, "fail", f"{type(error).__name__}: {error}", "Reinstall the package that the error names.")]


def _python() -> Iterator[Check]:
    good = sys.version_info >= (3, 11)
    yield Check(
        "python", "ok" if good else "fail", platform.python_version(), "" if good else "3.11 or later is needed."
    )


def _torch() -> Iterator[Check]:
    import torch

    threads = f"{torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        devices, bf16 = ", ".join(names), torch.cuda.is_bf16_supported()
    else:
        devices = f"CPU only, {threads}"
        bf16 = bool(torch.tensor([1.0], dtype=torch.bfloat16).add(1).isfinite())
    remedy = "" if bf16 else "backbone.dtype=bfloat16 would fail or be slow; leave it at float32."
    yield Check(
        "torch", "ok" if bf16 else "warn", f"{torch.__version__}, {devices}, bf16 {'yes' if bf16 else 'no'}", remedy
    )


def _kernels() -> Iterator[Check]:
    import torch

    from infoprompt.kernels.implementation import automatic, triton_obstacle

    device = "cuda" if torch.cuda.is_available() else "cpu"
    obstacle = triton_obstacle(device)
    slow = device == "cuda" and obstacle is not None
    detail = f"objective.kernels=auto takes {automatic(device, obstacle)} on the {device}; " + (
        f"triton {_version('triton')}" if obstacle is None else f"not triton, as {obstacle}"
    )
    remedy = "The information losses would be slower than they could be. Install triton." if slow else ""
    yield Check("kernels", "warn" if slow else "ok", detail, remedy)


def _deepspeed() -> Iterator[Check]:
    if _version("deepspeed") is None:
        yield Check("deepspeed", "warn", "not installed", "engine.kind=deepspeed would fail; use engine.kind=plain.")
        return
    from infoprompt.engine.deepspeed_ops import ops_status

    yield Check("deepspeed", "ok", ops_status())


def _ray() -> Iterator[Check]:
    version = ray_version()
    if version is None:
        yield Check("ray", "warn", "not installed", "`infoprompt sweep` would fail. Install infoprompt[ray].")
        return
    well, found, remedy = token()
    yield Check("ray", "ok" if well else "warn", f"{version}, {found}", remedy)
    job = upload(Path.cwd())
    if job is not None:
        well, found, remedy = job
        yield Check("ray job", "ok" if well else "warn", found, remedy)


def _mlflow() -> Iterator[Check]:
    version = _version("mlflow")
    if version is None:
        yield Check("mlflow", "warn", "not installed", "Set tracking.enabled=false, or install mlflow.")
        return
    from infoprompt.tracking import shown_uri, tracking_uri

    try:
        uri = tracking_uri(TrackingSettings())
    except ValueError as error:
        yield Check("mlflow", "fail", version, str(error))
        return
    problem = _store_problem(uri)
    remedy = f"Runs go on without it; start it, then `infoprompt sync` their folders. ({problem})" if problem else ""
    yield Check("mlflow", "warn" if problem else "ok", f"{version}, runs go to {shown_uri(uri)}", remedy)


def _hub() -> Iterator[Check]:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        yield Check("model hub", "ok", "HF_HUB_OFFLINE is set: only the embedded backbone, folders and cached models")
        return
    problem = _no_answer(endpoint)
    remedy = (
        "Hub names would fail if they are not cached. Use backbone.name=minilm or a folder, and set HF_HUB_OFFLINE=1."
    )
    yield Check(
        "model hub", "warn" if problem else "ok", f"{endpoint} {problem or 'answers'}", remedy if problem else ""
    )


def _embedded_backbones() -> Iterator[Check]:
    from infoprompt.embedded import EMBEDDED

    for name, embedded in EMBEDDED.items():
        found = _version(embedded.package)
        remedy = "" if found else f"backbone.name={name} would fail. Run `{embedded.install}`."
        needed = name == BackboneSettings().name
        state = f"{name} {found}" if found else f"{name} is not installed"
        yield Check("embedded backbone", "ok" if found or not needed else "warn", state, remedy if needed else "")


def _data_sets() -> Iterator[Check]:
    from infoprompt.data.task_files import BUNDLED, bundled_file

    missing = [name for name in BUNDLED if not (bundled_file(name, "train") and bundled_file(name, "test"))]
    if missing:
        remedy = "data.task alone would fail; give data.train and data.test too, or reinstall infoprompt."
        yield Check("data sets", "warn", f"missing: {', '.join(missing)}", remedy)
    else:
        yield Check("data sets", "ok", ", ".join(BUNDLED))


def _memory() -> Iterator[Check]:
    free = _free_memory_gib()
    if free is None:
        return
    low = free < LEAST_MEMORY_GIB
    remedy = "Training may be killed. Close other programs, or lower data.micro_batch_size." if low else ""
    yield Check("memory", "warn" if low else "ok", f"{free:.1f} GiB free", remedy)


def _disk() -> Iterator[Check]:
    folder = Path.cwd()
    free = shutil.disk_usage(folder).free / 2**30
    low = free < LEAST_DISK_GIB
    yield Check("disk", "warn" if low else "ok", f"{free:.1f} GiB free in {folder}", "Make room." if low else "")
    try:
        with tempfile.TemporaryFile(dir=folder):
            yield Check("write permission", "ok", str(folder))
    except OSError as error:
        remedy = "Runs and mlflow.db go here by default. Change folder, or set run.output_dir and tracking.uri."
        yield Check("write permission", "fail", str(error), remedy)


def _ninja() -> Iterator[Check]:
    found = {path: _ninja_version(path) for path in _on_path("ninja")}
    detail = ", ".join(f"{version} ({path})" for path, version in found.items()) or "none on PATH"
    if len(set(found.values())) > 1:
        remedy = "Whatever is compiled is compiled again at each change between them. Keep one on PATH."
        yield Check("ninja", "warn", detail, remedy)
    else:
        yield Check("ninja", "ok", detail)


def _loopback() -> Iterator[Check]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except OSError as error:
        remedy = "Ray and DeepSpeed look the host name up. Add it to /etc/hosts."
        yield Check("host name", "warn", f"{socket.gethostname()}: {error}", remedy)
    else:
        yield Check("host name", "ok", socket.gethostname())


EXAMINATIONS: tuple[Callable[[], Iterator[Check]], ...] = (
    _python,
    _torch,
    _kernels,
    _deepspeed,
    _ray,
    _mlflow,
    _hub,
    _embedded_backbones,
    _data_sets,
    _memory,
    _disk,
    _ninja,
    _loopback,
)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _store_problem(uri: str) -> str | None:
    """Why a database cannot be written or a server does not answer."""
    if uri.startswith("sqlite:///"):
        folder = next(path for path in Path(uri.removeprefix("sqlite:///")).parents if path.exists())
        return None if os.access(folder, os.W_OK) else f"{folder} cannot be written"
    return _no_answer(f"{uri.rstrip('/')}/health") if uri.startswith("http") else None


def _no_answer(url: str) -> str | None:
    """Why a server does not answer; any HTTP status but 5xx is an answer. Name look-up counts towards the limit too."""
    start = time.monotonic()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="GET"), timeout=ANSWER_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        return f"answers with an error: HTTP {error.code}" if error.code >= 500 else None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return f"does not answer ({reason}) after {time.monotonic() - start:.1f} s"


def _free_memory_gib() -> float | None:
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    return int(lines["MemAvailable"].split()[0]) / 2**20


def _on_path(program: str) -> list[str]:
    """Every file of that name on PATH, each once, however many links lead to it."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    files = [folder / program for folder in folders if os.access(folder / program, os.X_OK)]
    return [str(path) for path in dict.fromkeys(path.resolve() for path in files)]


def _ninja_version(path: str) -> str:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return type(error).__name__
    return done.stdout.strip() or "unknown"
