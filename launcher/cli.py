"""`infoprompt ...`: every command. Nothing heavy is imported before a command is chosen."""

import json
import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from infoprompt import __version__
from infoprompt.config import ConfigError, build_config, compose_config, dump_config, load_config, saved_values
from infoprompt.setting_table import setting_reference
from launcher.bench.command import app as bench
from launcher.exit_codes import STOPPED
from launcher.exits import guarded
from launcher.overrides import split_overrides

app = typer.Typer(
    name="infoprompt",
    help="Information-theoretic soft prompt tuning: train small prompts for a frozen language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench)

# Words that no option takes are overrides: `optim.lr=3e-3`, `--optim.lr 3e-3`.
WITH_OVERRIDES: dict[Any, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}

Config = Annotated[Path, typer.Argument(help="YAML file, such as configs/quickstart.yaml.", show_default=False)]
ArtifactFolder = Annotated[Path, typer.Argument(help="Folder that training printed.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="SECTION.KEY=VALUE", help="Settings to change, such as optim.lr=3e-3."),
]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output, everything for people on standard error.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks, and more log lines.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
BackboneName = Annotated[
    str | None, typer.Option("--backbone", help="Where the backbone is now, if not where it was in training.")
]


Encoding = Annotated[str | None, typer.Option(help="Encoding of the file, such as cp1252; see data.encoding.")]
Delimiter = Annotated[str | None, typer.Option(help="What parts the cells of a .csv file; see data.delimiter.")]


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
    config: Config,
    overrides: Overrides = None,
    json_output: Json = False,
    resume: Annotated[
        Literal["auto", "never"], typer.Option(help="auto: go on from the last resume state; never: start anew.")
    ] = "never",
    processes: Annotated[int, typer.Option(min=1, help="Ranks on this machine.")] = 1,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a prompt, then the runs it is compared with, and show their scores."""
    from infoprompt.tracking.environment import RECIPE_VARIABLE
    from launcher.comparison import read_rows_of, train_all
    from launcher.processes import Output, prepare_environment, train_in_processes
    from launcher.report import configure_logging, console, describe, show
    from launcher.resume import check_new_run

    configure_logging(quiet=quiet, debug=debug)
    checked = load_config(config, split_overrides([*(overrides or []), *context.args]))
    check_new_run(Path(checked.run.output_dir), resume)
    os.environ[RECIPE_VARIABLE] = config.stem
    console(json_output).print(describe(checked, processes))
    prepare_environment(processes)
    splits = read_rows_of(checked)
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
    _prepare(debug)
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


@app.command()
@guarded
def evaluate(
    artifact: ArtifactFolder,
    data: Annotated[
        str | None, typer.Argument(help="Labelled .jsonl, .csv or .parquet file, or hub split as owner/name:split.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Our column and the file's, where they differ: text=sentence. Repeatable.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Known task that the rows are of, if not the prompt's own, such as ax, axb or axg."),
    ] = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    backbone: BackboneName = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Score a trained prompt on labelled rows; on its task's own test rows, or those of --task, if none are given."""
    loaded = _load(artifact, backbone, debug)
    from infoprompt.evaluate import evaluate_artifact
    from launcher.own_rows import rows_of_training

    source = data or rows_of_training(loaded, artifact, task)
    columns = _columns(column) or ({} if task else loaded.config.data.columns)
    own = loaded.config.data
    dialect = _dialect(*(encoding, delimiter) if data else (encoding or own.encoding, delimiter or own.delimiter))
    scores = evaluate_artifact(loaded, source, columns, task=task, dialect=dialect)
    if json_output:
        typer.echo(json.dumps(scores))
    else:
        typer.echo("\n".join(f"{name}\t{value:.4f}" for name, value in scores.items()))


@app.command()
@guarded
def predict(
    artifact: Annotated[
        Path, typer.Argument(help="Folder that training printed; beside --file also NAME=FOLDER.", show_default=False)
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT|ARTIFACT",
            help="Texts: a pair has a tab between its texts, and so have choices; a relation marks <e1>..</e1> and "
            "<e2>..</e2>, a span <e>..</e>. Beside --file: further artifacts over the same backbone.",
        ),
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", "-f", help="One text a line, or rows (.jsonl, .csv, .parquet); - for stdin.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Our column and the file's, where they differ: text=sentence. Repeatable.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Labels shown for each text, the most probable first.")] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File for the answers: .jsonl, or .csv or .tsv with a header.")
    ] = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    backbone: BackboneName = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Label texts: a line with label, probability and text for each, or a JSON object with all probabilities.

    Files are read as training reads them; .txt, other names and standard input hold a text a line (which may be a JSON
    object). Answers come in the order of the rows, as soon as they are made. A row that cannot be read, such as a blank
    line, is named on standard error and has an answer without a label.

    With several artifacts, a row of the file names the one that reads it in the
    column `prompt`: the folder as given, or its NAME. If no row has that column,
    every artifact reads every row. The name is shown first.
    """
    from launcher.predict.answers import Output
    from launcher.predict.choose import artifact_folders
    from launcher.predict.command import predict_from

    texts = (words or []) if file is None else []
    folders = artifact_folders(artifact, words or [], file)
    output = Output(out, json_output=json_output, top=top, source=file)
    dialect = _dialect(encoding, delimiter)
    single = file is None or list(folders) == [str(artifact)]
    load = partial(_load, artifact, backbone, debug) if single else partial(_load_set, folders, backbone, debug)
    predict_from(load, texts, file, _columns(column), dialect, output)


@app.command()
@guarded
def export(
    artifact: ArtifactFolder,
    folder: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
    form: Annotated[Literal["peft"], typer.Option("--format", help="peft: what PeftModel.from_pretrained loads.")],
    backbone: BackboneName = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Write a trained prompt as another library's folder, with a README.md of how to load it and what differs."""
    loaded = _load(artifact, backbone, debug)
    from infoprompt.peft.export import export_to_peft

    written = export_to_peft(loaded, folder)
    if json_output:
        shown = {"folder": str(folder), "task_type": written.host.task_type, "differences": written.differences}
        typer.echo(json.dumps(shown))
    else:
        equal = "It gives the same scores."
        typer.echo("\n".join([f"{folder} is for {written.host.auto_class}.", *(written.differences or [equal])]))


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
def doctor(json_output: Json = False, debug: Debug = False) -> None:
    """Check this machine: what works, what would fail, and the way out."""
    from launcher.doctor.checks import examine, show_checks

    checks = examine()
    show_checks(checks, json_output)
    if any(check.status == "fail" for check in checks):
        raise SystemExit(STOPPED)


@app.command(context_settings=WITH_OVERRIDES)
@guarded
def sweep(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="Sweep file, such as configs/sweeps/quickstart.yaml.", show_default=False)
    ],
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the sweep in its output folder; finished trials stay.")
    ] = False,
    json_output: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Search settings over many trials and seeds, on Ray, and name the best."""
    from launcher.sweep import start_sweep

    changes = split_overrides([*(overrides or []), *context.args])
    start_sweep(file, changes, resume=resume, json_output=json_output, quiet=quiet, debug=debug)


@app.command(context_settings=WITH_OVERRIDES)
@guarded
def study(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Study file, such as configs/studies/core.yaml.", show_default=False)],
    overrides: Overrides = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show runs and settings, and train nothing.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Runs side by side; `workers` if not given.")] = None,
    json_output: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare methods fairly over tasks, sizes and seeds; started again, it goes on with what is not done."""
    from launcher.studies.study import start_study

    changes = split_overrides([*(overrides or []), *context.args])
    changes += [f"workers={workers}"] if workers else []
    start_study(file, changes, plan_only=plan, json_output=json_output, quiet=quiet, debug=debug)


