"""How far a run has come: the state that the loop changes and that a resume state keeps."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from torch import Tensor

from infoprompt.checkpoint import ResumeState, newest_resume_state, num_states, save_resume_state, set_newer_aside
from infoprompt.config import ConfigError, RunConfig, build_config, changed_setting, saved_values
from infoprompt.engine.adamw import cpu_copy, optimizer_shapes
from infoprompt.files import replace_file, whole_folder
from infoprompt.folder_lock import inside, taken_over
from infoprompt.mirror import Mirror
from infoprompt.objective.information import running_means, set_running_means
from infoprompt.output import on_first
from infoprompt.progress import Progress, TrainingStopped
from infoprompt.ranks import Ranks
from infoprompt.setup import Setup
from infoprompt.tensor_file import unfit

log = logging.getLogger(__name__)

SAVED_NAME = "resume.json"
"""In the output folder as soon as a state was written: from then on there is something to lose."""


@dataclass
class TrainingState:
    """How far a run has come: what the loop adds to, and what a resume state keeps besides the tensors."""

    progress: Progress
    history: list[dict[str, float]] = field(default_factory=list)
    best_state: dict[str, Tensor] = field(default_factory=dict)
    best_scores: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    best_loss: float | None = None
    """Dev loss of the best state, where the metric that chooses is undefined there."""
    evaluations_since_best: int = 0
    seconds: float = 0.0
    run_id: str | None = None
    told: set[str] = field(default_factory=set)
    """Reasons for an undefined metric that people were told in this start."""
    mirror: Mirror | None = None
    """What copies the run's folder after each resume state; on the first rank, where `run.mirror` is given."""

    def add(self, metrics: Mapping[str, float]) -> None:
        """Keep metrics under the current step."""
        self.history.append({"step": self.progress.step, **metrics})


class _Values(BaseModel):
    """What `save_training_state` writes beside the tensors; a later version may add to it."""

    model_config = ConfigDict(strict=True)

    step: NonNegativeInt
    examples: NonNegativeInt
    history: list[dict[str, float]]
    best_scores: dict[str, float]
    best_step: NonNegativeInt
    evaluations_since_best: NonNegativeInt
    seconds: float
    run_id: str | None
    fingerprint: str
    config: dict[str, Any]


def saved_state(config: RunConfig, ranks: Ranks) -> ResumeState | None:
    """The state that a run goes on from, the same on every rank; None where none was ever written.

    The first rank reads, so that all have the same.
    Raises:
        ConfigError: states were written, but none can be used; or the run had other settings.
    """
    found = on_first(ranks, lambda: _usable_state(Path(config.run.output_dir)))
    sent = None
    if found is not None:
        sent = {group: dict(tensors) for group, tensors in found.tensors.items()}, dict(found.values)
    sent = ranks.broadcast_object(sent)
    saved = None if sent is None else ResumeState(*sent)
    if saved is not None:
        check_same_run(config, saved)
    return saved


def start_training_state(setup: Setup, saved: ResumeState | None) -> TrainingState:
    """The state of a new run, or what a resume state keeps of it; its tensors are loaded into the engine.

    Raises:
        ConfigError: the state is of another backbone.
        ValueError: it is of another model.
    """
    optim, steps_per_epoch = setup.config.optim, setup.train.steps_per_epoch
    total = optim.total_steps(steps_per_epoch) if setup.config.updates else 0
    progress = Progress(steps_per_epoch, total)
    if saved is None:
        return TrainingState(progress)
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
    set_running_means(setup.member, saved.tensors.get("running_means", {}))
    return TrainingState(
        progress=replace(progress, step=values["step"], examples=values["examples"]),
        best_state=dict(saved.tensors.get("best", {})),
        best_loss=values.get("best_loss"),
        **{
            key: values[key]
            for key in ("history", "best_scores", "best_step", "evaluations_since_best", "seconds", "run_id")
        },
    )


def save_training_state(setup: Setup, state: TrainingState) -> None:
    """Write a resume state; every rank calls it, the first one writes, and a failure to write stops them all."""
    engine, ranks = setup.engine, setup.ranks
    tensors = {"trained": engine.trained_state(), "optimizer": engine.optimizer_state()}
    if state.best_state:
        tensors["best"] = state.best_state
    if means := running_means(setup.member):
        tensors["running_means"] = {term: cpu_copy(log_average) for term, log_average in means.items()}
    values = {
        "step": state.progress.step,
        "examples": state.progress.examples,
        "history": state.history,
        "best_scores": state.best_scores,
        "best_step": state.best_step,
        "best_loss": state.best_loss,
        "evaluations_since_best": state.evaluations_since_best,
        "seconds": state.seconds,
        "run_id": state.run_id,
        "fingerprint": setup.fingerprint,
        "config": saved_values(setup.config),
    }
    on_first(ranks, lambda: _write(setup.config, ResumeState(tensors, values), state.mirror))


