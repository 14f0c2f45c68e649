"""Commands that use a trained prompt: evaluate, predict, export."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from infoprompt.config import ConfigError, build_config
from launcher.commands.options import Debug, Json, prepare
from launcher.exits import guarded

app = typer.Typer()

ArtifactFolder = Annotated[Path, typer.Argument(help="Folder that training printed.", show_default=False)]
BackboneName = Annotated[
    str | None, typer.Option("--backbone", help="Where the backbone is now, if not where it was in training.")
]
Encoding = Annotated[str | None, typer.Option(help="Encoding of the file, such as cp1252; see data.encoding.")]
Delimiter = Annotated[str | None, typer.Option(help="What parts the cells of a .csv file; see data.delimiter.")]
Columns = Annotated[
    list[str] | None, typer.Option(help="Our column and the file's, where they differ: text=sentence. Repeatable.")
]


@app.command()
@guarded
def evaluate(
    artifact: ArtifactFolder,
    data: Annotated[
        str | None, typer.Argument(help="Labelled .jsonl, .csv or .parquet file, or hub split as owner/name:split.")
    ] = None,
    column: Columns = None,
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
    column: Columns = None,
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


def _load(folder: Path, backbone: str | None, debug: bool) -> Any:
    prepare(debug)
    from infoprompt.artifact import Artifact

    return Artifact.from_pretrained(folder, backbone=backbone)


def _load_set(folders: dict[str, Path], backbone: str | None, debug: bool) -> Any:
    prepare(debug)
    from infoprompt.artifact_set import ArtifactSet

    return ArtifactSet.from_pretrained(folders, backbone=backbone)


def _dialect(encoding: str | None, delimiter: str | None) -> Any:
    from infoprompt.data.splits import dialect_of

    return dialect_of(build_config({"data": {"encoding": encoding, "delimiter": delimiter}}).data)


def _columns(given: list[str] | None) -> dict[str, str]:
    columns = {}
    for item in given or []:
        ours, separator, theirs = item.partition("=")
        if not separator or not ours or not theirs:
            raise ConfigError(f"--column is {item!r}, but must be our column and the file's, such as text=sentence.")
        columns[ours] = theirs
    return columns
