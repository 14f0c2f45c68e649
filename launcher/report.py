"""What people read before and after a run; standard output, or standard error where that is kept for JSON."""

import json
import logging
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infoprompt.config import PromptSettings, RunConfig
from infoprompt.credentials import shown_uri
from infoprompt.data.places import source_name
from launcher.comparison import Outcome, Result

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MOST_CLASSES = 20  # in a table
MLFLOW_UI = "http://127.0.0.1:5000/"
"""Where `mlflow ui` answers."""


def console(json_output: bool = False) -> "Console":
    """Where human text goes."""
    from rich.console import Console

    # 140 columns where there is no terminal: a table in a log file is not broken at 80
    width = None if sys.stdout.isatty() else 140
    # names and reasons may hold brackets and colons: `lr[bold]` and `:smile:` stay what they are
    return Console(stderr=json_output, highlight=False, soft_wrap=True, width=width, markup=False, emoji=False)


class PlainFormatter(logging.Formatter):
    """Log lines, and tracebacks in them, without the credentials of any address."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        return shown_uri(super().format(record))


def configure_logging(*, quiet: bool, debug: bool, rank: int = 0) -> None:
    """Log lines of our own code on standard error; other ranks than the first say only what is wrong."""
    prefix = f"rank {rank}: " if rank else ""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter(f"{prefix.replace('%', '%%')}%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    level = logging.DEBUG if debug else logging.WARNING if quiet or rank else logging.INFO
    for package in ("infoprompt", "launcher"):
        logging.getLogger(package).setLevel(level)


def describe(config: RunConfig, num_processes: int) -> str:
    """One line: what will run."""
    prompt = f"{config.prompt.kind} prompt"
    if isinstance(config.prompt, PromptSettings):
        prompt += f" of {config.prompt.length} vectors"
    data = config.data.task or source_name(config.data.train or "the bundled task")
    engine = config.engine.kind + (f" ZeRO {config.engine.zero_stage}" if config.engine.kind == "deepspeed" else "")
    processes = "1 process" if num_processes == 1 else f"{num_processes} processes"
    others = ", ".join(config.run.compare_with)
    return (
        f"{config.run_name}: {data} on {config.backbone.name}, {prompt}, {config.objective.preset} objective, "
        f"seed {config.seed}, {engine}, {processes} -> {relative(config.run.output_dir)}"
        + (f"; compared with {others}" if others else "")
    )


def show(outcome: Outcome, config: RunConfig, json_output: bool = False) -> None:
    """Table and next steps; with JSON, one object as the last line of standard output."""
    screen = console(json_output)
    screen.print(summary(outcome), soft_wrap=False)
    if outcome.main.get("classes"):
        screen.print(class_table(outcome.main["classes"]), soft_wrap=False)
    screen.print(next_steps(outcome, config))
    if json_output:
        print_json(outcome.as_json())


def print_json(values: dict[str, Any]) -> None:
    """One object as a line of standard output."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def summary(outcome: Outcome) -> "Table":
    """A row per run: scores on test, best on dev, cost."""
    from rich import box

    from launcher.literal_table import LiteralTable

    metric = str(outcome.main["metric"])
    tested = sorted(outcome.main["test"], key=lambda name: name != metric)
    title = "test scores are those of the state that was best on dev" if tested else None
    table = LiteralTable(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("\nrun", overflow="fold")
    for heading in [
        *(f"test\n{name}" for name in tested),
        f"best dev\n{metric}",
        "\nsteps",
        "steps\nto 95 %",
        "\nseconds",
        "trained\nparameters",
    ]:
        table.add_column(heading, justify="right", overflow="fold")
    for name, result in outcome.results().items():
        table.add_row(name, *_cells(result, metric, tested))
    for name, reason in outcome.stopped.items():
        table.add_row(name, f"stopped: {reason}")
    return table


def class_table(classes: Mapping[str, Mapping[str, float]]) -> "Table":
    """Precision, recall and F1 of each class on the test rows; of very many, those with the lowest F1."""
    from rich import box
    from rich.text import Text

    from launcher.literal_table import LiteralTable

    shown = list(classes.items())
    title = "classes on the test rows"
    if len(shown) > MOST_CLASSES:
        title += f": the {MOST_CLASSES} of {len(shown)} with the lowest F1, all of them in result.json"
        shown = sorted(shown, key=lambda pair: pair[1]["f1"])[:MOST_CLASSES]
    table = LiteralTable(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("class", overflow="fold")
    for heading in ("precision", "recall", "F1", "rows"):
        table.add_column(heading, justify="right")
    for name, scores in shown:
        cells = (f"{scores[key]:.4f}" for key in ("precision", "recall", "f1"))
        table.add_row(Text(" ".join(name.split())), *cells, f"{scores['support']:,.0f}")
    return table


def _cells(result: Result, metric: str, tested: Sequence[str]) -> Iterable[str]:
    for name in tested:
        yield _score(result["test"].get(name))
    yield _score(result["dev"].get(metric))
    yield str(result["steps"])
    yield str(result["steps_to_95"])
    yield f"{result['seconds']:.1f}"
    yield f"{result['trained_parameters']:,}"


def next_steps(outcome: Outcome, config: RunConfig) -> str:
    """Where the artifact is, how to use it, and how to see the run."""
    lines = []
    if outcome.main["artifact"]:  # none with run.save_artifact=false
        artifact = relative(outcome.main["artifact"])
        lines.append(f"artifact  {artifact}")
        lines.append(f"try it    {tool('infoprompt')} predict {shlex.quote(artifact)} {example_text(outcome)}")
    if config.tracking.enabled:
        lines.append(f"curves    {mlflow_command(config, Path(config.run.output_dir))}")
    return "\n".join(lines)


def mlflow_command(config: RunConfig, recorded: Path) -> str:
    """The address of the table of runs; for a database, below the command that starts MLflow's pages.

    Args:
        config: where MLflow is.
        recorded: the folder of a run of the same experiment. MLflow's own first page is not that of the experiment.
    """
    from infoprompt.tracking import runs_page, shown_uri, tracking_uri

    uri, page = shown_uri(tracking_uri(config.tracking)), runs_page(recorded) or ""
    if uri.startswith("http"):
        return f"{uri.rstrip('/')}/{page}"
    command = f"{tool('mlflow')} ui --backend-store-uri {shlex.quote(uri)}"
    return f"{command}\n          then open {MLFLOW_UI}{page}"


def tool(name: str) -> str:
    """A command of this environment as the reader's shell finds it: by its path where the environment is not active."""
    active = sys.prefix == sys.base_prefix or os.environ.get("VIRTUAL_ENV") == sys.prefix
    return name if active else shlex.quote(relative(str(Path(sys.prefix) / "bin" / name)))


def example_text(outcome: Outcome) -> str:
    """An input of the kind that the artifact reads, quoted for a shell."""
    from infoprompt.data.task import Task
    from infoprompt.example import example_argument

    try:
        card = json.loads((Path(outcome.main["artifact"]) / "config.json").read_text(encoding="utf-8"))
        return example_argument(Task.from_dict(card["task"]))
    except (OSError, ValueError, KeyError):  # on another machine
        return '"some text"'


def _score(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}"


def relative(path: str) -> str:
    """Relative to the current folder where it lies below."""
    shorter = os.path.relpath(path)
    return path if shorter.startswith("..") else shorter
