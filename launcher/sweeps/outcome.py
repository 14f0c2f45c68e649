"""What came out of a sweep: the ranking and how far it can be trusted, what it cost, and the files that keep it."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from infoprompt.config import dump_config
from infoprompt.credentials import without_credentials
from launcher.paired import interval
from launcher.report import console, mlflow_command, print_json, relative
from launcher.sweeps.journal import RunState, TrialState
from launcher.sweeps.plan import Sweep
from launcher.sweeps.settings import SweepSettings
from launcher.sweeps.statistics import TrialScores, compare_best, group_mean, importance, ranking
from launcher.values import show_value, show_values

if TYPE_CHECKING:
    from rich.table import Table

RECORD_NAME = "sweep.json"
MOST_ROWS = 40


@dataclass
class SweepOutcome:
    """What came out of all trials, in the order of their numbers."""

    settings: SweepSettings
    trials: list[TrialState]
    batch_size: int
    parent_run_id: str | None
    """MLflow's run of the sweep."""
    exhausted: str | None = None
    """Which part of the budget ended it."""
    version: int | None = None
    """Of the best artifact in MLflow's registry."""

    @cached_property
    def scores(self) -> list[TrialScores]:
        """What statistics and figures read."""
        return [_scores(trial, self.settings.metric_name) for trial in self.trials]

    @cached_property
    def ranked(self) -> list[TrialScores]:
        """Finished trials, the best first."""
        return ranking(self.scores, self.settings.direction)

    @property
    def best(self) -> TrialState | None:
        """The finished trial with the best mean, the earlier one of equals."""
        return next((trial for trial in self.trials if self.ranked and trial.number == self.ranked[0].number), None)

    @property
    def best_run(self) -> RunState | None:
        """The best trial's best seed, whose artifact is the one to use."""
        if self.best is None:
            return None
        sign, metric = self.settings.sign, self.settings.metric_name
        return max(self.best.runs, key=lambda run: sign * (run.final(metric) or 0.0))

    @property
    def test(self) -> dict[str, float]:
        """The best trial's scores on the test rows, means over its seeds; empty unless every seed has them."""
        return _tested(self.best) if self.best else {}

    @cached_property
    def importance(self) -> dict[str, float]:
        """Setting to the share of the score's variation that it explains; takes a second or two."""
        return importance(self.scores, self.settings.direction)

    @property
    def sentence(self) -> str | None:
        """Whether the best two can be told apart."""
        if len(self.ranked) < 2:
            return None
        return compare_best(self.ranked[0], self.ranked[1], self.settings.direction).sentence

    @property
    def examples(self) -> int:
        """Training examples seen by all trials, the cost that does not depend on the machine."""
        return sum(
            int(trial.current.get("data.batch_size", self.batch_size)) * run.step
            for trial in self.trials
            for run in trial.runs
        )

    @property
    def overheads(self) -> list[float]:
        """Seconds of each finished run that were not training or evaluation on dev: loading, test, saving."""
        runs = [run for trial in self.trials for run in trial.runs if run.result]
        return [run.wall_seconds - run.result["seconds"] for run in runs if run.result]


def outcome_of(
    sweep: Sweep, trials: Sequence[TrialState], parent_run_id: str | None, exhausted: str | None = None
) -> SweepOutcome:
    """The outcome of a sweep's trials."""
    return SweepOutcome(sweep.settings, list(trials), sweep.first.data.batch_size, parent_run_id, exhausted)


def _scores(trial: TrialState, metric: str) -> TrialScores:
    final = {run.seed: score for run in trial.runs if (score := run.final(metric)) is not None}
    status = trial.status if trial.over else "unfinished"
    return TrialScores(
        number=trial.number,
        values=trial.current,
        status=status,  # type: ignore[arg-type]
        final=final if status == "finished" else {},
        curve={run.seed: list(run.curve) for run in trial.runs},
    )


