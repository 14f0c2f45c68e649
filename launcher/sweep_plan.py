"""A sweep's file, the trials it stands for, and what they need. Knows nothing of Ray."""

import difflib
import itertools
import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from infoprompt.config import ConfigError, RunConfig, Settings, load_config


class Dimension(Settings):
    """The values of one setting; exactly one of these is given."""

    grid: list[Any] | None = Field(default=None, min_length=1)
    """Every value, with every value of the other grids."""

    choice: list[Any] | None = Field(default=None, min_length=1)
    """One of these, drawn for each sample."""

    uniform: tuple[float, float] | None = None
    """Between these two, drawn for each sample."""

    log_uniform: tuple[PositiveFloat, PositiveFloat] | None = None
    """The same with an even logarithm, as for learning rates."""

    @field_validator("grid", "choice")
    @classmethod
    def _numbers(cls, values: list[Any] | None) -> list[Any] | None:
        # YAML reads 1e-3 as text: it wants 1.0e-3
        return None if values is None else [as_number(value) for value in values]

    @model_validator(mode="after")
    def _one_kind(self) -> "Dimension":
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"gives {' and '.join(given) or 'nothing'}, but must give exactly one of grid, choice, uniform, "
                "log_uniform, such as {grid: [1e-3, 3e-3]}."
            )
        low, high = self.uniform or self.log_uniform or (0, 1)
        if low >= high:
            raise ValueError(f"is {given[0]} from {low} to {high}, but the first must be the lower one.")
        return self

    def draw(self, source: random.Random) -> Any:
        """One value, for a dimension that is no grid."""
        if self.choice is not None:
            return source.choice(self.choice)
        if self.uniform is not None:
            return source.uniform(*self.uniform)
        assert self.log_uniform is not None
        return math.exp(source.uniform(*map(math.log, self.log_uniform)))


class SweepSettings(Settings):
    """A sweep file."""

    base: str
    """Config that every trial starts from, relative to the sweep file."""

    overrides: list[str] = Field(default=[])
    """Dotted overrides for every trial."""

    space: dict[str, Dimension] = Field(min_length=1)
    """Dotted setting to its values."""

    num_samples: PositiveInt = 1
    """Draws from the dimensions that are no grids; each is combined with every point of the grids."""

    sample_seed: int = 0
    """Seed of the draws."""

    metric: str = "dev/score"
    """What is compared: `dev/score` is the task's main metric, `dev/<name>` another of its metrics."""

    direction: Literal["max", "min"] = "max"
    """Whether more or less of the metric is better."""

    workers_per_trial: PositiveInt = 1
    """Ranks that train one trial."""

    cpus_per_worker: PositiveFloat = 1
    """CPU cores of each."""

    gpus_per_worker: NonNegativeFloat = 0
    """GPUs of each; 0 trains on the CPU."""

    max_concurrent: PositiveInt | None = None
    """Trials at a time; as many as fit if not given."""

    output_dir: str = "runs/sweep"
    """Folder for everything the sweep writes; on a cluster, one that all nodes share."""

    name: str | None = None
    """Name of the parent run in MLflow; the folder's name if not given."""

    @field_validator("metric")
    @classmethod
    def _on_dev(cls, metric: str) -> str:
        if not metric.startswith("dev/"):
            raise ValueError(
                f"metric is {metric}, but must begin with dev/: choosing by test scores would make them worthless. "
                "Use dev/score."
            )
        return metric

    @property
    def sweep_name(self) -> str:
        """Name shown to people."""
        return self.name or Path(self.output_dir).name


@dataclass(frozen=True)
class Trial:
    """One point of the space, as a checked config."""

    number: int
    values: dict[str, Any]
    config: RunConfig


def load_sweep(
    path: Path, overrides: Sequence[str] = (), home: Path | None = None
) -> tuple[SweepSettings, list[Trial]]:
    """Read a sweep file and check every trial's config.

    Args:
        path: the file.
        overrides: `num_samples=2` changes the sweep; anything that is no setting of a sweep changes every trial.
        home: what a relative `output_dir` is relative to; the current folder if not given.
    Raises:
        ConfigError: the file, an override or any trial's settings do not fit.
    """
    values = _read(path)
    changes = [override for override in overrides if _root(override) in SweepSettings.model_fields]
    for change in changes:
        key, _, text = change.partition("=")
        values[key] = yaml.safe_load(text)
    given = values.get("overrides") or []
    if isinstance(given, list):
        values["overrides"] = [*given, *(override for override in overrides if override not in changes)]
    try:
        sweep = SweepSettings.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in _explain(error))) from None
    output_dir = (home or Path.cwd()) / Path(sweep.output_dir).expanduser()
    sweep = sweep.model_copy(update={"output_dir": str(output_dir)})
    return sweep, _trials(sweep, path.parent / sweep.base)


