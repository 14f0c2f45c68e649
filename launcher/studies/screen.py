"""A study's plan and outcome on the screen."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from launcher.studies.jobs import Cell, num_planned
from launcher.studies.markdown import budget_lines, row_cells
from launcher.studies.plan import Setting, Study, show_setting
from launcher.studies.results import TableRow
from launcher.studies.settings import size_name
from launcher.values import show_value

if TYPE_CHECKING:
    from rich.table import Table


def plan_as_json(study: Study, table: Sequence[Cell]) -> dict[str, Any]:
    """What the study trains, as plain values."""
    config = study.config
    return {
        "name": config.study_name,
        "output_dir": config.output_dir,
        "runs": num_planned(table),
        "search_runs": sum(len(cell.search_jobs) for cell in table),
        "final_runs": len(table) * len(config.seeds),
        "tasks": list(config.tasks),
        "sizes": [size_name(size) for size in config.sizes],
        "seeds": config.seeds,
        "search_seeds": config.search_seeds,
        "budget": config.search.budget,
        "baseline": config.baseline,
        "methods": {
            name: {"grid_size": method.grid_size, "settings": list(method.settings)}
            for name, method in study.methods.items()
        },
    }


def plan_table(study: Study, values: Mapping[str, Any]) -> "Table":
    """The plan as a table: a row per method."""
    from launcher.literal_table import LiteralTable

    config = study.config
    title = (
        f"{values['name']}: {values['runs']} runs ({values['search_runs']} of the search on seeds "
        f"{', '.join(map(str, config.search_seeds))}, {values['final_runs']} final ones on seeds "
        f"{', '.join(map(str, config.seeds))})\ntasks {', '.join(config.tasks)}; "
        f"sizes {', '.join(size_name(size) for size in config.sizes)}; baseline {config.baseline}"
    )
    shown = LiteralTable(title=title, title_justify="left")
    for heading in ("method", "tries", "settings"):
        shown.add_column(heading, overflow="fold")
    for line, method in zip(budget_lines(study), study.methods.values(), strict=True):
        shown.add_row(method.name, line.partition(": ")[2], _settings(method.settings))
    return shown


def _settings(settings: Sequence[Setting]) -> str:
    keys = {key for setting in settings for key in setting}
    if len(keys) != 1:
        return "\n".join(show_setting(setting) for setting in settings)
    (key,) = keys
    return f"{key}: {', '.join(show_value(setting[key]) for setting in settings)}"


def result_table(study: Study, rows: Sequence[TableRow]) -> "Table":
    """The most telling columns, for the screen."""
    from launcher.literal_table import LiteralTable

    table = LiteralTable(
        title=f"{study.config.study_name}: difference is to {study.config.baseline}", title_justify="left"
    )
    for heading in ("task", "size", "method", "setting"):
        table.add_column(heading, overflow="fold")
    for heading in ("test", "collapsed", "difference", "wins-ties-losses", "steps to 95 %"):
        table.add_column(heading, justify="right")
    for row in rows:
        shown = row_cells(row, len(study.config.seeds))
        table.add_row(row.task, row.size, *shown[:5], shown[7], shown[8])
    return table
