"""What a study stands for: its methods with the settings that each tries, and the config of each run."""

import itertools
import json
import math
import os
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from infoprompt.config import ConfigError, FewShotSettings, RunConfig, compose_config, read_settings
from launcher.pack_size import pack_size
from launcher.studies.settings import StudyConfig, read_study, size_name
from launcher.values import show_values

# What a study decides for each of its runs; an override of these would be lost, or break the comparison.
DECIDED = (
    "seed",
    "run.output_dir",
    "run.name",
    "run.compare_with",
    "run.save_artifact",
    "evaluation.test",
    "data.few_shot.total",
    "data.few_shot.per_class",
)

POINTS = "points"
"""The key of a grid whose values are settings that go together, by their dotted names."""

_NO_SIZE = {"data.few_shot.total": None, "data.few_shot.per_class": None}

Setting = dict[str, Any]
"""Dotted setting to its value: one point of a method's grid."""


@dataclass(frozen=True)
class Method:
    """A method with what it tries."""

    name: str
    layers: tuple[Mapping[str, Any], ...]
    """Nested settings, each changing those before it."""
    overrides: tuple[str, ...]
    settings: tuple[Setting, ...]
    """Tried for each task and size; a single, maybe empty, one is not searched for."""
    grid_size: int
    """Points of the recipe's grid, of which `settings` are all or a sample."""


@dataclass(frozen=True)
class Study:
    """A checked study file."""

    config: StudyConfig
    methods: dict[str, Method]

    @property
    def folder(self) -> Path:
        """Where it writes."""
        return Path(self.config.output_dir)

    @cached_property
    def pack(self) -> int:
        """Runs of a worker that share each pass."""
        if self.config.pack != "auto":
            return self.config.pack
        needs = self.config.needs
        if not os.environ.get("RAY_ADDRESS"):  # a run is one process, and one at a time where nothing else is said
            needs = replace(needs, workers=1, gpus=0, most_groups=self.config.workers or 1)
        task = next(iter(self.config.tasks))
        size, seed = self.config.sizes_of(task)[0], self.config.seeds[0]
        runs = [self.run_config(name, task, size, {}, seed, {}) for name in self.methods]
        sharing = [run for run in runs if run.backbone.trained_by is None]
        return min((pack_size("auto", run, needs) for run in sharing), default=1)

    def run_of_task(self, task: str) -> RunConfig:
        """The config of one of a task's runs, by which what all of them share is known."""
        method, size = next(iter(self.methods)), self.config.sizes_of(task)[0]
        return self.run_config(method, task, size, {}, self.config.seeds[0], {})

    def run_config(
        self, method: str, task: str, size: FewShotSettings, setting: Setting, seed: int, forced: Setting
    ) -> RunConfig:
        """The checked config of one run; `forced` is what the study decides. Raises ConfigError naming the run."""
        entry = self.methods[method]
        overrides = [*self.config.tasks[task].overrides, *entry.overrides, *self.config.overrides]
        few_shot = {f"data.few_shot.{key}": value for key, value in size.model_dump(exclude_unset=True).items()}
        decided = {**setting, **_NO_SIZE, **few_shot, "seed": seed, **forced}
        try:
            config = compose_config(entry.layers, overrides, decided)
        except ConfigError as error:
            where = f"methods.{method} on {task}, {size_name(size)}, {show_setting(setting)}"
            raise ConfigError(f"{where}: {error}") from None
        # a method's grid is no setting of its runs: a wider grid must not make finished runs differ
        return config.model_copy(update={"search": {}})


def load_study(path: Path, overrides: Sequence[str] = (), home: Path | None = None) -> Study:
    """Read a study file and check the config of every method on every task and size.

    Args:
        path: the file.
        overrides: `seeds=[0]` or `search.budget=1` changes the study; what is no setting of a study changes every run.
        home: what a relative `output_dir` is relative to; the current folder if not given.
    Raises:
        ConfigError: the file, an override, a recipe or any run's settings do not fit.
    """
    config = _resolved(read_study(path, overrides), home or Path.cwd())
    base = read_settings(path.parent / config.base)
    methods = {name: _method(config, name, base, path.parent) for name in config.methods}
    study = Study(config, methods)
    for name, task in itertools.product(methods, config.tasks):
        for size, setting in itertools.product(config.sizes_of(task), methods[name].settings):
            study.run_config(name, task, size, setting, config.seeds[0], {})
    return study


