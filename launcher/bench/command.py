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
    sizes = batch.split(",")
    if not all(size.strip().isdigit() and int(size) > 0 for size in sizes):
        raise ConfigError(
            f"--batch is {batch!r}, but it must be positive numbers with commas between them, as in 8,32."
        )
    prepare_environment(1)
    import torch

    from launcher.bench.step import Options, measure_steps

    if threads:
        torch.set_num_threads(threads)
    options = Options(
        lengths=[name.strip() for name in lengths.split(",")],
        batch_sizes=[int(size) for size in sizes],
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
