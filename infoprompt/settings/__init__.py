"""Every setting of a run, as frozen pydantic models with their checks.

How files and overrides become these is in `config.py`. Imports no torch, so checks and `--help` are instant.
"""

from infoprompt.settings.base import LIMIT, AnyInt, ConfigError, NonNegativeInt, PositiveInt, SettingName, Settings
from infoprompt.settings.data import DataSettings, FewShotSettings
from infoprompt.settings.head import HEAD_KINDS, HeadSettings
from infoprompt.settings.objective import ESTIMATOR_NAMES, ObjectiveSettings
from infoprompt.settings.prompt import (
    PROMPT_KINDS,
    PromptSettings,
)
from infoprompt.settings.run import RunConfig
from infoprompt.settings.sections import (
    BackboneSettings,
    CheckpointSettings,
    EngineSettings,
    EvaluationSettings,
    OptimSettings,
    RunSettings,
    TrackingSettings,
)

__all__ = [
    "ESTIMATOR_NAMES",
    "HEAD_KINDS",
    "LIMIT",
    "PROMPT_KINDS",
    "AnyInt",
    "BackboneSettings",
    "CheckpointSettings",
    "ConfigError",
    "DataSettings",
    "EngineSettings",
    "EvaluationSettings",
    "FewShotSettings",
    "HeadSettings",
    "NonNegativeInt",
    "ObjectiveSettings",
    "OptimSettings",
    "PositiveInt",
    "PromptSettings",
    "RunConfig",
    "RunSettings",
    "SettingName",
    "Settings",
    "TrackingSettings",
]
