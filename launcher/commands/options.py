"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated, Any

import typer

# Words that no option takes are overrides: `optim.lr=3e-3`, `--optim.lr 3e-3`.
WITH_OVERRIDES: dict[Any, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}

Config = Annotated[Path, typer.Argument(help="YAML file, such as configs/quickstart.yaml.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="SECTION.KEY=VALUE", help="Settings to change, such as optim.lr=3e-3."),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output, everything for people on standard error.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks, and more log lines.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]


def prepare(debug: bool) -> None:
    """Set the environment as torch shall find it, before anything loads it."""
    from launcher.processes import prepare_environment
    from launcher.report import configure_logging

    prepare_environment(1)
    configure_logging(quiet=True, debug=debug)
