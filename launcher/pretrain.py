"""Pretrains a table and says so: a line for each pass over the rows, and what came out."""

import json
import shlex
import sys
from pathlib import Path

from infoprompt.config import RunConfig
from infoprompt.pretraining.pretrain import Epoch, PretrainResult, pretrain
from launcher.report import console, relative, tool


def pretrain_and_show(config: RunConfig, config_file: Path, *, json_output: bool, quiet: bool) -> None:
    """Pretrain; with JSON, the result is one object as the last line of standard output."""
    screen = console(json_output)

    def show_epoch(row: Epoch) -> None:
        screen.print(
            f"epoch {row.epoch}/{row.epochs}  loss {row.loss:.4f}  dev accuracy {row.dev_accuracy:.4f}  "
            f"{row.seconds:.1f} s"
        )

    result = pretrain(config, None if quiet else show_epoch)
    screen.print(_summary(result))
    screen.print(f"use it  {tool('infoprompt')} train {_again(config_file, result)} data.task=...")
    if json_output:
        sys.stdout.write(json.dumps(result.as_json()) + "\n")


def _summary(result: PretrainResult) -> str:
    return (
        f"dev accuracy {result.dev_accuracy:.4f} after epoch {result.best_epoch}, {result.num_classes} classes; "
        f"{result.trained_parameters:,} parameters, {result.touched_parameters:,} with only the rows touched "
        f"({result.touched_rows:,} of {result.table_rows:,}); {result.steps:,} updates in {result.seconds:.1f} s\n"
        f"table   {relative(result.table)}"
    )


def _again(config_file: Path, result: PretrainResult) -> str:
    return f"{shlex.quote(str(config_file))} prompt.table={shlex.quote(relative(result.table))}"