def _tested(trial: TrialState) -> dict[str, float]:
    tests = [(run.result or {}).get("test") or {} for run in trial.runs]
    return {name: statistics.fmean(test[name] for test in tests) for name in tests[0]} if all(tests) else {}


def as_json(outcome: SweepOutcome) -> dict[str, Any]:
    """Everything that came out, as plain values."""
    settings, best = outcome.settings, outcome.best
    return {
        "name": settings.sweep_name,
        "metric": settings.metric,
        "direction": settings.direction,
        "parent_run_id": outcome.parent_run_id,
        "output_dir": settings.output_dir,
        "best": best.number if best else None,
        "test": outcome.test,
        "verdict": outcome.sentence,
        "exhausted": outcome.exhausted,
        "registered_version": outcome.version,
        "importance": outcome.importance,
        "examples": outcome.examples,
        "overhead_seconds": statistics.median(outcome.overheads) if outcome.overheads else None,
        "trials": [_trial_json(trial, settings.metric_name) for trial in outcome.trials],
    }


def _trial_json(trial: TrialState, metric: str) -> dict[str, Any]:
    return {
        "number": trial.number,
        "values": trial.current,
        "status": trial.status if trial.over else "unfinished",
        "reason": trial.reason,
        "score": trial.score,
        "seeds": {
            str(run.seed): {
                "score": run.final(metric),
                "steps": run.step,
                "deaths": run.deaths,
                "wall_seconds": round(run.wall_seconds, 3),
                "result": run.result,
            }
            for run in trial.runs
        },
    }


def write_files(sweep: Sweep, outcome: SweepOutcome) -> dict[Path, str]:
    """Write record, space, best config and pictures below the output folder; each with its folder in MLflow."""
    from infoprompt.picture import save_picture
    from launcher.sweeps.figures import (
        importance_bars,
        learning_curves_of_trials,
        parallel_coordinates,
        score_by_setting,
    )

    settings, folder = outcome.settings, Path(outcome.settings.output_dir)
    kind: dict[str, Any] = {"metric": settings.metric, "direction": settings.direction}
    (folder / RECORD_NAME).write_text(json.dumps(as_json(outcome), indent=1), encoding="utf-8")
    plan = without_credentials(settings.model_dump(mode="json", exclude_none=True))
    (folder / "sweep.yaml").write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
    files = {folder / RECORD_NAME: "", folder / "sweep.yaml": ""}
    if outcome.best is not None:
        best = dump_config(sweep.config(outcome.best.current))
        (folder / "best.yaml").write_text(best, encoding="utf-8")
        files[folder / "best.yaml"] = ""
    pictures = {
        "parallel_coordinates": lambda: parallel_coordinates(outcome.scores, **kind),
        "learning_curves": lambda: learning_curves_of_trials(outcome.scores, **kind),
        "score_by_setting": lambda: score_by_setting(outcome.scores, metric=settings.metric),
    }
    if outcome.importance:
        pictures["importance"] = lambda: importance_bars(outcome.importance, metric=settings.metric)
    for name, draw in pictures.items():
        path = folder / "figures" / f"{name}.png"
        if save_picture(path.name, path, draw):
            files[path] = "figures"
    return files


def report_sweep(sweep: Sweep, outcome: SweepOutcome, *, json_output: bool) -> None:
    """Show the ranking, the best trial, what it can be trusted for, and where everything is."""
    screen = console(json_output)
    screen.print(trial_table(outcome), soft_wrap=False)
    for line in _lines(sweep, outcome):
        screen.print(line, markup=False, emoji=False)
    if json_output:
        print_json(as_json(outcome))


