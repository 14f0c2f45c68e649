"""The course of a run, as the loop changes it and as a resume state keeps it."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from infoprompt.checkpoint import ResumeState, newest_resume_state, save_resume_state
from infoprompt.config import ConfigError, RunConfig, build_config, flatten, saved_values
from infoprompt.engine.engine import cpu_copy
from infoprompt.objective.information import running_means, set_running_means
from infoprompt.progress import Progress, TrainingStopped
from infoprompt.setup import Setup

log = logging.getLogger(__name__)


@dataclass
class Course:
    """The course of a run so far: what the loop adds to, and what a resume state keeps besides the tensors."""

    progress: Progress
    history: list[dict[str, float]] = field(default_factory=list)
    best_state: dict[str, Tensor] = field(default_factory=dict)
    best_scores: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    evaluations_since_best: int = 0
    seconds: float = 0.0
    run_id: str | None = None

    def add(self, metrics: Mapping[str, float]) -> None:
        """Keep metrics under the current step."""
        self.history.append({"step": self.progress.step, **metrics})


def start_course(setup: Setup, saved: ResumeState | None) -> Course:
    """The course of a new run, or the one that a resume state keeps, whose tensors are loaded into the engine.

    Raises:
        ConfigError: the state is of another backbone.
    """
    optim, steps_per_epoch = setup.config.optim, setup.train.steps_per_epoch
    total = min(optim.epochs * steps_per_epoch, optim.max_steps or optim.epochs * steps_per_epoch)
    progress = Progress(steps_per_epoch, total)
    if saved is None:
        return Course(progress)
    values = saved.values
    if values["fingerprint"] != setup.fingerprint:
        raise ConfigError(
            f"backbone.name is {setup.config.backbone.name!r}, but its weights are not those that this run was "
            "started with. Give the same backbone, or start anew in another run.output_dir."
        )
    setup.engine.load_trained_state(saved.tensors["trained"])
    setup.engine.load_optimizer_state(saved.tensors["optimizer"])
    if setup.ranks.is_first:
        log.info("Going on from update %d of %d.", values["step"], total)
    set_running_means(setup.engine.model, saved.tensors.get("running_means", {}))
    return Course(
        progress=replace(progress, step=values["step"], examples=values["examples"]),
        best_state=dict(saved.tensors.get("best", {})),
        **{
            key: values[key]
            for key in ("history", "best_scores", "best_step", "evaluations_since_best", "seconds", "run_id")
        },
    )


def save_course(setup: Setup, course: Course) -> None:
    """Write a resume state; every rank calls it, the first one writes, and a failure to write stops them all."""
    engine, ranks = setup.engine, setup.ranks
    tensors = {"trained": engine.trained_state(), "optimizer": engine.optimizer_state()}
    if course.best_state:
        tensors["best"] = course.best_state
    if means := running_means(engine.model):
        tensors["running_means"] = {term: cpu_copy(log_average) for term, log_average in means.items()}
    values = {
        "step": course.progress.step,
        "examples": course.progress.examples,
        "history": course.history,
        "best_scores": course.best_scores,
        "best_step": course.best_step,
        "evaluations_since_best": course.evaluations_since_best,
        "seconds": course.seconds,
        "run_id": course.run_id,
        "fingerprint": setup.fingerprint,
        "config": saved_values(setup.config),
    }
    problem = None
    if ranks.is_first:
        folder = Path(setup.config.run.output_dir) / "checkpoints"
        try:
            save_resume_state(folder, ResumeState(tensors, values), setup.config.checkpoint.keep)
        except OSError as error:
            problem = f"The resume state of update {course.progress.step} could not be written to {folder}: {error}"
    problem = ranks.broadcast_object(problem)
    if problem:
        raise TrainingStopped(f"{problem}. Make room or give another run.output_dir, then go on with --resume auto.")


def take_over(config: RunConfig, source: Path) -> None:
    """Make another run's newest state the one that `run(config, resume="auto")` goes on from; one process calls it.

    The prompt, the optimiser's moments, the position in the data and the best state are the other run's, the settings
    this one's; states of this one are dropped, wherever they are.
    Raises:
        ConfigError: the other run has no state.
    """
    other = newest_resume_state(source / "checkpoints")
    if other is None:
        raise ConfigError(
            f"There is no resume state in {source}, whose prompt {config.run.output_dir} is to take over."
        )
    folder = Path(config.run.output_dir) / "checkpoints"
    shutil.rmtree(folder, ignore_errors=True)
    # no run_id: the tracker finds this run's own in its folder
    values = {**other.values, "run_id": None, "config": saved_values(config)}
    save_resume_state(folder, ResumeState(other.tensors, values), config.checkpoint.keep)


def check_same_run(config: RunConfig, saved: ResumeState) -> None:
    """Raise ConfigError if a resume state is of other settings, those aside that change nothing of what is trained."""
    free = ("run.", "engine.", "tracking.", "checkpoint.")
    before, now = flatten(build_config(saved.values["config"])), flatten(config)
    changed = [key for key in now if not key.startswith(free) and before.get(key) != now[key]]
    if changed:
        key = changed[0]
        raise ConfigError(
            f"{key} is {now[key]}, but the run to go on with was started with {before.get(key)}. "
            "Go on with the same settings, or start anew in another run.output_dir."
        )
