"""Commands on many runs: sweep, study, table, sync."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from infoprompt.config import ConfigError, is_data_file
from launcher.commands.options import WITH_OVERRIDES, Debug, Json, Overrides, Quiet
from launcher.exit_codes import STOPPED
from launcher.exits import guarded
from launcher.overrides import split_overrides

app = typer.Typer()


def absolute_source(source: str) -> str:
    """A file's absolute path; a hub split as it is."""
    is_file = is_data_file(source) or source.lower().endswith(".txt")
    return str(Path(source).expanduser().absolute()) if is_file else source


@app.command(context_settings=WITH_OVERRIDES)
@guarded
def sweep(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="Sweep file, such as configs/sweeps/quickstart.yaml.", show_default=False)
    ],
    overrides: Overrides = None,
    pack: Annotated[
        str | None, typer.Option(help="Runs that share a group's passes, or auto; `pack` if not given.")
    ] = None,
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
    changes += [f"pack={pack}"] if pack else []
    start_sweep(file, changes, resume=resume, json_output=json_output, quiet=quiet, debug=debug)


@app.command(context_settings=WITH_OVERRIDES)
@guarded
def study(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Study file, such as configs/studies/core.yaml.", show_default=False)],
    overrides: Overrides = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show runs and settings, and train nothing.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Runs side by side; `workers` if not given.")] = None,
    pack: Annotated[
        str | None, typer.Option(help="Runs that share a worker's passes, or auto; `pack` if not given.")
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help="Train only this one now. Repeatable.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Train only this one now. Repeatable.")] = None,
    size: Annotated[list[str] | None, typer.Option(help="Train only this one now, such as total_64.")] = None,
    json_output: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare methods fairly over tasks, sizes and seeds; started again, it goes on with what is not done."""
    from launcher.studies.study import start_study

    changes = split_overrides([*(overrides or []), *context.args])
    changes += [f"workers={workers}"] if workers else []
    changes += [f"pack={pack}"] if pack else []
    only = {"task": task or [], "size": size or [], "method": method or []}
    start_study(file, changes, only=only, plan_only=plan, json_output=json_output, quiet=quiet, debug=debug)


@app.command(context_settings=WITH_OVERRIDES)
@guarded
def compare(
    context: typer.Context,
    data: Annotated[str, typer.Argument(help="Labelled rows, as data.train.", show_default=False)],
    overrides: Overrides = None,
    test: Annotated[str | None, typer.Option(help="Labelled rows that are read once, at the end.")] = None,
    unlabelled: Annotated[str | None, typer.Option(help="Texts without labels: rows, or .txt with one a line.")] = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, max=10**6, help="Time that it may take; what fits is planned first.")
    ] = 30,
    backbone: Annotated[str, typer.Option(help="As backbone.name.")] = "minilm",
    output: Annotated[
        Path | None,
        typer.Option(help="Folder to write, and to go on in; runs/compare/NAME if not given."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Runs side by side.")] = 1,
    plan: Annotated[bool, typer.Option("--plan", help="Measure, show the plan, and train nothing.")] = False,
    json_output: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Find out what works on rows of your own: which method, by how much, at what cost, and how to train it.

    Methods are trained the cheapest first, with several seeds and the same rule for held-out rows. Started again, it
    goes on with what is not done.
    """
    from launcher.choosing.asked import Asked
    from launcher.choosing.compare import compare

    changes = tuple(split_overrides([*(overrides or []), *context.args]))
    stem = Path(data).name.partition(".")[0] or "rows"
    folder = (output or Path("runs") / "compare" / stem).expanduser().absolute()
    sources = [None if source is None else absolute_source(source) for source in (data, test, unlabelled)]
    asked = Asked(str(sources[0]), sources[1], sources[2], backbone, changes, minutes, workers)
    compare(asked, folder, plan_only=plan, json_output=json_output, quiet=quiet, debug=debug)


@app.command()
@guarded
def table(
    sources: Annotated[
        list[Path], typer.Argument(help="Folders of runs, or runs.csv files of studies.", show_default=False)
    ],
    baseline: Annotated[
        list[str] | None, typer.Option(help="Of runs.csv: a method that the others are compared with. Repeatable.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Of runs.csv: only this one, and the baselines. Repeatable.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="Of runs.csv: only this one. Repeatable.")] = None,
    size: Annotated[
        list[str] | None, typer.Option(help="Of runs.csv: only this one, such as total_64. Repeatable.")
    ] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the tables there as well.")] = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Compare finished runs over their seeds, as Markdown: those in folders, or in the runs.csv of studies.

    Folders give a row for each kind of run, with means and standard deviations.

    Files give a table for each task and size, and one over all of them, with paired differences and their intervals.
    Several files are joined, and no folder of a run is needed.
    """
    from launcher import results
    from launcher.studies.runs_table import as_markdown, compare_files

    chosen = {"baselines": baseline, "methods": method, "tasks": task, "sizes": size}
    files = [source for source in sources if source.suffix == ".csv"]
    folders = [source for source in sources if source not in files]
    if files and folders:
        raise ConfigError(
            f"{files[0]} is a .csv file, but {folders[0]} is none. Give folders of runs, or runs.csv files."
        )
    if folders and any(chosen.values()):
        raise ConfigError(
            f"{folders[0]} is a folder, but --baseline, --method, --task and --size are of runs.csv files. Leave them "
            "out, or give the runs.csv of a study."
        )
    values: dict[str, Any]
    if folders:
        found = results.collect(folders)
        text, values = results.markdown(found), found
    else:
        compared = compare_files(files, **{name: names or [] for name, names in chosen.items()})
        text, values = as_markdown(compared), compared.as_json()
    typer.echo(json.dumps(values) + "\n" if json_output else text, nl=False)
    if markdown:
        markdown.write_text(text, encoding="utf-8")


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
