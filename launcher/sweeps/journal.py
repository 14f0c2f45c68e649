"""What is known of a sweep's trials and runs, and its journal on disk.

A trial is a point of the space; it has a run for each of its seeds. `trials/0003/trial.json` holds one whole, written
at every change that a resume needs.
"""

import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from infoprompt.files import replace_file

RunStatus = Literal["ready", "running", "paused", "finished", "stopped", "failed"]
TrialStatus = Literal["opening", "open", "finished", "stopped", "failed"]

JOURNAL_NAME = "trial.json"


@dataclass
class RunState:
    """The run of one seed."""

    seed: int
    status: RunStatus = "ready"
    curve: list[tuple[int, float]] = field(default_factory=list)
    """Step and metric of every evaluation."""
    result: dict[str, Any] | None = None
    """The `RunResult` as plain values, once finished."""
    deaths: int = 0
    """How often its workers were killed."""
    wall_seconds: float = 0.0
    """Time that worker groups spent on it, from being asked for work to the end of the run."""
    ending: bool = False
    """It has reported for the last time, and only has its result to write."""
    takes_over: bool = False
    """By `pbt`: it has another run's curve, and has not yet reported since it was to go on from that one's state."""

    def best(self, sign: int, step: float = math.inf) -> float:
        """The best metric up to the first evaluation at or after `step`; `sign` is -1 where less is better.

        NaN only if every one is.
        """
        reached = []
        for evaluated, score in self.curve:
            reached.append(sign * score)
            if evaluated >= step:
                break
        return sign * max((score for score in reached if not math.isnan(score)), default=math.nan)

    def final(self, metric: str) -> float | None:
        """The metric of a finished run, that of its best state; `score` is the one that chose it."""
        if self.result is None:
            return None
        value = self.result["dev"].get(self.result["metric"] if metric == "score" else metric)
        return None if value is None else float(value)

    @property
    def ended(self) -> bool:
        """Whether no evaluation is to come."""
        return self.ending or self.status == "finished"

    @property
    def step(self) -> int:
        """Of its last evaluation."""
        return self.curve[-1][0] if self.curve else 0


@dataclass
class TrialState:
    """One point of the space."""

    number: int
    values: dict[str, Any]
    runs: list[RunState]
    status: TrialStatus = "open"
    reason: str | None = None
    """Why it failed or was stopped."""
    stage: int = 0
    """Comparisons it has passed."""
    scores: list[tuple[int, float]] = field(default_factory=list)
    """Step and mean over the seeds of every comparison."""
    score: float | None = None
    """The mean of the metric over its finished runs."""
    taken_over: list[dict[str, Any]] = field(default_factory=list)
    """By `pbt`: step, the trial whose prompts it took over, and its values from then on."""
    parent_run_id: str | None = None
    """MLflow's run that its seeds are part of."""

    @property
    def name(self) -> str:
        """Its folder below `trials/`."""
        return f"{self.number:04d}"

    @property
    def over(self) -> bool:
        """Whether nothing of it is left to do."""
        return self.status in ("finished", "stopped", "failed")

    @property
    def current(self) -> dict[str, Any]:
        """Its values now."""
        return self.taken_over[-1]["values"] if self.taken_over else self.values

    def run(self, seed: int) -> RunState:
        """Its run with a seed."""
        return next(run for run in self.runs if run.seed == seed)

    def run_name(self, run: RunState) -> str:
        """Folder of a run below `trials/`."""
        return f"{self.name}/seed_{run.seed}"

    def mean_at(self, step: int, sign: int) -> float:
        """Mean over the seeds of the best metric up to a step; of a run that ended before, up to its end."""
        return statistics.fmean(run.best(sign, step) for run in self.runs)


def save_trial(folder: Path, trial: TrialState) -> None:
    """Write the journal of one trial below the sweep's folder."""
    place = folder / "trials" / trial.name
    place.mkdir(parents=True, exist_ok=True)
    # not durable: at every event of a thousand trials the dispatcher cannot wait for a disk
    replace_file(place / JOURNAL_NAME, json.dumps(vars(trial), default=vars), durable=False)


def load_trials(folder: Path) -> list[TrialState]:
    """Every trial that the journal knows, by number."""
    return sorted(_loaded(folder), key=lambda trial: trial.number)


def _loaded(folder: Path) -> Iterator[TrialState]:
    for path in folder.glob(f"trials/*/{JOURNAL_NAME}"):
        values = json.loads(path.read_text(encoding="utf-8"))
        runs = [RunState(**{**run, "curve": [tuple(pair) for pair in run["curve"]]}) for run in values.pop("runs")]
        values["scores"] = [tuple(pair) for pair in values["scores"]]
        yield TrialState(runs=runs, **values)
