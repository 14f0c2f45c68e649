"""What came out of a sweep: the trials, the best of them, and how they are shown."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from infoprompt.config import RunConfig
from launcher.report import console, mlflow_command, relative
from launcher.sweep_plan import SweepSettings, show_value, show_values

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class TrialOutcome:
    """What came out of a trial."""

    number: int
    trial_id: str
    values: dict[str, Any]
    status: Literal["finished", "failed"]
    reason: str | None
    """Why it failed."""
    result: dict[str, Any] | None
    """The `RunResult` as plain values."""

    def value(self, metric: str) -> float | None:
        """Its value of `dev/score` or `dev/<name>`; None if it failed or has none such."""
        if self.result is None:
            return None
        name = metric.removeprefix("dev/")
        value = self.result["dev"].get(self.result["metric"] if name == "score" else name)
        return None if value is None else float(value)


@dataclass(frozen=True)
class SweepOutcome:
    """What came out of all trials, in the order of the plan."""

    trials: list[TrialOutcome]
    parent_run_id: str | None
    """MLflow's id of the run that the trials are part of."""


def best_trial(sweep: SweepSettings, outcomes: Sequence[TrialOutcome]) -> TrialOutcome | None:
    """The finished trial with the best metric, the earlier one of equals; None if there is none."""
    scored = [(value, outcome) for outcome in outcomes if (value := outcome.value(sweep.metric)) is not None]
    sign = 1 if sweep.direction == "max" else -1
    return max(scored, key=lambda pair: sign * pair[0])[1] if scored else None


def sweep_as_json(sweep: SweepSettings, outcome: SweepOutcome) -> dict[str, Any]:
    """Everything that came out, as plain values."""
    best = best_trial(sweep, outcome.trials)
    return {
        "name": sweep.sweep_name,
        "metric": sweep.metric,
        "parent_run_id": outcome.parent_run_id,
        "output_dir": sweep.output_dir,
        "best": best.trial_id if best else None,
        "trials": [{**asdict(trial), "score": trial.value(sweep.metric)} for trial in outcome.trials],
    }


def report_sweep(sweep: SweepSettings, outcome: SweepOutcome, config: RunConfig, *, json_output: bool) -> None:
    """Keep the outcome as `sweep.json`, show the table of trials and the best one."""
    values = sweep_as_json(sweep, outcome)
    path = Path(sweep.output_dir) / "sweep.json"
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")
    screen = console(json_output)
    screen.print(trial_table(sweep, outcome.trials), soft_wrap=False)
    best = best_trial(sweep, outcome.trials)
    if best and best.result:
        screen.print(f"best      {best.trial_id}: {show_values(best.values)}")
        if best.result["artifact"]:
            screen.print(f"artifact  {relative(best.result['artifact'])}")
    screen.print(f"record    {relative(str(path))}")
    if config.tracking.enabled:
        screen.print(f"curves    {mlflow_command(config)}")
    if json_output:
        sys.stdout.write(json.dumps(values) + "\n")
        sys.stdout.flush()


def trial_table(sweep: SweepSettings, trials: Sequence[TrialOutcome]) -> "Table":
    """A row per trial: what it tried, its scores, its cost."""
    from rich.table import Table

    table = Table(title=f"{sweep.sweep_name}: best {sweep.metric} of each trial", title_justify="left")
    table.add_column("trial")
    for key in sweep.space:
        table.add_column(key, justify="right")
    tested = any(trial.result and trial.result["test"] for trial in trials)
    for heading in (sweep.metric, *(["test"] if tested else []), "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("status", overflow="fold")
    for trial in trials:
        shown = [show_value(trial.values[key]) for key in sweep.space]
        table.add_row(trial.trial_id, *shown, *_cells(trial, sweep.metric, tested))
    return table


def _cells(trial: TrialOutcome, metric: str, tested: bool) -> list[str]:
    if trial.result is None:
        return [*["-"] * (3 if tested else 2), f"{trial.status}: {trial.reason}"]
    values = [trial.value(metric)]
    if tested:
        values.append(trial.result["test"].get(trial.result["metric"]))
    scores = ["-" if value is None else f"{value:.4f}" for value in values]
    return [*scores, f"{trial.result['seconds']:.1f}", trial.status]
