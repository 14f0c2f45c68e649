"""A sweep's search space: its dimensions, and the points that grids and draws make of them."""

import itertools
import json
import math
import random
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field, PositiveFloat, field_validator, model_validator

from infoprompt.config import ConfigError, Settings
from infoprompt.settings import AnyInt, SettingName

MAX_TRIALS = 10_000
KINDS = ("grid", "choice", "uniform", "log_uniform", "integer")


class Dimension(Settings):
    """The values of one setting; exactly one of grid, choice, uniform, log_uniform, integer is given."""

    grid: list[Any] | None = Field(default=None, min_length=1)
    """Every value, with every value of the other grids."""

    choice: list[Any] | None = Field(default=None, min_length=1)
    """One of these, drawn for each sample."""

    uniform: tuple[float, float] | None = None
    """Between these two, drawn for each sample."""

    log_uniform: tuple[PositiveFloat, PositiveFloat] | None = None
    """The same with an even logarithm, as for learning rates."""

    integer: tuple[AnyInt, AnyInt] | None = None
    """A whole number from the first to the second, both included."""

    when: dict[SettingName, list[Any]] = Field(default={})
    """Only where each of these other dimensions has one of the values; elsewhere the setting stays as it is."""

    @model_validator(mode="before")
    @classmethod
    def _says_how(cls, values: Any) -> Any:
        if not isinstance(values, (Mapping, Dimension)):
            raise ValueError(f"is {values!r:.100}, but must say how it varies. Write {{grid: [...]}}.")
        return values

    @field_validator("uniform", "log_uniform", "integer", mode="before")
    @classmethod
    def _two_ends(cls, ends: Any) -> Any:
        if ends is not None and (not isinstance(ends, (list, tuple)) or len(ends) != 2):
            raise ValueError(f"is {ends!r:.100}, but must be two numbers, the ends of a range, such as [1e-4, 1e-2].")
        return ends

    @field_validator("when", mode="before")
    @classmethod
    def _lists(cls, when: Any) -> Any:
        if not isinstance(when, dict):
            return when
        return {key: values if isinstance(values, list) else [values] for key, values in when.items()}

    @model_validator(mode="after")
    def _one_kind(self) -> "Dimension":
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"gives {' and '.join(given) or 'nothing'}, but must give exactly one of {', '.join(KINDS)}, such as "
                "{grid: [1e-3, 3e-3]}."
            )
        low, high = self.uniform or self.log_uniform or self.integer or (0, 1)
        if low >= high:
            raise ValueError(f"is {given[0]} from {low} to {high}, but the first must be the lower one. Exchange them.")
        return self

    @property
    def listed(self) -> list[Any] | None:
        """The values of a grid or a choice."""
        return self.grid if self.grid is not None else self.choice

    @property
    def extremes(self) -> list[Any]:
        """Every listed value, or both ends of a range: what is checked before anything starts."""
        return list(self.listed or self.uniform or self.log_uniform or self.integer or ())

    def applies(self, point: Mapping[str, Any]) -> bool:
        """Whether the setting is searched at a point of the dimensions before it."""
        return all(key in point and point[key] in values for key, values in self.when.items())

    def draw(self, source: random.Random) -> Any:
        """One value, evenly; of a grid too."""
        if self.listed is not None:
            return source.choice(self.listed)
        if self.uniform is not None:
            return source.uniform(*self.uniform)
        if self.integer is not None:
            return source.randint(*self.integer)
        assert self.log_uniform is not None
        return math.exp(source.uniform(*map(math.log, self.log_uniform)))

    def perturb(self, value: Any, source: random.Random) -> Any:
        """A neighbour of a value: times 0.8 or 1.2 within the range, or the choice before or after."""
        if self.listed is not None:
            place = self.listed.index(value) + source.choice((-1, 1))
            return self.listed[min(max(place, 0), len(self.listed) - 1)]
        low, high = self.uniform or self.log_uniform or self.integer or (0, 0)
        moved = value * source.choice((0.8, 1.2))
        if self.integer is not None:  # small ones would be rounded back to what they were
            moved = value + math.copysign(max(1, round(abs(moved - value))), moved - value)
            return int(min(max(moved, low), high))
        return min(max(moved, low), high)

    def has(self, value: Any) -> bool:
        """Whether it is one of the values."""
        if self.listed is not None:
            return value in self.listed
        low, high = self.uniform or self.log_uniform or self.integer or (0, 0)
        number = isinstance(value, int if self.integer is not None else (int, float))
        return number and low <= value <= high


