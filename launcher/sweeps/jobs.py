"""What a worker group is told of a sweep's run."""

from pathlib import Path

from launcher.pool.jobs import Job
from launcher.sweeps.journal import RunState, TrialState
from launcher.sweeps.plan import Sweep


def job_of(sweep: Sweep, trial: TrialState, run: RunState, token: str) -> Job:
    """The job of a run."""
    settings, trials = sweep.settings, Path(sweep.settings.output_dir) / "trials"
    source = trials / f"{trial.taken_over[-1]['from']:04d}" / f"seed_{run.seed}" if run.takes_over else None
    return Job(
        token=token,
        number=trial.number,
        seed=run.seed,
        name=f"trial {trial.number} seed {run.seed}",
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