@app.command()
@guarded
def table(
    folders: Annotated[list[Path], typer.Argument(help="Folders that hold the output of runs.", show_default=False)],
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Compare finished runs over their seeds: mean and standard deviation of each kind, as Markdown."""
    from launcher.results import collect, markdown

    results = collect(folders)
    typer.echo(json.dumps(results) + "\n" if json_output else markdown(results), nl=False)


@app.command()
@guarded
def sync(
    folder: Annotated[Path, typer.Argument(help="Output folder of a run or a sweep.", show_default=False)],
    uri: Annotated[str | None, typer.Option(help="MLflow server or database, if not the one in training.")] = None,
    debug: Debug = False,
) -> None:
    """Bring records to MLflow that it missed while it was down; nothing is sent twice."""
    from launcher.sync import sync_folder

    if not all(list(sync_folder(folder, uri, typer.echo))):  # a list: one failure does not end it
        raise SystemExit(STOPPED)


def _load(folder: Path, backbone: str | None, debug: bool) -> Any:
    _prepare(debug)
    from infoprompt.artifact import Artifact

    return Artifact.from_pretrained(folder, backbone=backbone)


def _load_set(folders: dict[str, Path], backbone: str | None, debug: bool) -> Any:
    _prepare(debug)
    from infoprompt.artifact_set import ArtifactSet

    return ArtifactSet.from_pretrained(folders, backbone=backbone)


def _prepare(debug: bool) -> None:
    """Set the environment as torch shall find it, before anything loads it."""
    from launcher.processes import prepare_environment
    from launcher.report import configure_logging

    prepare_environment(1)
    configure_logging(quiet=True, debug=debug)


def _dialect(encoding: str | None, delimiter: str | None) -> Any:
    from infoprompt.data.splits import dialect_of

    return dialect_of(build_config({"data": {"encoding": encoding, "delimiter": delimiter}}).data)


def _folder_setting(config: Path | None, overrides: list[str]) -> str | None:
    """`data.folder` of a config, or given as `data.folder=...` beside no config."""
    if config is not None and "=" not in str(config):
        return load_config(config, split_overrides(overrides)).data.folder
    given = [str(config)] if config is not None else []
    return compose_config([], split_overrides([*given, *overrides])).data.folder


def _columns(given: list[str] | None) -> dict[str, str]:
    columns = {}
    for item in given or []:
        ours, separator, theirs = item.partition("=")
        if not separator or not ours or not theirs:
            raise ConfigError(f"--column is {item!r}, but must be our column and the file's, such as text=sentence.")
        columns[ours] = theirs
    return columns