Space = Mapping[str, Dimension]


def check_conditions(space: Space) -> None:
    """Raise ConfigError for a `when` that names no earlier dimension, or a value it never has."""
    before: list[str] = []
    for key, dimension in space.items():
        for other, values in dimension.when.items():
            if other not in before:
                raise ConfigError(
                    f"space.{key}.when names {other}, which is no dimension before it. Name one of "
                    f"{', '.join(before) or 'those above it (there are none)'}, or put it above."
                )
            listed = space[other].listed
            if listed is None:
                raise ConfigError(
                    f"space.{key}.when names {other}, which has a range, but must name one with listed values. Give "
                    f"those of {other} as grid or choice."
                )
            if not values:
                raise ConfigError(f"space.{key}.when.{other} is [], but must have a value. Give some of {listed}.")
            for value in values:
                if value not in listed:
                    raise ConfigError(
                        f"space.{key}.when asks for {other}={value}, but that has only {listed}. Use one of these."
                    )
        before.append(key)


def point_of(space: Space, value_of: Callable[[str, Dimension], Any]) -> dict[str, Any]:
    """A point: the value that is given for each dimension that applies, in the order of the space."""
    point: dict[str, Any] = {}
    for key, dimension in space.items():
        if dimension.applies(point):
            point[key] = value_of(key, dimension)
    return point


def is_point(space: Space, values: Mapping[str, Any]) -> bool:
    """Whether these values could be drawn from the space."""
    applying = point_of(space, lambda key, _: values.get(key))
    return applying == dict(values) and all(space[key].has(value) for key, value in values.items())


def expand(space: Space, num_samples: int = 1, seed: int = 0) -> list[dict[str, Any]]:
    """Every trial's settings: for each sample, its draws with each point of the grids, the last grid running fastest.

    A point that comes again, as may happen among choices, is left out: its runs would repeat the first one's exactly.

    Raises:
        ConfigError: several samples of a space without anything to draw would be the same trials again.
    """
    grids = {key: dimension.grid for key, dimension in space.items() if dimension.grid is not None}
    drawn = [key for key in space if key not in grids]
    if num_samples > 1 and not drawn:
        raise ConfigError(
            f"num_samples is {num_samples}, but space has only grids: each trial would be repeated as it is. "
            "Leave it out; to repeat with other seeds, add `seeds: [0, 1, 2]`."
        )
    planned = num_samples * math.prod(map(len, grids.values()))
    if planned > MAX_TRIALS:
        raise ConfigError(
            f"num_samples is {num_samples} and the grids of space have {planned // num_samples} points, {planned} "
            f"trials in all, but at most {MAX_TRIALS} can be planned. Give fewer values, choice in place of grid, or "
            "searcher=optuna."
        )
    points: dict[str, dict[str, Any]] = {}
    for sample in range(num_samples):
        # a source of its own for each setting: adding one to the space does not change the others' draws
        draws = {key: space[key].draw(random.Random(f"{seed} {sample} {key}")) for key in drawn}
        for combination in itertools.product(*grids.values()):
            values = {**draws, **dict(zip(grids, combination, strict=True))}
            point = point_of(space, lambda key, _, values=values: values[key])  # type: ignore[misc]
            points.setdefault(json.dumps(point), point)
    return list(points.values())


def corners(space: Space) -> list[dict[str, Any]]:
    """Points that between them have every listed value and both ends of every range, for checking them."""
    firsts = {key: dimension.extremes[0] for key, dimension in space.items()}
    points = {}
    for varied, dimension in space.items():
        for value in dimension.extremes:
            wanted = {**firsts, **_conditions(space, varied), varied: value}
            point = point_of(space, lambda key, _, wanted=wanted: wanted[key])  # type: ignore[misc]
            points[json.dumps(point)] = point
    return list(points.values())


def _conditions(space: Space, key: str) -> dict[str, Any]:
    """Values of other dimensions with which this one applies."""
    met: dict[str, Any] = {}
    for other, values in space[key].when.items():
        met |= {**_conditions(space, other), other: values[0]}
    return met
