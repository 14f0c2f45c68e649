"""`infoprompt ...`: every command. Nothing heavy is imported before a command is chosen."""

import json
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from infoprompt import __version__
from infoprompt.config import ConfigError, compose_config, dump_config, load_config, saved_values
from infoprompt.setting_table import setting_reference
from launcher.bench.command import app as bench
from launcher.commands.artifacts import app as artifacts
from launcher.commands.many_runs import app as many_runs
from launcher.commands.options import WITH_OVERRIDES, Config, Debug, Json, Overrides, Quiet, prepare
from launcher.exit_codes import STOPPED
from launcher.exits import guarded
from launcher.overrides import config_of, split_overrides

app = typer.Typer(
    name="infoprompt",
    help="Information-theoretic soft prompt tuning: train small prompts for a frozen language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point."""
    app()


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    if version:
        typer.echo(f"infoprompt {__version__}")
        raise typer.Exit


@app.command(context_settings=WITH_OVERRIDES)
@guarded
def train(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Argument(help="YAML file; none takes what fits the rows of data.train.", show_default=False)
    ] = None,
    overrides: Overrides = None,
    json_output: Json = False,
    resume: Annotated[
        Literal["auto", "never"], typer.Option(help="auto: go on from the last resume state; never: start anew.")
    ] = "never",
    processes: Annotated[int, typer.Option(min=1, help="Ranks on this machine.")] = 1,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a prompt, then the runs it is compared with, and show their scores.

    Without a YAML file, as in `infoprompt train data.train=train.csv`, a rule takes the method that fits such rows. It
    says which and why; what is given behind the command wins.
    """
    from infoprompt.tracking.environment import RECIPE_VARIABLE
    from launcher.comparison import read_rows_of, train_all
    from launcher.processes import Output, prepare_environment, train_in_processes
    from launcher.report import configure_logging, console, describe, show
    from launcher.resume import check_new_run

    configure_logging(quiet=quiet, debug=debug)
    recipe, words = config_of(config, [*(overrides or []), *context.args])
    chosen = None
    if recipe is None:
        from launcher.choosing.recommended import choose, time_line

        chosen = choose(split_overrides(words))
    checked = chosen.config if chosen else load_config(recipe or "", split_overrides(words))
    check_new_run(Path(checked.run.output_dir), resume)
    os.environ[RECIPE_VARIABLE] = chosen.name if chosen else (recipe or Path()).stem
    screen = console(json_output)
    screen.print("\n".join([*(chosen.lines if chosen else []), describe(checked, processes)]))
    prepare_environment(processes)
    splits = chosen.splits if chosen else read_rows_of(checked)
    if chosen and processes == 1:
        screen.print(time_line(chosen))
    if processes == 1:
        outcome = train_all(checked, resume=resume, show_progress=not quiet, splits=splits)
    else:
        output = Output(progress=not quiet, debug=debug, to_stderr=json_output)
        outcome = train_in_processes(checked, processes, resume, output)
    show(outcome, checked, json_output)
    if outcome.stopped:
        raise SystemExit(STOPPED)


@app.command(context_settings=WITH_OVERRIDES)
@guarded
def plan(
    context: typer.Context,
    config: Config,
    overrides: Overrides = None,
    device: Annotated[str | None, typer.Option(help="cpu (measured here), h200, h100, a100 or l4.")] = None,
    ranks: Annotated[int, typer.Option(min=1, help="Ranks of the run.")] = 1,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Tell what a run would take, without loading a weight: parameters, operations, memory and time."""
    checked = load_config(config, split_overrides([*(overrides or []), *context.args]))
    prepare(debug)
    from launcher.plan.command import show_plan

    show_plan(checked, device, ranks, json_output=json_output)


@app.command(context_settings=WITH_OVERRIDES)
@guarded
def pretrain(
    context: typer.Context,
    config: Config,
    overrides: Overrides = None,
    json_output: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Pretrain the table of a prompt of kind ipt on a file of classified texts, and write it to `prompt.table`.

    The file must not be one that the prompt is tested on later.
    """
    from launcher.processes import prepare_environment
    from launcher.report import configure_logging

    configure_logging(quiet=quiet, debug=debug)
    checked = load_config(config, split_overrides([*(overrides or []), *context.args]))
    prepare_environment(1)
    from launcher.pretrain import pretrain_and_show

    pretrain_and_show(checked, config, json_output=json_output, quiet=quiet)


@app.command(context_settings=WITH_OVERRIDES)
@guarded
def show(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(help="YAML file.", show_default=False)] = None,
    overrides: Overrides = None,
    settings: Annotated[bool, typer.Option("--settings", help="Every setting with its default and meaning.")] = False,
    sweep_settings: Annotated[bool, typer.Option("--sweep-settings", help="Every setting of a sweep file.")] = False,
    tasks: Annotated[
        bool, typer.Option("--tasks", help="Every task known by name, and whether its rows are found.")
    ] = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Print a config with every setting resolved, as YAML that `train` reads; or all settings, or all tasks."""
    if settings:
        typer.echo(setting_reference(), nl=False)
    elif sweep_settings:
        from launcher.sweeps.settings import sweep_reference

        typer.echo(sweep_reference(), nl=False)
    elif tasks:
        from launcher.known_tasks import task_table, tasks_found
        from launcher.report import console

        folder = _folder_setting(config, [*(overrides or []), *context.args])
        if json_output:
            typer.echo(json.dumps(tasks_found(folder)))
        else:
            console().print(task_table(folder))
    elif config is None:
        raise ConfigError(
            "There is no config to show. Give a file, or --settings, --sweep-settings or --tasks for a reference."
        )
    else:
        checked = load_config(config, split_overrides([*(overrides or []), *context.args]))
        typer.echo(json.dumps(saved_values(checked)) + "\n" if json_output else dump_config(checked), nl=False)


@app.command()
@guarded
def doctor(
    hostfile: Annotated[
        Path | None, typer.Option(help="Check the machines of DeepSpeed's host file instead, over ssh.")
    ] = None,
    port: Annotated[int, typer.Option(help="`--master_port` of the run on them.")] = 29500,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Check this machine, or those of a host file: what works, what would fail, and the way out."""
    from launcher.doctor.checks import examine, show_checks
    from launcher.doctor.hosts import examine_hosts

    checks = examine() if hostfile is None else examine_hosts(hostfile, port)
    show_checks(checks, json_output)
    if any(check.status == "fail" for check in checks):
        raise SystemExit(STOPPED)


def _folder_setting(config: Path | None, overrides: list[str]) -> str | None:
    """`data.folder` of a config, or given as `data.folder=...` beside no config."""
    if config is not None and "=" not in str(config):
        return load_config(config, split_overrides(overrides)).data.folder
    given = [str(config)] if config is not None else []
    return compose_config([], split_overrides([*given, *overrides])).data.folder


for commands in (artifacts, many_runs, bench):
    app.add_typer(commands)
