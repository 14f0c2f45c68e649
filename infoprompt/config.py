"""From a file and overrides to a checked config, and back to text.

Precedence: defaults, then the objective's preset, then the file (and the file it names as `base`), then dotted
overrides. The settings themselves are in `settings.py`. Imports no torch.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import ValidationError

from infoprompt.credentials import without_credentials
from infoprompt.embedded import EMBEDDED
from infoprompt.nested import copy_nested, flat_nested, get_nested
from infoprompt.presets import PRESETS
from infoprompt.setting_errors import explain, shown_value
from infoprompt.settings import (
    BackboneSettings,
    CheckpointSettings,
    ConfigError,
    DataSettings,
    EngineSettings,
    EvaluationSettings,
    FewShotSettings,
    HeadSettings,
    ObjectiveSettings,
    OptimSettings,
    PromptSettings,
    RunConfig,
    RunSettings,
    Settings,
    TrackingSettings,
)
from infoprompt.settings.kinds import without_left_kinds
from infoprompt.settings.objective import LABEL_FORMS, without_unread
from infoprompt.settings.run import of_chosen_kinds
from infoprompt.settings.sections import SAVINGS
from infoprompt.yaml_files import apply_override, nested_setting, parse_override, read_yaml

__all__ = [
    "DATA_SUFFIXES",
    "PRESETS",
    "BackboneSettings",
    "CheckpointSettings",
    "ConfigError",
    "DataSettings",
    "EngineSettings",
    "EvaluationSettings",
    "FewShotSettings",
    "HeadSettings",
    "ObjectiveSettings",
    "OptimSettings",
    "PromptSettings",
    "RunConfig",
    "RunSettings",
    "Settings",
    "TrackingSettings",
    "apply_override",
    "build_config",
    "changed_setting",
    "compose_config",
    "dump_config",
    "flatten",
    "is_data_file",
    "load_config",
    "names_files",
    "override_config",
    "parse_override",
    "read_settings",
    "read_yaml",
    "saved_values",
]


MAX_BASES = 32
_FREE = ("run.", "engine.", "tracking.", "checkpoint.", "search", *(f"backbone.{key}" for key in SAVINGS))
NOTHING: Mapping[str, Any] = MappingProxyType({})

DATA_SUFFIXES = (
    *(".jsonl", ".json", ".csv", ".tsv", ".parquet"),
    *(kind + packed for kind in (".jsonl", ".json", ".csv", ".tsv") for packed in (".gz", ".bz2", ".xz", ".zst")),
)


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> RunConfig:
    """Read a config file, apply dotted overrides, check everything.

    Args:
        path: YAML file; its key `base` may name another file, relative to it, whose settings it changes.
        overrides: `section.key=value` strings, see `parse_override`.
    Returns:
        The checked config, its paths absolute.
    Raises:
        ConfigError: with one line per problem, each naming the setting, its value, the rule and the way out.
    """
    return compose_config([read_settings(path)], overrides)


def compose_config(
    layers: Sequence[Mapping[str, Any]], overrides: Sequence[str] = (), last: Mapping[str, Any] = NOTHING
) -> RunConfig:
    """Nested settings, each changing those before it, then dotted overrides, then dotted settings with their values.

    Raises:
        ConfigError: with one line per problem.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        values = _above(values, [layer])
    values = _above(values, [*map(parse_override, overrides)])
    values = _above(values, [nested_setting(key, value) for key, value in last.items()])
    return build_config(values)


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The nested settings of a config file and of those it names as `base`, not yet checked; raises ConfigError."""
    return _read(Path(path))


def build_config(values: Mapping[str, Any]) -> RunConfig:
    """Check nested settings and make the config; raises ConfigError."""
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(error, RunConfig))) from None
    return _with_absolute_paths(config)


def override_config(config: RunConfig, overrides: Sequence[str], last: Mapping[str, Any] = NOTHING) -> RunConfig:
    """The same config with dotted overrides applied, then dotted settings with their values; raises ConfigError."""
    values: dict[str, Any] = config.model_dump(mode="json")
    if config.head.pooling == "mean":  # what it is where nothing is given, so another head.kind may bring its own
        values["head"]["pooling"] = None
    return compose_config([values], overrides, last)


def saved_values(config: RunConfig) -> dict[str, Any]:
    """The resolved config as plain nested values for whatever is shown or saved: without credentials."""
    values: dict[str, Any] = without_credentials(config.model_dump(mode="json"))
    return values


def dump_config(config: RunConfig) -> str:
    """The resolved config as YAML that loads back to an equal object, but for credentials, which are left out."""
    return yaml.safe_dump(saved_values(config), sort_keys=False, allow_unicode=True)


def flatten(config: RunConfig) -> dict[str, str]:
    """Dotted key to value as text without credentials, for MLflow params."""
    return {key: str(value) for key, value in flat_nested(saved_values(config)).items()}


def changed_setting(now: RunConfig, before: RunConfig, free: Sequence[str] = ()) -> tuple[str, str, str | None] | None:
    """The first setting that differs and decides what is trained, with its value now and before; None if none does.

    Where a run writes, who watches it and what computes it may change while a run, a study or a sweep goes on.

    Args:
        now: the config to go on with.
        before: the one that it was started with.
        free: further settings that may differ.
    """
    then = flatten(before)
    for key, value in flatten(now).items():
        if then.get(key) != value and not key.startswith(_FREE) and key not in free:
            return key, value, then.get(key)
    return None


def is_data_file(source: str) -> bool:
    """Whether `data.train` and its siblings name a file, a folder or a pattern such as *.csv (else a hub split)."""
    return source.lower().endswith(DATA_SUFFIXES) or "*" in source or "?" in source or os.path.exists(source)


def names_files(source: str) -> bool:
    """The same of `data.unlabelled` too, which may name a file of plain texts."""
    return is_data_file(source) or source.lower().endswith(".txt")


class _ConfigFile(RunConfig):
    """A config file: settings, and the file that they change."""

    base: str | None = None


def _read(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    path = Path(os.path.realpath(os.path.expanduser(path)))
    if path in seen:
        raise ConfigError(f"{path} names itself as `base`, by way of {seen[-1]}. Remove one `base`.")
    if len(seen) >= MAX_BASES:
        raise ConfigError(f"{seen[0]} has more than {MAX_BASES} files below it by `base`. Join some of them.")
    values = of_chosen_kinds(read_yaml(path, _ConfigFile))
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base is {shown_value(base)}, but must be the path of one file, such as base.yaml.")
    return _above(_read(path.parent / base, (*seen, path)), [values])


def _above(lower: Mapping[str, Any], uppers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`lower` with the settings of one level above it, the last of which wins.

    Where they change a kind or an estimator, `lower` loses the settings that only its own has.
    """
    presets = [get_nested(upper, "objective.preset") for upper in uppers]
    named = [preset for preset in presets if preset in PRESETS and preset != get_nested(lower, "objective.preset")]
    of_preset = [nested_setting("head.kind", PRESETS[preset]["head.kind"]) for preset in named]
    merged = without_left_kinds(lower, [*of_preset, *uppers], RunConfig)
    keys = ("objective.head_estimator", "objective.representation_estimator")
    before = [get_nested(lower, key, "infonce") for key in keys]
    estimators = before
    for upper in uppers:
        estimators = [get_nested(upper, key, earlier) for key, earlier in zip(keys, estimators, strict=True)]
    if estimators != before and isinstance(merged.get("objective"), dict):
        merged["objective"] = without_unread(merged["objective"], estimators)
    for upper in uppers:
        merged = _merge(merged, upper)
    return merged


