"""Going on with a run that was stopped: the command, and the question before its folder is given to another run."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from launcher.exit_codes import STOPPED
from launcher.report import tool


def resume_command(words: Sequence[str]) -> str:
    """The command that was given, to go on with: `words` is `sys.argv`."""
    rest = list(words[1:])
    for index, word in enumerate(rest):
        if word == "--resume":
            del rest[index : index + 2]
            break
        if word.startswith("--resume="):
            del rest[index]
            break
    script = words[0] if words[0].endswith(".py") else ""
    command = f"{tool('python')} {shlex.quote(script)}" if script else tool("infoprompt")
    return f"{command} {shlex.join(rest)} --resume auto"


def check_new_run(folder: Path, resume: str, *, ask: bool = True) -> None:
    """Before a run that starts anew in the folder of one that was stopped, which is moved aside: ask on a terminal.

    Without a terminal, or where `ask` is false, one line says how to go on with the stopped one instead.
    Raises:
        SystemExit: the answer was no.
    """
    states = sorted((folder / "checkpoints").glob("step-*"))
    if resume == "auto" or not states or not (folder / "config.yaml").exists() or (folder / "result.json").exists():
        return
    step = int(states[-1].name.partition("-")[2])
    found = f"{folder} has a run that was stopped after update {step}"
    again = resume_command(sys.argv)
    if not (ask and sys.stdin.isatty() and sys.stderr.isatty()):
        typer.echo(f"{found} and is moved aside; to go on with it instead: {again}", err=True)
        return
    if not typer.confirm(f"{found}. Move it aside and start anew?", default=False, err=True):
        typer.echo(f"Nothing was changed. Go on with it by\n  {again}", err=True)
        raise SystemExit(STOPPED)
