"""Every estimator by its name: that of its file in this folder, which ends in `ESTIMATOR = TheClass`."""

import importlib
from collections.abc import Mapping
from typing import Any

from infoprompt.kernels.estimators.scores import Estimator
from infoprompt.settings import ESTIMATOR_NAMES


def estimator_class(name: str) -> type[Estimator]:
    """The estimator that a setting names."""
    found: type[Estimator] = importlib.import_module(f"infoprompt.kernels.estimators.{name}").ESTIMATOR
    return found


def build_estimator(name: str, settings: Mapping[str, Any]) -> Estimator:
    """An estimator with its parameters, from the settings of the objective by their names."""
    kind = estimator_class(name)
    return kind(**{field: settings[key] for field, key in kind.settings.items()})


ESTIMATORS: dict[str, Estimator] = {name: estimator_class(name)() for name in ESTIMATOR_NAMES}
"""Each with its default parameters."""
