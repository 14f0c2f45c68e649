"""Runs a study file, as a job of Ray on its cluster.

ray job submit --working-dir . -- python launcher/study.py configs/studies/core.yaml [key=value ...]
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parent.parent)  # see launcher/train.py

from launcher.exits import guarded
from launcher.overrides import split_overrides
from launcher.studies.study import start_study


@guarded
def _command(options: argparse.Namespace, *, debug: bool) -> None:
    start_study(
        options.file,
        split_overrides(options.overrides),
        only={"task": options.task, "size": options.size, "method": options.method},
        json_output=options.json,
        quiet=options.quiet,
        debug=debug,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    for part in ("task", "size", "method"):
        parser.add_argument(f"--{part}", action="append", default=[], help="train only this one now; repeatable")
    parser.add_argument("--quiet", action="store_true", help="no line of progress")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of standard output")
    parser.add_argument("--debug", action="store_true", help="tracebacks, and more log lines")
    options = parser.parse_intermixed_args(arguments)
    _command(options, debug=options.debug)


if __name__ == "__main__":
    main()
