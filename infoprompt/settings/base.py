"""What all settings are made of: their base class and numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

LIMIT = 2**31
"""What every whole number stays below: torch, numpy and C take no larger ones everywhere."""

PositiveInt = Annotated[int, Field(gt=0, lt=LIMIT)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=LIMIT)]
AnyInt = Annotated[int, Field(gt=-LIMIT, lt=LIMIT)]
SettingName = Annotated[str, "the dotted name of a run's setting, whose values are read as it says"]


class ConfigError(ValueError):
    """A setting is unknown, mistyped, out of range, or does not fit another."""


class Settings(BaseModel):
    """Frozen, an unknown key is an error, and a number is finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


def files_of(folder: str, besides: Sequence[str]) -> tuple[str, ...]:
    """Names of the Python files in a folder of ours, but for those that hold what the others share."""
    stems = {path.stem for path in (Path(__file__).parents[1] / folder).glob("*.py")}
    return tuple(sorted(stems - {"__init__", *besides}))
