"""What `deepspeed`, torchrun and `infoprompt train --processes N` start, once per rank.

deepspeed --num_gpus 2 launcher/train.py configs/quickstart.yaml [section.key=value ...]
torchrun --nproc_per_node 2 launcher/train.py configs/quickstart.yaml [section.key=value ...]
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    # Started by path, Python looks for modules in this folder first, where `train` or `report` would hide others'.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from infoprompt.config import load_config
from infoprompt.stopping import Preempted, told
from infoprompt.tracking.environment import RECIPE_VARIABLE
from launcher.ancestors import end_with_launcher
from launcher.comparison import train_all
from launcher.exit_codes import LOST, STOPPED
from launcher.exits import SIGNALS, guarded
from launcher.overrides import split_overrides
from launcher.processes import LEFT_NAME, end_with_parent, prepare_environment

CODE_VARIABLE = "INFOPROMPT_CODE_FILE"
"""Names a file for the first rank's exit code: what torchrun exits with says nothing of it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and train; every rank does."""
    options = _read(arguments)
    code: object = STOPPED  # of a failure with a traceback
    try:
        _train(options, debug=options.debug)
        code = 0
    except SystemExit as leaving:
        code = leaving.code
        raise
    finally:
        if told():  # a launcher may pass the signal on late: it shall not end what has its exit code
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
        if os.environ.get(CODE_VARIABLE) and os.environ.get("RANK", "0") == "0":
            Path(os.environ[CODE_VARIABLE]).write_text(f"{code if isinstance(code, int) else STOPPED}\n")
        if code == LOST:  # threads that wait for a rank that is gone would keep the interpreter from ending
            sys.stderr.flush()
            os._exit(LOST)


@guarded
def _train(options: argparse.Namespace, *, debug: bool) -> None:
    end_with_parent()
    end_with_launcher()
    rank = int(os.environ.get("RANK", "0"))
    prepare_environment(_local_world_size())
    from launcher.report import configure_logging, console, describe, show
    from launcher.resume import check_new_run

    configure_logging(quiet=options.quiet, debug=debug, rank=rank)
    config = load_config(options.config, options.overrides)
    if not options.outcome:  # else the file is a copy, and whoever started this process has said it
        os.environ[RECIPE_VARIABLE] = options.config.stem
    first = rank == 0
    if first and not options.outcome:
        check_new_run(Path(config.run.output_dir), options.resume, ask=False)
        console(options.json).print(describe(config, int(os.environ.get("WORLD_SIZE", "1"))))
    try:
        outcome = train_all(config, resume=options.resume, show_progress=first and not options.quiet)
    except Preempted as left:
        if first and options.outcome:
            values = {"step": left.step, "folder": left.folder, "saved": left.saved}
            options.outcome.with_name(LEFT_NAME).write_text(json.dumps(values), encoding="utf-8")
        raise
    if first and options.outcome:
        outcome.save(options.outcome)
    elif first:
        show(outcome, config, options.json)
    if outcome.stopped:
        raise SystemExit(0 if options.outcome else STOPPED)  # a parent process says it itself


def _read(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--resume", choices=["auto", "never"], default="never", help="go on from the last state")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of standard output")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--debug", action="store_true", help="tracebacks, and more log lines")
    # `deepspeed` passes it to whatever it starts; LOCAL_RANK says the same.
    parser.add_argument("--local_rank", "--local-rank", help=argparse.SUPPRESS)
    parser.add_argument("--outcome", type=Path, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_intermixed_args(arguments)
    options.overrides = split_overrides([*options.overrides, *rest])
    return options


def _local_world_size() -> int:
    names = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "WORLD_SIZE")  # torchrun's, `deepspeed`'s, and a guess
    return int(next((os.environ[name] for name in names if os.environ.get(name)), "1"))


if __name__ == "__main__":
    main()