def grid_settings(grid: Mapping[str, Sequence[Any]], budget: int) -> tuple[Setting, ...]:
    """At most `budget` points of a grid, in the grid's order; the same ones for the same grid."""
    size = math.prod(map(len, grid.values()))
    chosen: Sequence[int] = range(size)
    if size > budget:
        chosen = sorted(random.Random(json.dumps(grid, sort_keys=True)).sample(range(size), budget))
    return tuple(_grid_point(grid, number) for number in chosen)


def _grid_point(grid: Mapping[str, Sequence[Any]], number: int) -> Setting:
    """The point of that number, the last setting running fastest; a grid may have more points than memory holds."""
    values: Setting = {}
    for key in reversed(list(grid)):
        number, place = divmod(number, len(grid[key]))
        values[key] = grid[key][place]
    point: Setting = {}
    for key in grid:
        point |= values[key] if key == POINTS else {key: values[key]}
    return point


def show_setting(setting: Setting) -> str:
    """`optim.lr=0.001, prompt.length=4`; a dash for nothing."""
    return show_values(setting) or "-"


def _method(config: StudyConfig, name: str, base: Mapping[str, Any], folder: Path) -> Method:
    entry = config.methods[name]
    try:
        recipe = read_settings(folder / entry.recipe)
    except ConfigError as error:
        raise ConfigError(f"methods.{name}.recipe is {entry.recipe}: {error}") from None
    # runs of a study are short, and are started anew when they are stopped
    lowest = {"engine": {"kind": "plain"}, "checkpoint": {"enabled": False}}
    layers = (lowest, base, recipe)
    grid = compose_config(layers).search
    for key, values in grid.items():
        if not values:
            raise ConfigError(f"search.{key} of {entry.recipe} is empty. Give values to try, or leave it out.")
        if key == POINTS and not all(isinstance(value, Mapping) for value in values):
            raise ConfigError(
                f"search.points of {entry.recipe} is {values}, but each point must name settings that go together, "
                "such as {optim.lr: 0.01, prompt.length: 8}. Write it so."
            )
    settings = grid_settings(grid, config.search.budget)
    return Method(name, layers, tuple(entry.overrides), settings, math.prod(map(len, grid.values())))


def _resolved(config: StudyConfig, home: Path) -> StudyConfig:
    """Environment variables filled in, the output folder absolute, and no override of what a study decides."""
    tasks = {}
    for name, task in config.tasks.items():
        expanded = [_expand(f"tasks.{name}", text) for text in task.overrides]
        tasks[name] = task.model_copy(update={"overrides": expanded})
    lists = {"overrides": config.overrides, **{f"tasks.{name}": task.overrides for name, task in tasks.items()}}
    lists |= {f"methods.{name}.overrides": method.overrides for name, method in config.methods.items()}
    for place, overrides in lists.items():
        for override in overrides:
            key = override.partition("=")[0].strip().lstrip("-")
            if key in DECIDED or key.startswith("search"):
                raise ConfigError(f"{place} sets {key}, but a study decides that itself. {_way_out(key)}")
    folder = str(home.absolute() / Path(config.output_dir).expanduser())
    return config.model_copy(update={"tasks": tasks, "output_dir": folder})


def _way_out(key: str) -> str:
    ways = {
        "seed": "Use `seeds`.",
        "run.output_dir": "Use `output_dir`.",
        "evaluation.test": "Only final runs see the test rows.",
        "data.few_shot.total": "Use `sizes`.",
        "data.few_shot.per_class": "Use `sizes`.",
    }
    return ways.get(key, "Give a method's grid in its recipe." if key.startswith("search") else "Leave it out.")


def _expand(place: str, text: str) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise ConfigError(f"{place} reads the environment variable {match[1]}, which is not set. Set it.")
        return os.environ[match[1]]

    return re.sub(r"\$\{(\w+)\}", value, text)
