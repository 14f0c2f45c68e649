"""From a file and overrides to a checked config, and back to text.

Precedence: defaults, then the objective's preset, then the file (and the file it names as `base`), then dotted
overrides. The settings themselves are in `settings.py`. Imports no torch.
"""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from infoprompt.nested import copy_nested, flat_nested, get_nested, set_nested
from infoprompt.presets import PRESETS
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
    "build_config",
    "compose_config",
    "dump_config",
    "flatten",
    "is_data_file",
    "load_config",
    "override_config",
    "read_settings",
    "setting_keys",
    "setting_reference",
]

# Names people type from memory, and ours.
_KNOWN_ELSEWHERE = {
    "learning_rate": "optim.lr",
    "num_train_epochs": "optim.epochs",
    "num_epochs": "optim.epochs",
    "max_steps": "optim.max_steps",
    "warmup_ratio": "optim.warmup_percent",
    "warmup_steps": "optim.warmup_percent",
    "per_device_train_batch_size": "data.micro_batch_size",
    "batch_size": "data.batch_size",
    "output_dir": "run.output_dir",
    "num_virtual_tokens": "prompt.length",
    "model_name_or_path": "backbone.name",
    "model": "backbone.name",
    "deepspeed": "engine.zero_stage",
    "resume_from_checkpoint": "the --resume option",
}

DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz")


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> RunConfig:
    """Read a config file, apply dotted overrides, check everything.

    Args:
        path: YAML file; its key `base` may name another file, relative to it, whose settings it changes.
        overrides: `section.key=value` strings; the value is read as YAML.
    Returns:
        The checked config, its paths absolute.
    Raises:
        ConfigError: with one line per problem, each naming the setting, its value, the rule and the way out.
    """
    return compose_config([read_settings(path)], overrides)


def compose_config(layers: Sequence[Mapping[str, Any]], overrides: Sequence[str] = ()) -> RunConfig:
    """Nested settings, each changing those before it, then dotted overrides; raises ConfigError."""
    values: dict[str, Any] = {}
    for layer in (*layers, *map(_parse_override, overrides)):
        values = _merge(values, layer)
    return build_config(values)


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The nested settings of a config file and of those it names as `base`, not yet checked; raises ConfigError."""
    return _read(Path(path))


def build_config(values: Mapping[str, Any]) -> RunConfig:
    """Check nested settings and make the config; raises ConfigError."""
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, values))) from None
    return _with_absolute_paths(config)


def override_config(config: RunConfig, overrides: Sequence[str]) -> RunConfig:
    """The same config with dotted overrides applied; raises ConfigError."""
    values: dict[str, Any] = config.model_dump(mode="json")
    for override in overrides:
        values = _merge(values, _parse_override(override))
    return build_config(values)


def dump_config(config: RunConfig) -> str:
    """The resolved config as YAML that loads back to an equal object."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def flatten(config: RunConfig) -> dict[str, str]:
    """Dotted key to value as text, for MLflow params."""
    return {key: str(value) for key, value in flat_nested(config.model_dump(mode="json")).items()}


def setting_keys() -> list[str]:
    """Every dotted key a file or an override may set."""
    return [key for key, _ in _walk(RunConfig)]


def setting_reference(model: type[BaseModel] = RunConfig, prefix: str = "") -> str:
    """Markdown table of every setting of a model, a run's if not given, with its default and text."""
    lines = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for key, field in _walk(model, prefix):
        choices = [str(choice) for choice in get_args(field.annotation) if isinstance(choice, (str, int))]
        text = " ".join((field.description or "").split())
        if choices and not all(choice in text for choice in choices):
            text += f" One of: {', '.join(choices)}."
        default = "-" if field.is_required() else f"`{field.default}`"
        lines.append(f"| `{key}` | {default} | {text.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def is_data_file(source: str) -> bool:
    """Whether `data.train` and its siblings name a file (else a hub split)."""
    return source.endswith(DATA_SUFFIXES) or Path(source).exists()


def _walk(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _walk(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _read(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    path = path.resolve()
    if path in seen:
        raise ConfigError(f"{path} names itself as `base`, by way of {seen[-1]}. Remove one `base`.")
    if not path.is_file():
        raise ConfigError(f"There is no config file {path}. Check the path; shipped ones are in configs/.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path} holds a {type(values).__name__}, but must hold settings as `section: {{key: value}}`."
        )
    base = values.pop("base", None)
    return _merge(_read(path.parent / base, (*seen, path)), values) if base else values


def _parse_override(override: str) -> dict[str, Any]:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"The override {override!r} is not of the form section.key=value, such as optim.lr=3e-3.")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        value = text
    nested: dict[str, Any] = {}
    set_nested(nested, key.strip().lstrip("-"), value)
    return nested


def _merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """`upper` wins. A preset named in `upper` also clears what `lower` had set of the preset's own settings."""
    merged = copy_nested(lower)
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


def _explain(error: ValidationError, values: Mapping[str, Any]) -> Iterator[str]:
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            if isinstance(problem["input"], Mapping) and problem["input"]:  # a mistyped section: name a key in it
                key = f"{key}.{next(iter(problem['input']))}"
            yield f"{key} is not a known setting. {_nearest(key)}"
        elif problem["type"] == "value_error":
            yield str(problem["ctx"]["error"])
        else:
            yield wrong_value(key, problem["input"], problem["msg"])


def wrong_value(key: str, value: Any, message: str) -> str:
    """What to tell of a value that pydantic refuses with `message`."""
    rule = message.removeprefix("Input ").replace("should be", "must be")
    rule = rule[:1].lower() + rule[1:]
    return f"{key} is {value!r}, but {rule}. Change it in the file or by {key}=VALUE."


def _nearest(key: str) -> str:
    last = key.rsplit(".", 1)[-1]
    if last in _KNOWN_ELSEWHERE:
        return f"Did you mean {_KNOWN_ELSEWHERE[last]}?"
    known = setting_keys()
    same_name = [candidate for candidate in known if candidate.rsplit(".", 1)[-1] == last]
    near = same_name or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]}?" if near else "`infoprompt show --settings` lists every setting."


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    # Ray moves its workers to another folder, so no path may stay relative beyond this point.
    absolute = {"output_dir": str(Path(config.run.output_dir).expanduser().absolute())}
    sources = {
        name: str(Path(source).expanduser().absolute())
        for name in ("folder", "train", "validation", "test")
        if (source := getattr(config.data, name)) and is_data_file(source)
    }
    backbone = config.backbone.name
    local = {"name": str(Path(backbone).absolute())} if backbone != "minilm" and Path(backbone).is_dir() else {}
    uri = config.tracking.uri
    if uri and uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        uri = f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    return config.model_copy(
        update={
            "run": config.run.model_copy(update=absolute),
            "data": config.data.model_copy(update=sources),
            "backbone": config.backbone.model_copy(update=local),
            "tracking": config.tracking.model_copy(update={"uri": uri}),
        }
    )
