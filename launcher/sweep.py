"""Runs a sweep file on Ray.

python launcher/sweep.py configs/sweeps/quickstart.yaml [key=value ...]
ray job submit --working-dir . -- python launcher/sweep.py configs/sweeps/quickstart.yaml
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # see launcher/train.py

from launcher.exits import guarded
from launcher.overrides import split_overrides
from launcher.processes import prepare_environment
from launcher.report import configure_logging, console
from launcher.sweep_plan import load_sweep


class SweepFailed(RuntimeError):
    """Every trial failed."""


def start_sweep(path: Path, overrides: Sequence[str], *, json_output: bool = False, debug: bool = False) -> None:
    """Run a sweep file on Ray and show what came out.

    Raises:
        ConfigError: see `load_sweep` and `concurrent_trials`.
        SweepFailed: no trial finished.
    """
    sweep, trials = load_sweep(path, overrides)
    prepare_environment(sweep.workers_per_trial)
    configure_logging(quiet=False, debug=debug)
    from launcher.ray_run import run_sweep
    from launcher.sweep_outcome import report_sweep

    outcome = run_sweep(sweep, trials, say=console(json_output).print, debug=debug)
    report_sweep(sweep, outcome, trials[0].config, json_output=json_output)
    if not any(trial.result for trial in outcome.trials):
        raise SweepFailed(f"Every trial failed; the first because: {outcome.trials[0].reason}")


@guarded
def _command(options: argparse.Namespace, *, debug: bool) -> None:
    start_sweep(options.file, split_overrides(options.overrides), json_output=options.json, debug=debug)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and run the sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of standard output")
    parser.add_argument("--debug", action="store_true", help="tracebacks, and more log lines")
    options = parser.parse_intermixed_args(arguments)
    _command(options, debug=options.debug)


if __name__ == "__main__":
    main()
