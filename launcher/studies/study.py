"""Runs a study file: trains what is left of it, here or on Ray, and keeps its tables and figures up to date."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from infoprompt.config import NOTHING, ConfigError
from infoprompt.folder_lock import held, inside
from launcher.processes import prepare_environment
from launcher.ray_job import check_sent, in_job, job_home
from launcher.report import configure_logging, console, print_json, relative
from launcher.studies.jobs import Cell, Job, cells
from launcher.studies.markdown import markdown
from launcher.studies.plan import Study, load_study
from launcher.studies.progress import StudyProgress
from launcher.studies.recorded import check_known
from launcher.studies.results import RunRow, TableRow, run_rows, table_rows, write_csv
from launcher.studies.screen import plan_as_json, plan_table, result_table

LEAST_PAUSE_SECONDS = 20.0  # between two writings of the tables
SHARE_OF_TIME = 20  # a writing that takes a second is followed by a pause of so many


class StudyFailed(RuntimeError):
    """No final run finished."""


def start_study(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    only: Mapping[str, Sequence[str]] = NOTHING,
    plan_only: bool = False,
    json_output: bool = False,
    quiet: bool = False,
    debug: bool = False,
) -> None:
    """Run a study file, or go on with it, and show what came out: on the cluster that RAY_ADDRESS names, else here.

    Args:
        path: the study file.
        overrides: see `load_study`.
        only: `task`, `size` and `method` to the names of those whose runs are trained now; all where none is named.
        plan_only: only show what would be trained.
        json_output: one JSON object as the last line of standard output.
        quiet: no line of progress.
        debug: more log lines.
    Raises:
        ConfigError: see `load_study`; a task's rows cannot be read; another process works on the same study.
        StudyFailed: no final run finished.
    """
    configure_logging(quiet=quiet, debug=debug)
    screen = console(json_output)
    study = load_study(path, overrides, job_home(screen.print))
    table = cells(study)
    chosen = _chosen(table, only)
    if plan_only:
        values = plan_as_json(study, chosen)
        screen.print(plan_table(study, values), soft_wrap=False)
        if json_output:
            print_json(values)
        return
    with held(inside(study.folder), f"output_dir is {study.folder}", "a study"):
        plan = json.dumps(plan_as_json(study, table), indent=1)
        (study.folder / "plan.json").write_text(plan, encoding="utf-8")
        if in_job():
            for task in study.config.tasks:
                check_sent(study.run_of_task(task), Path.cwd())
        check_tasks(study, chosen)
        rows = _train(study, table, chosen, quiet=quiet, json_output=json_output, debug=debug)
    screen.print(result_table(study, rows), soft_wrap=False)
    for name in ("table.md", "table.csv", "runs.csv", "figures"):
        screen.print(f"{name:<10}{relative(str(study.folder / name))}")
    if json_output:
        print_json({"output_dir": str(study.folder), "rows": [vars(row) for row in rows]})
    if not any(row.seeds for row in rows):
        raise StudyFailed(f"No final run finished. {relative(str(study.folder / 'table.md'))} names each failure.")


def _chosen(table: Sequence[Cell], only: Mapping[str, Sequence[str]]) -> list[Cell]:
    """The cells of some tasks, sizes and methods; raises ConfigError for a name that is none of the study's."""
    chosen = list(table)
    for part, option in enumerate(("task", "size", "method")):
        names = only.get(option) or []
        for name in names:
            check_known(f"--{option}", name, list(dict.fromkeys(cell.place[part] for cell in table)), "the study")
        if names:
            chosen = [cell for cell in chosen if cell.place[part] in names]
    if not chosen:
        raise ConfigError(
            "No cell of the study is of all that --task, --size and --method name. Leave one of them out."
        )
    return chosen


def check_tasks(study: Study, table: Sequence[Cell]) -> None:
    """Read each task's rows at each size once; raises ConfigError before anything is trained."""
    from infoprompt.data.splits import load_splits

    for cell in {cell.place[:2]: cell for cell in table}.values():
        config = study.run_config(cell.method, cell.task, cell.size, cell.settings[0], study.config.seeds[0], {})
        try:
            splits = load_splits(config.data, config.data_seed)
        except ConfigError as error:
            raise ConfigError(f"tasks.{cell.task} at {cell.place[1]}: {error}") from None
        if not splits.test:
            raise ConfigError(f"tasks.{cell.task} has no test rows to compare methods on. Give data.test there.")


def _train(
    study: Study, table: Sequence[Cell], chosen: Sequence[Cell], *, quiet: bool, json_output: bool, debug: bool
) -> list[TableRow]:
    prepare_environment(study.config.workers or 1)
    from launcher.studies.draw import draw
    from launcher.studies.mlflow_run import recorded
    from launcher.studies.queue import forget_failures

    forget_failures(chosen)
    writer = _Writer(study, table)
    any_run = study.run_of_task(table[0].task)
    screen = console(json_output)
    with recorded(study, any_run.tracking) as run_id:
        try:
            with StudyProgress(chosen, screen, quiet=quiet) as shown:

                def changed(running: Sequence[Job], ended: Job | None) -> None:
                    shown.update(running, ended)
                    if ended:
                        writer.write_if_due()

                if os.environ.get("RAY_ADDRESS"):
                    from launcher.studies.ray_driver import train_study_on_ray

                    train_study_on_ray(
                        chosen,
                        any_run=any_run,
                        parent_run_id=run_id,
                        changed=changed,
                        say=screen.print,
                        debug=debug,
                    )
                else:
                    from launcher.studies.loop import train_study

                    train_study(chosen, parent_run_id=run_id, changed=changed)
        finally:  # what was trained is in the tables, also of a study that was stopped
            rows = writer.write()
        draw(table, study.folder / "figures")
    return rows


class _Writer:
    """Writes the tables, and not so often that it would slow the study down."""

    def __init__(self, study: Study, table: Sequence[Cell]) -> None:
        self._study = study
        self._table = table
        self._next = 0.0

    def write_if_due(self) -> None:
        if time.monotonic() >= self._next:
            start = time.monotonic()
            self.write()
            end = time.monotonic()
            self._next = end + max(LEAST_PAUSE_SECONDS, SHARE_OF_TIME * (end - start))

    def write(self) -> list[TableRow]:
        folder = self._study.folder
        rows, runs = table_rows(self._table), run_rows(self._table)
        write_csv(folder / "table.csv", rows, TableRow)
        write_csv(folder / "runs.csv", runs, RunRow)
        (folder / "table.md").write_text(markdown(self._study, rows, runs), encoding="utf-8")
        return rows
