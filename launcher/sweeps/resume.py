"""What a sweep goes on with: the trials of an earlier start, if they are of the same plan."""

from collections.abc import Sequence
from pathlib import Path

from infoprompt.config import ConfigError, RunConfig, build_config, changed_setting, read_yaml
from launcher.sweeps.journal import TrialState, load_trials
from launcher.sweeps.plan import Sweep
from launcher.sweeps.space import is_point
from launcher.values import show_values


def earlier_trials(sweep: Sweep, resume: bool) -> list[TrialState]:
    """What the journal in the output folder has; failed trials are to be tried again.

    Raises:
        ConfigError: there is an earlier sweep, and it is not to be resumed or is another one.
    """
    folder = Path(sweep.settings.output_dir)
    past = load_trials(folder)
    if past and not resume:
        raise ConfigError(
            f"output_dir is {folder}, where a sweep of {len(past)} trials was started before. Add --resume to go on "
            "with it, or give another output_dir."
        )
    check_same_sweep(past, sweep)
    check_same_settings(past, sweep)
    for trial in past:
        if trial.status == "failed":
            trial.status, trial.reason = "open", None
            for run in trial.runs:
                if run.status != "finished":
                    run.status, run.deaths = "ready", 0
    return past


def check_same_sweep(past: Sequence[TrialState], sweep: Sweep) -> None:
    """Raise ConfigError if the trials of an earlier start are not those of this plan."""
    for trial in past:
        if trial.number >= sweep.num_trials:
            same = False
        elif sweep.points is None:
            same = is_point(sweep.settings.space, trial.values)
        else:
            same = sweep.points[trial.number] == trial.values
        if not same or [run.seed for run in trial.runs] != sweep.seeds_of(trial.values):
            seeds = ", ".join(str(run.seed) for run in trial.runs)
            raise ConfigError(
                f"output_dir is {sweep.settings.output_dir}, where trial {trial.number} was "
                f"{show_values(trial.values)} with seeds {seeds}, which is not what this file plans. Go on with the "
                "same space, samples and seeds (more samples may be added), or give another output_dir."
            )


def check_same_settings(past: Sequence[TrialState], sweep: Sweep) -> None:
    """Raise ConfigError if a trial's run was begun with other settings than the base and the overrides give it now."""
    for trial in past:
        for run in trial.runs:
            name = trial.run_name(run)
            before = _begun_with(Path(sweep.settings.output_dir) / "trials" / name / "config.yaml")
            if before is None or trial.taken_over:  # `pbt` changes settings on the way
                continue
            now = sweep.config(trial.current, seed=run.seed, name=name)
            changed = changed_setting(now, before, free=("evaluation.test",))  # the sweep scores test rows itself
            if changed:
                key, value, earlier = changed
                raise ConfigError(
                    f"{key} is {value}, but trial {trial.number} of the sweep to go on with was started with "
                    f"{earlier}. Put `base` and the overrides back to what they were, or give another output_dir."
                )


def _begun_with(path: Path) -> RunConfig | None:
    try:
        return build_config(read_yaml(path, RunConfig))
    except ConfigError:  # it was not begun, or is of another version
        return None