def expand(space: Mapping[str, Dimension], num_samples: int = 1, seed: int = 0) -> list[dict[str, Any]]:
    """Every trial's settings: for each sample, its draws with each point of the grids, the last grid running fastest.

    Raises:
        ConfigError: several samples of a space without anything to draw would be the same trials again.
    """
    grids = {key: dimension.grid for key, dimension in space.items() if dimension.grid is not None}
    drawn = [key for key in space if key not in grids]
    if num_samples > 1 and not drawn:
        raise ConfigError(
            f"num_samples is {num_samples}, but space has only grids: each trial would be repeated as it is. "
            "Leave it out; to repeat with other seeds, add `seed: {grid: [0, 1, 2]}` to the space."
        )
    points = []
    for sample in range(num_samples):
        # a source of its own for each setting: adding one to the space does not change the others' draws
        draws = {key: space[key].draw(random.Random(f"{seed} {sample} {key}")) for key in drawn}
        for combination in itertools.product(*grids.values()):
            point = {**draws, **dict(zip(grids, combination, strict=True))}
            points.append({key: point[key] for key in space})
    return points


def concurrent_trials(sweep: SweepSettings, total: Mapping[str, float], largest_node: Mapping[str, float]) -> int:
    """How many trials run at a time on a cluster.

    Args:
        sweep: what each trial needs.
        total: the cluster's `CPU` and `GPU`.
        largest_node: the most `CPU` and `GPU` that one node has.
    Raises:
        ConfigError: not even one trial fits; Ray itself would wait for ever.
    """
    fitting = []
    needs = {"CPU": ("cpus_per_worker", sweep.cpus_per_worker), "GPU": ("gpus_per_worker", sweep.gpus_per_worker)}
    for resource, (setting, each) in needs.items():
        if each == 0:
            continue
        trial, has, on_one = each * sweep.workers_per_trial, total.get(resource, 0), largest_node.get(resource, 0)
        if trial > has:
            raise ConfigError(
                f"workers_per_trial is {sweep.workers_per_trial} and {setting} is {each:g}, so a trial needs {trial:g} "
                f"{resource}s, but the cluster has {has:g}. Lower one of them, or add nodes first."
            )
        if each > on_one:
            raise ConfigError(
                f"{setting} is {each:g}, but the largest node has {on_one:g} {resource}s, and a worker is not split. "
                "Lower it, or add a larger node."
            )
        fitting.append(int(has // trial))
    fits = min(fitting)
    return min(fits, sweep.max_concurrent) if sweep.max_concurrent else fits


def show_values(values: Mapping[str, Any]) -> str:
    """`optim.lr=0.001, seed=0`."""
    return ", ".join(f"{key}={show_value(value)}" for key, value in values.items())


def show_value(value: Any) -> str:
    """A number with four digits, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _trials(sweep: SweepSettings, base: Path) -> list[Trial]:
    trials = []
    for number, values in enumerate(expand(sweep.space, sweep.num_samples, sweep.sample_seed)):
        overrides = [*sweep.overrides, *(f"{key}={json.dumps(value)}" for key, value in values.items())]
        try:
            config = load_config(base, [*overrides, "run.compare_with={}"])
        except ConfigError as error:
            raise ConfigError(f"Trial {number} ({show_values(values)}): {error}") from None
        trials.append(Trial(number, values, config))
    return trials


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"There is no sweep file {path}. Check the path; shipped ones are in configs/sweeps/.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}, but must hold `base`, `space` and other settings.")
    return values


def _root(override: str) -> str:
    return override.partition("=")[0].partition(".")[0]


def _explain(error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            fields = SweepSettings.model_fields if len(problem["loc"]) == 1 else Dimension.model_fields
            near = difflib.get_close_matches(str(problem["loc"][-1]), fields, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(fields)}."
            yield f"{key} is not a known setting. {hint}"
        elif problem["type"] == "missing":
            yield f"{key} is missing. Give it, as configs/sweeps/quickstart.yaml does."
        elif problem["type"] == "value_error":
            text = str(problem["ctx"]["error"])
            yield text if text.startswith(key) else f"{key} {text}"
        else:
            rule = problem["msg"].removeprefix("Input ").replace("should be", "must be")
            rule = rule[:1].lower() + rule[1:]
            yield f"{key} is {problem['input']!r}, but {rule}. Change it in the file or by {key}=VALUE."


def as_number(value: Any) -> Any:
    """YAML's text `1e-3` as a number; anything else as it is."""
    exponent = isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value)
    return float(value) if exponent else value
