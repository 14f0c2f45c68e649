"""What a worker group is told to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launcher.sweeps.journal import RunState, TrialState
from launcher.sweeps.plan import Sweep


@dataclass(frozen=True)
class Job:
    """What a group is to do: start a run, or go on with it."""

    token: str
    """Names this attempt; a report with an older one is not heard."""
    trial: int
    seed: int
    config: dict[str, Any]
    """The `RunConfig` as plain values."""
    parent_run_id: str | None
    tags: dict[str, str]
    copy_from: str | None = None
    """Output folder of the run whose newest state it goes on from; that one waits until this one has reported."""


Answer = Job | Literal["wait", "leave", "re-register"]
"""`re-register`: the group was taken for lost; it shall say register as a new generation."""


def owner_of(tags: Mapping[str, str]) -> str:
    """Who holds a run's folder. The sweep holds its own, and gives a run to one group at a time.

    So the next group need not wait for a sign of life of the last.
    """
    return f"sweep {tags.get('sweep')}"


def job_of(sweep: Sweep, trial: TrialState, run: RunState, token: str) -> Job:
    """The job of a run."""
    settings, trials = sweep.settings, Path(sweep.settings.output_dir) / "trials"
    source = trials / f"{trial.taken_over[-1]['from']:04d}" / f"seed_{run.seed}" if run.takes_over else None
    return Job(
        token=token,
        trial=trial.number,
        seed=run.seed,
        config=sweep.config(trial.current, seed=run.seed, name=trial.run_name(run)).model_dump(mode="json"),
        parent_run_id=trial.parent_run_id,
        tags={
            "sweep": settings.sweep_name,
            "sweep.trial": str(trial.number),
            "sweep.kind": "seed" if len(trial.runs) > 1 else "trial",
            "recipe": Path(trial.current.get("base", settings.base)).stem,
        },
        copy_from=None if source is None else str(source),
    )
