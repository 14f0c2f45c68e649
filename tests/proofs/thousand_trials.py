"""A sweep of trivial trials, with the real dispatcher, ASHA, Ray and MLflow: how fast, how large, and where it bends.

    python tests/proofs/thousand_trials.py [--trials 1000] [--folder FOLDER]

Each trial records nine evaluations of a made-up score as an MLflow run of its own and trains nothing, so the figures
are those of the sweep's own machinery. Prints a line for every hundred trials.

Exits with 1 if a trial failed.
"""

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import psutil
import yaml

from launcher.report import console
from launcher.sweeps.plan import load_sweep
from launcher.sweeps.ray_driver import run_sweep
from launcher.sweeps.view import View

STEPS = 9
EVERY = 100


def main() -> int:
    """Run it, and print the table; the exit code."""
    options = _read()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="thousand-"))
    folder.mkdir(parents=True, exist_ok=True)
    sweep = load_sweep(_sweep_file(folder, options.trials))
    print(f"{options.trials} trials; {_versions()}", flush=True)
    print("  trials  seconds  trials/min  driver MiB  coordinator MiB  mlflow.db MiB", flush=True)
    view = _Measuring(folder)
    started = time.monotonic()
    outcome = run_sweep(sweep, view=view, train=_trainer())
    states = [trial.status for trial in outcome.trials]
    seconds = time.monotonic() - started
    print(
        f"finished {states.count('finished')}, stopped early {states.count('stopped')}, failed {states.count('failed')}"
    )
    print(
        f"{seconds:.0f} s in all, {60 * options.trials / seconds:.0f} trials a minute; best trial {outcome.best.number}"
    )
    return int("failed" in states)


def _trainer():
    """Made here so that Ray sends the function itself: workers cannot import this script."""

    def train(config, parent_run_id, tags, report):
        from infoprompt.progress import LeftOff, Progress
        from infoprompt.tracking import Tracker

        tracker = Tracker.open(config, first=True, parent_run_id=parent_run_id, tags=tags)
        for step in range(1, 10):
            score = (1 - abs(config.optim.lr - 0.01) * 20) * step / 9
            tracker.log({"dev/accuracy": score}, step)
            decision = report(Progress(9, 9, step), {"score": score, "accuracy": score})
            if decision != "go":
                tracker.close()
                raise LeftOff(decision)
        tracker.close()
        return {
            "dev": {"accuracy": score}, "test": {}, "metric": "accuracy", "seconds": 0.0, "artifact": "", "steps": 9,
            "run_id": tracker.run_id,
        }  # fmt: skip

    return train


class _Measuring(View):
    """Prints a row for every hundred trials that ended."""

    def __init__(self, folder: Path) -> None:
        super().__init__(console(True), live=False)
        self._folder, self._num_shown, self._mark = folder, 0, time.monotonic()

    def say(self, line: str) -> None:
        """Quiet."""

    def update(self, news) -> None:
        """Count."""
        super().update(news)
        num_ended = sum(trial.over for trial in self._trials.values())
        if num_ended - self._num_shown >= EVERY:
            now = time.monotonic()
            rate = 60 * (num_ended - self._num_shown) / (now - self._mark)
            database = (self._folder / "mlflow.db").stat().st_size / 2**20
            driver = psutil.Process().memory_info().rss / 2**20
            print(
                f"{num_ended:8d} {now - self._started:8.0f} {rate:11.0f} {driver:11.0f} {_board_mib():10.0f} "
                f"{database:14.1f}",
                flush=True,
            )
            self._num_shown, self._mark = num_ended, now


def _board_mib() -> float:
    """Memory of the actor that holds the sweep."""
    for process in psutil.process_iter(["cmdline", "memory_info"]):
        if any("Coordinator" in word for word in process.info["cmdline"] or []):
            return float(process.info["memory_info"].rss / 2**20)
    return float("nan")


def _sweep_file(folder: Path, trials: int) -> Path:
    config = {
        "run": {"save_artifact": False},
        "data": {"task": "semeval2010_task8"},
        "evaluation": {"every_steps": 1, "test": False},
        "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"},
    }
    sweep = {
        "base": "trivial.yaml",
        "space": {"optim.lr": {"log_uniform": [1.0e-4, 0.05]}},
        "num_samples": trials,
        "scheduler": {"kind": "asha", "grace_steps": 1, "reduction_factor": 3},
        "output_dir": str(folder / "sweep"),
    }
    (folder / "trivial.yaml").write_text(yaml.safe_dump(config))
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    return folder / "sweep.yaml"


def _versions() -> str:
    names = ", ".join(f"{name} {metadata.version(name)}" for name in ("ray", "optuna", "mlflow"))
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    return f"python {platform.python_version()}, {names}, {psutil.cpu_count()} CPUs, commit {commit}"


def _read() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="where it writes; a temporary one if not given")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