def _merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """`upper` wins. A preset or form named in `upper` also clears what `lower` had set of its own settings."""
    merged = copy_nested(lower)
    if get_nested(upper, "objective.label_form") not in (None, get_nested(lower, "objective.label_form", "off")):
        for key in LABEL_FORMS["off"]:
            _remove(merged, f"objective.{key}")
    if get_nested(upper, "objective.preset") not in (None, get_nested(lower, "objective.preset")):
        for key in (*PRESETS["paper"], "objective.loss_cap"):  # the last is the one cap of earlier versions
            _remove(merged, key)
    for key, value in upper.items():
        old = merged.get(key)
        replace = key == "compare_with"
        merged[key] = (
            _merge(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) and not replace else value
        )
    return merged


def _remove(values: dict[str, Any], dotted: str) -> None:
    section, key = dotted.split(".")
    if isinstance(values.get(section), dict):
        values[section].pop(key, None)


def _absolute_source(source: str | list[str]) -> str | list[str]:
    if isinstance(source, list):
        return [str(_absolute_source(one)) for one in source]
    return _absolute(source) if names_files(source) else source


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    # Ray moves its workers to another folder, so no path may stay relative beyond this point.
    absolute = {"output_dir": _absolute(config.run.output_dir)}
    sources = {
        name: _absolute_source(source)
        for name in ("folder", "train", "validation", "test", "unlabelled")
        if (source := getattr(config.data, name))
    }
    predictions = config.evaluation.predictions
    given = {} if predictions is None else {"predictions": _absolute(predictions)}
    backbone = config.backbone.name
    local = {"name": str(Path(backbone).absolute())} if backbone not in EMBEDDED and os.path.isdir(backbone) else {}
    uri = config.tracking.uri
    if uri and uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        uri = f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    return config.model_copy(
        update={
            "run": config.run.model_copy(update=absolute),
            "data": config.data.model_copy(update=sources),
            "evaluation": config.evaluation.model_copy(update=given),
            "backbone": config.backbone.model_copy(update=local),
            "tracking": config.tracking.model_copy(update={"uri": uri}),
        }
    )


def _absolute(path: str) -> str:
    return str(Path(os.path.expanduser(path)).absolute())
