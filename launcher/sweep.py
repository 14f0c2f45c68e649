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

from infoprompt.folder_lock import held, inside
from launcher.exits import guarded
from launcher.overrides import split_overrides
from launcher.processes import prepare_environment
from launcher.ray_job import check_sent, in_job, job_home
from launcher.report import configure_logging, console
from launcher.sweeps.plan import load_sweep


class SweepFailed(RuntimeError):
    """No trial finished."""


def start_sweep(
    path: Path,
    overrides: Sequence[str],
    *,
    resume: bool = False,
    json_output: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Run a sweep file on Ray and show what came out.

    Raises:
        ConfigError: see `load_sweep`, `check_sent`, `Needs.groups_that_fit` and `earlier_trials`.
        SweepFailed: no trial finished.
    """
    screen = console(json_output)
    sweep = load_sweep(path, overrides, job_home(screen.print))
    if in_job():
        check_sent(sweep.first, Path.cwd())
    # A Ray of our own passes it on to all workers, whose threads would else be as many as cores in each group.
    prepare_environment(threads=max(1, int(sweep.settings.cpus_per_worker)))
    configure_logging(quiet=False, debug=debug)
    from launcher.sweeps.outcome import report_sweep
    from launcher.sweeps.ray_driver import run_sweep
    from launcher.sweeps.view import View

    view = View(screen, live=screen.is_terminal and not quiet)
    folder = Path(sweep.settings.output_dir)
    try:
        with held(inside(folder), f"output_dir is {folder}", "a sweep"):
            outcome = run_sweep(sweep, view=view, resume=resume, debug=debug)
    except KeyboardInterrupt:
        screen.print(f"What was done is kept in {sweep.settings.output_dir}; the same command with --resume goes on.")
        raise
    report_sweep(sweep, outcome, json_output=json_output)
    failed = [trial for trial in outcome.trials if trial.status == "failed"]
    if failed and outcome.best is None:
        raise SweepFailed(f"No trial finished; the first failed because: {failed[0].reason}")


@guarded
def _command(options: argparse.Namespace, *, debug: bool) -> None:
    start_sweep(
        options.file,
        split_overrides(options.overrides),
        resume=options.resume,
        json_output=options.json,
        quiet=options.quiet,
        debug=debug,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and run the sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--resume", action="store_true", help="go on with what the output folder has")
    parser.add_argument("--quiet", action="store_true", help="lines in place of the live table")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of standard output")
    parser.add_argument("--debug", action="store_true", help="tracebacks, and more log lines")
    options = parser.parse_intermixed_args(arguments)
    _command(options, debug=options.debug)


if __name__ == "__main__":
    main()
