"""A study file's settings, with their checks."""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, ValidationError, field_validator, model_validator

from infoprompt.config import ConfigError, FewShotSettings, Settings, apply_override, read_yaml
from infoprompt.setting_errors import explain
from infoprompt.settings import PositiveInt
from infoprompt.yaml_files import root
from launcher.pool.needs import Needs, Placement


class MethodSettings(Settings):
    """One method."""

    recipe: str
    """Config file whose settings change those of `base`, relative to the study file; its key `search` is the grid."""

    overrides: list[str] = Field(default=[])
    """Dotted overrides for this method's runs."""


class TaskSettings(Settings):
    """One task."""

    overrides: list[str] = Field(min_length=1)
    """Dotted overrides that set the task; `${NAME}` is read from the environment."""

    sizes: list[FewShotSettings] | None = Field(default=None, min_length=1)
    """Sizes of this task, such as those that it has rows enough for; the study's if not given."""


class StudySearch(Settings):
    """How a method's settings are chosen, for each task and size anew."""

    seeds: list[int] | None = Field(default=None, min_length=1)
    """Seeds that each tried setting is trained with; the study's first one if not given."""

    budget: PositiveInt = 3
    """Settings tried per method. A larger grid is sampled, always alike; a smaller one is tried whole."""


class StudyRay(Settings):
    """What a run takes of a Ray cluster, where RAY_ADDRESS names one; elsewhere a run is one process."""

    workers_per_run: PositiveInt = 1
    """Ranks that train one run, or a pack."""

    cpus_per_worker: PositiveFloat = 1
    """CPU cores of each."""

    gpus_per_worker: NonNegativeFloat = 0
    """GPUs of each; 0 trains on the CPU."""

    placement: Placement = "PACK"
    """How Ray lays the workers of a run over the nodes; STRICT_ refuses another way."""

    autoscaling: bool = False
    """Whether the cluster adds nodes when asked: then `workers` worker groups are asked for, whatever nodes there are
    now."""

    stall_minutes: PositiveFloat = 10
    """Without progress for so long, the study says so and why."""