def copy_state(config: RunConfig, source: Path) -> None:
    """Make another run's newest state the one that `run(config, resume="auto")` goes on from; one process calls it.

    The prompt, the optimiser's moments, the position in the data and the best state are the other run's, the settings
    this one's. States of this one are dropped, wherever they are.

    Raises:
        ConfigError: the other run has no state.
    """
    other = newest_resume_state(source / "checkpoints", _problem)
    if other is None:
        raise ConfigError(
            f"There is no resume state in {source}, whose prompt {config.run.output_dir} is to take over."
        )
    # no run_id: the tracker finds this run's own in its folder
    values = {**other.values, "run_id": None, "config": saved_values(config)}
    with whole_folder(Path(config.run.output_dir) / "checkpoints") as folder:
        save_resume_state(folder, ResumeState(other.tensors, values), config.checkpoint.keep)


def check_same_run(config: RunConfig, saved: ResumeState) -> None:
    """Raise ConfigError if a resume state is of other settings, those aside that change nothing of what is trained."""
    try:
        before = build_config(saved.values["config"])
    except ConfigError as error:
        raise ConfigError(
            f"run.output_dir is {config.run.output_dir}, whose run had settings that this version does not have: "
            f"{error} Go on with the infoprompt version that started it, or start anew in another run.output_dir."
        ) from None
    changed = changed_setting(config, before)
    if changed:
        key, value, earlier = changed
        raise ConfigError(
            f"{key} is {value}, but the run to go on with was started with {earlier}. "
            "Go on with the same settings, or start anew in another run.output_dir."
        )


def _usable_state(output_dir: Path) -> ResumeState | None:
    folder = output_dir / "checkpoints"
    saved = newest_resume_state(folder, _problem)
    if saved is not None:
        try:
            set_newer_aside(folder, saved.values["step"])
        except OSError as error:
            log.warning("The damaged states in %s stay as they are (%s).", folder, error)
        return saved
    found = num_states(folder)
    if not found and not (output_dir / SAVED_NAME).exists():
        return None
    what = f"none of the {found} there can be used" if found else "none is there any more"
    raise ConfigError(
        f"--resume is auto and run.output_dir is {output_dir}, whose run has written resume states, but {what} "
        f"(in {folder}). Bring one back, or start anew with --resume never, which moves that folder aside."
    )


def _problem(state: ResumeState) -> str | None:
    """What is wrong with a state, whatever the model; None if nothing is."""
    try:
        _Values.model_validate(dict(state.values))
    except ValidationError as error:
        first = error.errors()[0]
        return f"state.json: {'.'.join(map(str, first['loc']))}: {first['msg']}"
    for group in ("trained", "optimizer"):
        if group not in state.tensors:
            return f"{group}.safetensors is not among its files"
    shapes = {name: tensor.shape for name, tensor in state.tensors["trained"].items()}
    optimizer = dict(state.tensors["optimizer"])
    count = optimizer.pop("step", None)
    if count is None or count.shape != torch.Size([]) or count.dtype != torch.int64 or int(count) < 0:
        return "optimizer.safetensors has no count of updates"
    moments = {name: shape for name, shape in optimizer_shapes(shapes).items() if name != "step"}
    kept = state.tensors.get("running_means", {})
    means = {name: value.shape if name.startswith("label_") else torch.Size([]) for name, value in kept.items()}
    for group, tensors, expected in (
        ("trained", state.tensors["trained"], shapes),
        ("optimizer", optimizer, moments),
        ("best", state.tensors.get("best", state.tensors["trained"]), shapes),
        ("running_means", kept, means),
    ):
        found = unfit(tensors, expected, torch.float32)
        if found is not None:
            return f"{group}.safetensors {found}"
    return None


def _write(config: RunConfig, state: ResumeState, mirror: Mirror | None) -> None:
    output_dir = Path(config.run.output_dir)
    folder, step = output_dir / "checkpoints", state.values["step"]
    other = taken_over(inside(output_dir))
    if other is not None:
        raise TrainingStopped(
            f"run.output_dir is {output_dir}, but {other}, while this run stood still for long. Nothing more is "
            "written by this one."
        )
    try:
        save_resume_state(folder, state, config.checkpoint.keep)
        if not (output_dir / SAVED_NAME).exists():
            replace_file(output_dir / SAVED_NAME, f'{{"first_state": {step}}}\n')
    except OSError as error:
        raise TrainingStopped(
            f"The resume state of update {step} could not be written to {folder}: {error}. Make room, or get the right "
            "to write there, then go on with --resume auto; the states before it are kept."
        ) from None
    if mirror is not None:
        mirror.copy_soon()
