"""Every setting of a run, as frozen pydantic models with their checks.

How files and overrides become these is in `config.py`. Imports no torch, so checks and `--help` are instant.
"""

from infoprompt.settings.base import LIMIT, AnyInt, ConfigError, NonNegativeInt, PositiveInt, SettingName, Settings
from infoprompt.settings.data import DataSettings, FewShotSettings
from infoprompt.settings.head import HEAD_KINDS, AnyHead, HeadSettings
from infoprompt.settings.objective import ESTIMATOR_NAMES, ESTIMATOR_SETTINGS, ObjectiveSettings
from infoprompt.settings.prompt import (
    PROMPT_KINDS,
    AdaptionPromptSettings,
    AnyPrompt,
    InputPromptSettings,
    InstanceLayersSettings,
    InstanceSettings,
    IptSettings,
    LptSettings,
    OwnPromptSettings,
    PrefixSettings,
    PromptSettings,
    PTuningSettings,
    ResidualSettings,
    StartedPromptSettings,
    StaticSettings,
)
from infoprompt.settings.run import (
    BackboneSettings,
    CheckpointSettings,
    EngineSettings,
    EvaluationSettings,
    OptimSettings,
    RunConfig,
    RunSettings,
    TrackingSettings,
)

__all__ = [
    "ESTIMATOR_NAMES",
    "ESTIMATOR_SETTINGS",
    "HEAD_KINDS",
    "LIMIT",
    "PROMPT_KINDS",
    "AdaptionPromptSettings",
    "AnyHead",
    "AnyInt",
    "AnyPrompt",
    "BackboneSettings",
    "CheckpointSettings",
    "ConfigError",
    "DataSettings",
    "EngineSettings",
    "EvaluationSettings",
    "FewShotSettings",
    "HeadSettings",
    "InputPromptSettings",
    "InstanceLayersSettings",
    "InstanceSettings",
    "IptSettings",
    "LptSettings",
    "NonNegativeInt",
    "ObjectiveSettings",
    "OptimSettings",
    "OwnPromptSettings",
    "PTuningSettings",
    "PositiveInt",
    "PrefixSettings",
    "PromptSettings",
    "ResidualSettings",
    "RunConfig",
    "RunSettings",
    "SettingName",
    "Settings",
    "StartedPromptSettings",
    "StaticSettings",
    "TrackingSettings",
]
