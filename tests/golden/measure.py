"""Train golden runs with the `infoprompt` that is found first, and keep what they did as plain values.

python -m golden.measure FILE [--savings] NAME ...
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .runs import RUNS, GoldenRun
from .toys import make_data, make_model

Record = dict[str, Any]
TWO_LEARNING_RATES = [3e-3, 1e-2]
NO_SAVINGS = {"unpadded": False, "attention": "sdpa", "kept_mib": 0}
"""The curves are those of a step that saves nothing; savings change them by rounding."""


def measure(runs: Sequence[GoldenRun], *, savings: bool = False) -> Record:
    """Each run's record by its name, see `record_of`; with or without what a step saves."""
    import torch

    from infoprompt.config import BackboneSettings

    # an earlier commit has fewer savings to switch off
    known = {key: value for key, value in NO_SAVINGS.items() if key in BackboneSettings.model_fields}

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="golden-") as name:
        folder = Path(name)
        os.environ["INFOPROMPT_CACHE"] = str(folder / "cache")
        files = make_data(folder)
        families = {run.family for run in runs}
        backbones = {
            family: {"name": make_model(family, folder / family), **({} if savings else known)} for family in families
        }
        return {run.name: _train(run, folder / "runs" / run.name, files, backbones[run.family]) for run in runs}


def machine() -> dict[str, str]:
    """What bits depend on: elsewhere, numbers are equal to rounding alone."""
    import torch
    import transformers

    # the name alone stands for several generations, which multiply matrices in other orders
    about = dict(line.partition(":")[::2] for line in _lines("/proc/cpuinfo")[:25])
    known = {key.strip(): value.strip() for key, value in about.items()}
    cpu = [known[key] for key in ("model name", "model", "stepping") if key in known] or [platform.processor()]
    instructions = torch.backends.cpu.get_cpu_capability()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"cpu": ", ".join([*cpu, instructions]), **versions}


def record_of(folder: Path) -> Record:
    """What a finished run left: its history, and digest and sums of the tensors of its artifact and resume state."""
    artifact = folder / "artifact"
    states = sorted(folder.glob("checkpoints/step-*"))
    return {
        "history": json.loads((folder / "history.json").read_text()),
        "artifact": _tensors(sorted(artifact.glob("*.safetensors"))) if artifact.is_dir() else {},
        "state": _tensors(sorted(states[-1].glob("*.safetensors"))) if states else {},
    }


def _train(run: GoldenRun, folder: Path, files: dict[str, str], backbone: Record) -> Record:
    settings = _settings(run, folder, files, backbone)
    folder.parent.mkdir(exist_ok=True)
    file = folder.parent / f"{run.name}.yaml"
    if run.command == "here":
        from infoprompt.config import build_config
        from infoprompt.train import run as train

        train(build_config(settings))
        return record_of(folder)
    import yaml

    file.write_text(yaml.safe_dump(settings))
    if run.command == "processes":
        _infoprompt("train", str(file), "--processes", "2", "--quiet")
        return record_of(folder)
    several = {"sweep": _sweep, "study": _study}[run.command](file, folder)
    file.with_suffix(".several.yaml").write_text(yaml.safe_dump(several))
    _infoprompt(run.command, str(file.with_suffix(".several.yaml")), "--quiet")
    found = {}
    for result in sorted(folder.rglob("result.json")):
        if (result.parent / "config.yaml").is_file():
            config = yaml.safe_load((result.parent / "config.yaml").read_text())
            few = config["data"]["few_shot"]["total"]
            found[f"lr {config['optim']['lr']} seed {config['seed']} rows {few}"] = record_of(result.parent)
    assert len(found) == 4, f"{run.name} left {len(found)} runs"
    return found


def _settings(run: GoldenRun, folder: Path, files: dict[str, str], backbone: Record) -> Record:
    kind = run.settings.get("prompt", {}).get("kind", "instance")
    common: dict[str, dict[str, Any]] = {
        "backbone": backbone,
        "data": {**files, "batch_size": 8, "validation_share": 0.33},
        "optim": {"lr": 1e-2, "epochs": 3},
        "prompt": {"bottleneck": 8} if kind in ("instance", "instance_layers", "lpt") else {},
        "evaluation": {"every_steps": 4},
        "engine": {"kind": "plain"},
        "tracking": {"enabled": False, "every_steps": 1},
        "run": {"output_dir": str(folder)},
    }
    merged: Record = {section: {**values, **run.settings.get(section, {})} for section, values in common.items()}
    return {**{section: dict(values) for section, values in run.settings.items()}, **merged}


def _sweep(base: Path, folder: Path) -> Record:
    space = {"optim.lr": {"grid": TWO_LEARNING_RATES}, "seed": {"grid": [0, 1]}}
    return {"base": str(base), "space": space, "workers_per_trial": 1, "output_dir": str(folder)}


def _study(base: Path, folder: Path) -> Record:
    return {
        "base": str(base),
        "methods": {f"lr_{rate}": _study_method(base, rate) for rate in TWO_LEARNING_RATES},
        "tasks": {"toy": ["data.validation=null"]},
        "sizes": [{"total": 12}],
        "seeds": [0, 1],
        "search": {"budget": 1},
        "baseline": f"lr_{TWO_LEARNING_RATES[0]}",
        "output_dir": str(folder),
    }


def _study_method(base: Path, rate: float) -> str:
    file = base.with_name(f"study_lr_{rate}.yaml")
    file.write_text(f"optim: {{lr: {rate}}}\n")
    return str(file)


def _infoprompt(*words: str) -> None:
    code = "from launcher.cli import main; main()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"infoprompt {' '.join(words)} ended with {done.returncode}:\n{done.stderr[-4000:]}")


def _tensors(files: Sequence[Path]) -> Record:
    from safetensors.torch import load_file

    return {f"{file.stem}/{name}": _summary(tensor) for file in files for name, tensor in load_file(file).items()}


def _summary(tensor: Any) -> Record:
    """Shape and digest, and for other machines two sums that move when any element does."""
    import torch

    flat = tensor.double().flatten()
    signs = torch.rand(len(flat), generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    return {
        "shape": list(tensor.shape),
        "sha256": hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest(),
        "norm": flat.norm().item(),
        "mix": (flat @ signs).item(),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


if __name__ == "__main__":
    chosen = [run for run in RUNS if run.name in sys.argv[2:]]
    found = measure(chosen, savings="--savings" in sys.argv[2:])
    Path(sys.argv[1]).write_text(json.dumps({"machine": machine(), "runs": found}))