class StudyConfig(Settings):
    """A study file."""

    base: str
    """Config that every run starts from, relative to the study file."""

    overrides: list[str] = Field(default=[])
    """Dotted overrides for every run, above those of tasks and methods."""

    methods: dict[str, MethodSettings] = Field(min_length=1)
    """Name to recipe file, or to `{recipe: ..., overrides: [...]}`."""

    tasks: dict[str, TaskSettings] = Field(min_length=1)
    """Name to the dotted overrides that set the task, or to `{overrides: [...], sizes: [...]}`."""

    sizes: list[FewShotSettings] = Field(min_length=1)
    """Training rows: `{total: 64}`, `{per_class: 64}`, or `{}` for all. As many more are held out as dev."""

    seeds: list[int] = Field(min_length=1)
    """Seeds of the final runs: of the training rows drawn, the start and the order of the batches."""

    search: StudySearch = StudySearch()

    baseline: str
    """Method that the others are compared with, seed by seed."""

    collapsed_margin: NonNegativeFloat = 0.02
    """A run has collapsed if its test score is at most this much above that of always predicting the test rows' most
    frequent class (0 for a Matthews correlation)."""

    output_dir: str = "runs/study"
    """Folder for everything the study writes."""

    name: str | None = None
    """Name of the parent run in MLflow; the folder's name if not given."""

    workers: PositiveInt | None = None
    """Runs side by side, each in a process of its own, or on a Ray cluster by ranks of its own. If not given, one, on
    a cluster as many as fit."""

    ray: StudyRay = StudyRay()
    """What a run takes of a Ray cluster."""

    pack: PositiveInt | Literal["auto"] = 1
    """Runs that share a process and each pass of its backbone. Each comes to what it comes to alone; where a run can
    share none, as one that trains its backbone, it is alone."""

    track_search: bool = True
    """Whether the runs of the search are recorded in MLflow as well (if `tracking.enabled`)."""

    save_artifacts: bool = False
    """Whether the final runs save their trained prompts."""

    @field_validator("methods", mode="before")
    @classmethod
    def _short_method(cls, methods: Any) -> Any:
        if not isinstance(methods, Mapping):
            return methods
        return {name: {"recipe": entry} if isinstance(entry, str) else entry for name, entry in methods.items()}

    @field_validator("tasks", mode="before")
    @classmethod
    def _short_task(cls, tasks: Any) -> Any:
        if not isinstance(tasks, Mapping):
            return tasks
        return {name: {"overrides": entry} if isinstance(entry, list) else entry for name, entry in tasks.items()}

    @model_validator(mode="after")
    def _parts_fit(self) -> "StudyConfig":
        if self.baseline not in self.methods:
            near = difflib.get_close_matches(self.baseline, self.methods, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]}?" if near else f"Methods are {', '.join(self.methods)}."
            raise ValueError(f"baseline is {self.baseline}, but must be one of the methods. {hint}")
        if self.ray.autoscaling and self.workers is None:
            raise ValueError(
                "ray.autoscaling is true, but workers is not given, and a cluster that grows takes any number. Set "
                "workers to the worker groups that it shall grow to."
            )
        for key, seeds in (("seeds", self.seeds), ("search.seeds", self.search_seeds)):
            if len(set(seeds)) < len(seeds) or min(seeds) < 0:
                raise ValueError(f"{key} is {seeds}, but must be different numbers from 0. Name each seed once.")
        for name in self.tasks:
            names = [size_name(size) for size in self.sizes_of(name)]
            if len(set(names)) < len(names):
                key = f"tasks.{name}.sizes" if self.tasks[name].sizes else "sizes"
                raise ValueError(f"{key} is {', '.join(names)}, but each must be named once. Remove the repeated one.")
        for key in ("methods", "tasks"):
            for name in getattr(self, key):
                if not re.fullmatch(r"\w[\w.+-]*", name):
                    raise ValueError(
                        f"{key} names {name!r}, but the name becomes a folder. Use letters, digits, `_`, `.`, `+`, `-`."
                    )
        return self

    def sizes_of(self, task: str) -> list[FewShotSettings]:
        """The sizes that a task is trained at."""
        return self.tasks[task].sizes or self.sizes

    @property
    def search_seeds(self) -> list[int]:
        """Seeds of the search."""
        return self.search.seeds or self.seeds[:1]

    @property
    def needs(self) -> Needs:
        """What a run needs of a cluster."""
        ray = self.ray
        return Needs(
            "run",
            ray.workers_per_run,
            ray.cpus_per_worker,
            ray.gpus_per_worker,
            ray.placement,
            self.workers,
            ray.stall_minutes,
            ray.autoscaling,
            prefix="ray.",
        )

    @property
    def study_name(self) -> str:
        """Name shown to people."""
        return self.name or Path(self.output_dir).name


def read_study(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a study file; an override whose first word is no setting of a study goes to every run.

    Raises:
        ConfigError: the file or an override does not fit; a line per problem.
    """
    values = read_yaml(path, StudyConfig, "study")
    changes = [override for override in overrides if root(override) in StudyConfig.model_fields]
    for change in changes:
        apply_override(values, change, StudyConfig)
    given = values.get("overrides") or []
    if isinstance(given, list):
        values["overrides"] = [*given, *(override for override in overrides if override not in changes)]
    try:
        return StudyConfig.model_validate(values)
    except ValidationError as error:
        lines = explain(error, StudyConfig, "configs/studies/core.yaml")
        raise ConfigError("\n".join(f"{path}: {line}" for line in lines)) from None


def size_name(size: FewShotSettings) -> str:
    """`total_64`, `per_class_16`, `all`: the folder of a size's runs."""
    return f"total_{size.total}" if size.total else f"per_class_{size.per_class}" if size.per_class else "all"
