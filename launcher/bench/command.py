"""`infoprompt bench ...`: its commands. Nothing heavy is imported before one is chosen."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from infoprompt.config import ConfigError
from launcher.exits import guarded
from launcher.processes import prepare_environment

app = typer.Typer(name="bench", help="Measure training on this machine.", no_args_is_help=True)


@app.callback()
def _bench() -> None:
    """Measure training on this machine."""


@app.command()
@guarded
def step(
    lengths: Annotated[
        str, typer.Option(help="Lengths of rows: sst2, semeval, banking77, boolq, or a number of positions.")
    ] = "sst2,semeval,banking77,boolq",
    batch: Annotated[str, typer.Option(help="Rows of a batch.")] = "8,32",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of all contenders; medians are over these.")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a round, a pass over the rows.")] = 8,
    backbone: Annotated[
        str, typer.Option(help="As backbone.name; or roberta-large-shape, llama-8b-shape: random weights.")
    ] = "minilm",
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Of the frozen weights.")] = "float32",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto: a GPU where there is one.")] = "auto",
    prompt_length: Annotated[int, typer.Option(min=1, help="Prompt vectors.")] = 20,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only contenders with this in their name, such as 'ours'. Repeatable.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write machine, versions and each round's times.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the tables.")] = None,
    targets: Annotated[
        bool, typer.Option("--targets", help="Say which targets are met; on a GPU measure more.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Time whole training steps, ours beside PEFT's and the released InfoPrompt's, on the same rows, turn by turn."""
    sizes = numbers("--batch", batch)
    prepare_environment(1)
    import torch

    from launcher.bench.step import Options, measure_steps

    if threads:
        torch.set_num_threads(threads)
    options = Options(
        lengths=[name.strip() for name in lengths.split(",")],
        batch_sizes=sizes,
        rounds=rounds,
        steps=steps,
        backbone=backbone,
        dtype=dtype,
        device=device,
        prompt_length=prompt_length,
        only=only or [],
        targets=targets,
    )
    measure_steps(options, json_file, plot, typer.echo)


@app.command()
@guarded
def pack(
    members: Annotated[str, typer.Option(help="Runs that share each pass.")] = "1,2,4,8,16",
    method: Annotated[
        list[str] | None,
        typer.Option(help="prompt tuning, prefix tuning or InfoPrompt; several are the runs' in turn. Repeatable."),
    ] = None,
    lengths: Annotated[str, typer.Option(help="Of rows: sst2, semeval, banking77, boolq, or positions.")] = "sst2",
    batch: Annotated[int, typer.Option(min=1, help="Rows of each run's batch.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of both ways; medians are over these.")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Updates of a round.")] = 4,
    backbone: Annotated[
        str, typer.Option(help="As backbone.name; or roberta-large-shape, llama-8b-shape: random weights.")
    ] = "minilm",
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Of the frozen weights.")] = "bfloat16",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="auto: a GPU where there is one.")] = "auto",
    prompt_length: Annotated[int, typer.Option(min=1, help="Prompt vectors.")] = 20,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch.")] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write machine, versions and each round's times.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Time the updates of runs that share each pass, beside those of the same runs one after another, turn by turn."""
    from launcher.bench.ours import METHODS

    unknown = [name for name in method or [] if name not in METHODS]
    if unknown:
        raise ConfigError(f"--method is {unknown[0]!r}, but must be one of {', '.join(METHODS)}.")
    counts = numbers("--members", members)
    prepare_environment(1)
    import torch

    from launcher.bench.packs import Options, measure_packs

    if threads:
        torch.set_num_threads(threads)
    methods = method or ["prompt tuning"]
    options = Options(counts, methods, lengths, batch, rounds, steps, backbone, dtype, device, prompt_length)
    measure_packs(options, json_file, typer.echo)


def numbers(option: str, text: str) -> list[int]:
    """Positive numbers with commas between them; raises ConfigError."""
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(
            f"{option} is {text!r}, but it must be positive numbers with commas between them, as in 8,32."
        )
    return [int(part) for part in parts]