def _lines(sweep: Sweep, outcome: SweepOutcome) -> list[str]:
    settings, best, run = outcome.settings, outcome.best, outcome.best_run
    lines = []
    if outcome.sentence:
        lines.append(outcome.sentence)
    if outcome.exhausted:
        left = sum(not trial.over for trial in outcome.trials)
        lines.append(
            f"The budget ended it ({outcome.exhausted}), {left} trials keep their state: raise it and --resume."
        )
    if outcome.overheads:
        lines.append(
            f"{outcome.examples:,} training examples; {statistics.median(outcome.overheads):.1f} s a run beside "
            "training (median: loading, test, saving)"
        )
    if best is not None and run is not None:
        lines.append(f"best      trial {best.number}: {show_values(best.current)}")
        if run.result and run.result["artifact"]:
            seed = f" (seed {run.seed}, the best of {len(best.runs)})" if len(best.runs) > 1 else ""
            lines.append(f"artifact  {relative(run.result['artifact'])}{seed}")
        if tested := outcome.test:
            of_seeds = f", mean of {len(best.runs)} seeds" if len(best.runs) > 1 else ""
            shown = ", ".join(f"{name} {value:.4f}" for name, value in tested.items())
            lines.append(f"test      {shown} (trial {best.number}{of_seeds})")
        lines.append(f"config    {relative(str(Path(settings.output_dir) / 'best.yaml'))}")
    if outcome.version is not None:
        lines.append(f"registry  models:/{settings.register_as}@{settings.register_alias} (version {outcome.version})")
    lines.append(f"record    {relative(str(Path(settings.output_dir) / RECORD_NAME))}")
    if sweep.first.tracking.enabled:
        recorded = (run.result or {}).get("output_dir") if run else None
        lines.append(f"curves    {mlflow_command(sweep.first, Path(recorded or settings.output_dir))}")
    return lines


def trial_table(outcome: SweepOutcome) -> "Table":
    """A row per trial, the best first: what it tried, mean and interval over its seeds, how it ended."""
    from launcher.literal_table import LiteralTable

    settings = outcome.settings
    several = any(len(trial.runs) > 1 for trial in outcome.trials)
    by_number = {trial.number: trial for trial in outcome.trials}
    ranked = [by_number[scores.number] for scores in outcome.ranked]
    rest = [trial for trial in outcome.trials if trial not in ranked]
    shown, title = [*ranked, *rest], f"{settings.sweep_name}: {settings.metric}"
    if len(shown) > MOST_ROWS:
        title += f"; {MOST_ROWS} of {len(shown)} trials, all of them in {RECORD_NAME}"
        shown = shown[:MOST_ROWS]
    table = LiteralTable(title=title, title_justify="left")
    table.add_column("trial", justify="right")
    for key in settings.space:
        table.add_column(key, justify="right")
    headings = ["mean", "95 % interval", "seeds"] if several else [settings.metric]
    tested = any(_tested(trial) for trial in shown)
    for heading in (*headings, *["test"] * tested, "updates", "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("status", overflow="fold")
    scores = {of_trial.number: of_trial for of_trial in outcome.scores}
    for trial in shown:
        values = [show_value(trial.current[key]) if key in trial.current else "" for key in settings.space]
        cells = [str(trial.number), *values, *_cells(trial, scores, several, tested)]
        table.add_row(*cells)
    return table


def _cells(trial: TrialState, scores: Mapping[int, TrialScores], several: bool, tested: bool) -> list[str]:
    mean = group_mean(scores[trial.number])
    cells = ["-" if mean is None else f"{mean:.4f}"]
    if several:
        between = interval(list(scores[trial.number].final.values()))
        cells.append("-" if between is None else f"{between[0]:.4f} .. {between[1]:.4f}")
        cells.append(str(len(trial.runs)))
    if tested:
        test = _tested(trial)
        cells.append(f"{next(iter(test.values())):.4f}" if test else "-")
    status = trial.status if trial.over else "unfinished"
    reason = f": {trial.reason}" if trial.reason else ""
    seconds = sum(run.wall_seconds for run in trial.runs)
    return [*cells, str(sum(run.step for run in trial.runs)), f"{seconds:.1f}", f"{status}{reason}"]
