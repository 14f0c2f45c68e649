"""Prove on a GPU what was written for one: results, curves, speed and memory, from one command.

    python -m tests.gpu.prove [--minutes 8] [--out DIR] [--only PART ...] [--dry]

Parts run in processes of their own, the most telling first. Each has its share of the minutes, and what one leaves goes
to those after it; a part over its limit is ended, and what it had found stays. DIR gets records.jsonl (each finding as
soon as it is there), log.txt, proof.json and proof.md. Without a GPU, --dry runs everything at tiny sizes, in Triton's
interpreter and over gloo. Ends with 1 if a number is wrong or a part failed, however slow or fast things are.
"""

import argparse
import contextlib
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if "tests" not in sys.modules:
    # started by its path, as parts are: `tests` is this folder, also where an installed package has that name
    sys.modules["tests"] = types.ModuleType("tests")
    sys.modules["tests"].__path__ = [str(ROOT / "tests")]

from tests.gpu.record import FILE, NO_GPU, End, read, write  # noqa: E402
from tests.gpu.report import written  # noqa: E402
from tests.gpu.wheels import install_absent  # noqa: E402


@dataclass(frozen=True)
class Part:
    """A module of this folder with a function `prove`."""

    name: str
    what: str
    share: float
    """Of the time, relative to the others'."""
    needs: tuple[str, ...] = ("torch",)
    """Modules without which it is skipped."""


TRAINING = ("torch", "transformers", "pydantic", "yaml", "sklearn", "matplotlib")
PARTS = (
    Part(
        "accuracy",
        "the three ops against float64, twice the same bits, without waiting",
        120,
        ("torch", "triton", "pytest"),
    ),
    Part("training", "curves of the GPU against those of the CPU, plain and DeepSpeed over NCCL", 80, TRAINING),
    Part("speed", "the kernels beside everybody else's, and the card's own floor", 120, ("torch", "triton")),
    Part("large", "a model of RoBERTa-large's shape in bfloat16: examples a second, use of the card", 60, TRAINING),
    Part("versus_peft", "PEFT's prompt and prefix tuning, turn by turn with ours", 45, (*TRAINING, "peft")),
    Part("suite", "the suite's own tests of kernels that take a device", 55, ("torch", "triton", "pytest")),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts, print and write what they found."""
    chosen = _parser().parse_args(arguments)
    folder = chosen.out or ROOT / "runs" / "gpu-proof"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).unlink(missing_ok=True)
    (folder / "log.txt").unlink(missing_ok=True)
    command = shlex.join(["python", "-m", "tests.gpu.prove", *(sys.argv[1:] if arguments is None else arguments)])
    with tempfile.TemporaryDirectory(prefix="gpu-proof-") as scratch:
        site = Path(scratch) / "site"
        fetched = install_absent(chosen.wheels, site)
        if fetched:
            sys.stdout.write(f"Installed for this run alone: {', '.join(fetched)}\n")
        sys.path.append(str(site))
        environment = _environment(Path(scratch), site, chosen)
        deadline = time.monotonic() + 60 * chosen.minutes
        parts = [part for part in PARTS if not chosen.only or part.name in chosen.only]
        for index, part in enumerate(parts):
            share = part.share / sum(later.share for later in parts[index:])
            end = _run(part, folder, environment, chosen.dry, share * (deadline - time.monotonic()))
            if end is None:
                sys.stderr.write("torch sees no GPU here. Use --dry to try the proof itself at tiny sizes.\n")
                return 2
            write(folder, "end", asdict(end))
            table = written(read(folder), folder, command)
            sys.stdout.write(f"{part.name}: {end.state} after {end.seconds:.0f} s {end.note}\n")
            sys.stdout.flush()
    sys.stdout.write(f"\n{table}\nWritten to {folder}\n")
    return int(read(folder).wrong)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu.prove", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--out", type=Path, help="folder for what is found (runs/gpu-proof)")
    names = [part.name for part in PARTS]
    parts = "; ".join(f"{part.name}: {part.what}" for part in PARTS)
    parser.add_argument("--only", nargs="+", choices=names, default=[], metavar="PART", help=parts)
    parser.add_argument("--dry", action="store_true", help="tiny sizes, on the CPU")
    parser.add_argument(
        "--wheels", type=Path, default=ROOT / ".wheels", help="folder of wheels carried along (.wheels)"
    )
    return parser


def _environment(scratch: Path, site: Path, chosen: argparse.Namespace) -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")]), str(site)]
    changes = {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "INFOPROMPT_CACHE": str(scratch / "cache"),
        "GPU_PROOF_SCRATCH": str(scratch),
        "GPU_PROOF_WHEELS": str(chosen.wheels.resolve()),
    }
    if chosen.dry:
        changes |= {"CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "1", "DS_ACCELERATOR": "cpu"}
    else:
        # what torch's deterministic mode, which the suite's tests switch on, asks of cuBLAS
        changes |= {"TRITON_INTERPRET": "0", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**mine, **changes}


def _run(part: Part, folder: Path, environment: dict[str, str], dry: bool, limit_seconds: float) -> End | None:
    """Run a part for so many seconds at most; None where there is no GPU."""
    missing = [name for name in part.needs if importlib.util.find_spec(name) is None]
    if missing:
        return End(part.name, "skipped", note=f"{' and '.join(missing)} not installed")
    command = [sys.executable, __file__, "--part", part.name, str(folder.resolve()), *(["--dry"] if dry else [])]
    started = time.monotonic()
    with (folder / "log.txt").open("a") as log:
        log.write(f"===== {part.name}\n")
        log.flush()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True, text=True
        )
        try:
            code = process.wait(max(limit_seconds, 1.0))
        except subprocess.TimeoutExpired:
            return End(part.name, "cut", time.monotonic() - started, f"at its limit of {limit_seconds:.0f} s")
        finally:
            _end_group(process)
    seconds = time.monotonic() - started
    if code == NO_GPU:
        return None
    if code:
        return End(part.name, "failed", seconds, f"its process ended with {code}; {_last_line(folder / 'log.txt')}")
    return End(part.name, "done", seconds)


def _end_group(process: subprocess.Popen[str]) -> None:
    """End a part and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "without a word"


def _stop(signum: int, frame: object) -> None:
    sys.exit(128 + signum)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:  # the process of one part
        from tests.gpu.part import run_part

        run_part(sys.argv[2], Path(sys.argv[3]), "--dry" in sys.argv)
    signal.signal(signal.SIGTERM, _stop)  # so that the part under way is ended, too
    sys.exit(main())
