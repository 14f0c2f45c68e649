"""From a file and overrides to a checked config, and back to text.

Precedence: defaults, then the objective's preset, then the file (and the file it names as `base`), then dotted
overrides. The settings themselves are in `settings.py`. Imports no torch.
"""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from infoprompt.credentials import shown_uri, without_credentials
from infoprompt.nested import copy_nested, flat_nested, get_nested
from infoprompt.presets import PRESETS
from infoprompt.settings import (
    LIMIT,
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
from infoprompt.settings.kinds import OWN, Models, field_of, kind_of_model, models_of, without_left_kinds
from infoprompt.settings.objective import without_unread
from infoprompt.settings.run import of_chosen_kinds
from infoprompt.yaml_files import apply_override, nested_setting, parse_override, read_yaml, section_of

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
    "explain",
    "flatten",
    "is_data_file",
    "load_config",
    "override_config",
    "parse_override",
    "read_settings",
    "read_yaml",
    "saved_values",
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

MAX_BASES = 32
_FREE = ("run.", "engine.", "tracking.", "checkpoint.", "search")
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


def setting_keys() -> list[str]:
    """Every dotted key a file or an override may set."""
    return [key for key, _, _ in _walk(RunConfig)]


def setting_reference(model: type[BaseModel] = RunConfig, prefix: str = "") -> str:
    """Markdown table of every setting of a model, a run's if not given, with its default and text."""
    lines = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for key, field, kinds in _walk(model, prefix):
        choices = [str(choice) for choice in get_args(field.annotation) if isinstance(choice, (str, int))]
        text = " ".join((field.description or "").split())
        if choices and not all(choice in text for choice in choices):
            text += f" One of: {', '.join(choices)}."
        default = "-" if field.is_required() else f"`{field.default}`"
        lines.append(f"| `{key}` | {default} | {kinds}{text.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def is_data_file(source: str) -> bool:
    """Whether `data.train` and its siblings name a file, a folder or a pattern such as *.csv (else a hub split)."""
    return source.lower().endswith(DATA_SUFFIXES) or "*" in source or "?" in source or os.path.exists(source)


class _ConfigFile(RunConfig):
    """A config file: settings, and the file that they change."""

    base: str | None = None


def _walk(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo, str]]:
    """Every setting below a model with its field, and which kinds of its section it is for, where not for all."""
    for name, field in model.model_fields.items():
        models = models_of(field.annotation)
        if not models:
            yield f"{prefix}{name}", field, ""
        elif len(models) == 1:
            yield from _walk(models[0], f"{prefix}{name}.")
        else:
            for setting in dict.fromkeys(setting for model in models for setting in model.model_fields):
                described = field_of(models, setting)
                assert described is not None
                kinds = _kinds_with(models, setting)
                yield f"{prefix}{name}.{setting}", described, f"For {kinds}: " if kinds else ""


def _kinds_with(models: Models, setting: str) -> str:
    """The kinds that have a setting, in words; empty if all have it."""
    have = [kind_of_model(model) for model in models if setting in model.model_fields]
    lack = [kind_of_model(model) for model in models if setting not in model.model_fields]
    if len(lack) == 1:
        return f"every kind but {lack[0]}"
    return (", ".join(have[:-1]) + " and " + have[-1] if len(have) > 1 else have[0]) if lack else ""


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
    merged = without_left_kinds(lower, uppers, RunConfig)
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


def explain(error: ValidationError, model: type[BaseModel], example: str = "") -> Iterator[str]:
    """A line for each problem that pydantic found: the setting, its value, the rule and the way out.

    Args:
        error: what checking raised.
        model: what was checked.
        example: a shipped file that gives all settings that must be given.
    """
    problems = error.errors()
    of_no_kind = {problem["loc"][:-1] for problem in problems if problem["loc"][-1:] == ("kind",)}
    for problem in problems:
        parts, owners = section_of(problem["loc"], model)
        key = ".".join(parts)
        if problem["type"] == "extra_forbidden":
            if problem["loc"][:-1] not in of_no_kind:
                yield _unknown(problem, parts, owners, model)
        elif problem["type"] == "union_tag_invalid":
            *kinds, last = (repr(kind_of_model(owner)) for owner in owners)
            given = shown_value(get_nested(problem["input"], "kind"))
            rule = f"must be {', '.join(kinds)} or {last}. Change it in the file or by {key}.kind=VALUE"
            yield f"{key}.kind is {given}, but {rule}."
        elif problem["type"] == "missing":
            way = f", as {example} does." if example and len(owners) == 1 else f" by {key}=VALUE."
            yield f"{key} is missing. Give it{way}"
        elif problem["type"] == "value_error":
            text = str(problem["ctx"]["error"])
            yield f"{key} {text}" if text.startswith(_WITHOUT_KEY) else text
        else:
            rule = problem["msg"].removeprefix("Input ").replace("should be", "must be")
            rule = rule[:1].lower() + rule[1:]
            if problem["type"] == "int_parsing_size":
                rule = f"must be a whole number below {LIMIT}"
            # what lies in a list or under a name with dots is no word of an override
            plain = not any(isinstance(part, int) or "." in part for part in problem["loc"])
            way = f"Change it in the file or by {key}=VALUE" if plain else "Change it in the file"
            yield f"{key} is {shown_value(problem['input'])}, but {rule}. {way}."


_WITHOUT_KEY = ("is ", "gives ", "must ")


def shown_value(value: Any) -> str:
    """A value as errors show it: shortened, and without credentials."""
    text = shown_uri(repr(value))
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


def _unknown(problem: ErrorDetails, parts: Sequence[str], owners: Models, model: type[BaseModel]) -> str:
    key, value, name = ".".join(parts), problem["input"], parts[-1]
    if field_of(owners, name):
        kind, its_kind = ".".join([*parts[:-1], "kind"]), kind_of_model(owners[0])
        way = f"Leave it out, or change {kind}." if its_kind != OWN else "Leave it out, or put it in prompt.options."
        return (
            f"{key} is {shown_value(value)}, but {kind} is {its_kind}, and that setting is for "
            f"{_kinds_with(owners[1:], name)}. {way}"
        )
    if model is RunConfig:
        if isinstance(value, Mapping) and value:  # a mistyped section: name a key in it
            key = f"{key}.{next(iter(value))}"
        return f"{key[:200]} is not a known setting. {_nearest(key)}"
    near = difflib.get_close_matches(name, owners[0].model_fields, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(owners[0].model_fields)}."
    return f"{key[:200]} is not a known setting. {hint}"


def _nearest(key: str) -> str:
    last = key.rsplit(".", 1)[-1]
    if last in _KNOWN_ELSEWHERE:
        return f"Did you mean {_KNOWN_ELSEWHERE[last]}?"
    known = setting_keys()
    same_name = [candidate for candidate in known if candidate.rsplit(".", 1)[-1] == last]
    near = same_name or difflib.get_close_matches(key[:100], known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]}?" if near else "`infoprompt show --settings` lists every setting."


def _absolute_source(source: str | list[str]) -> str | list[str]:
    if isinstance(source, list):
        return [str(_absolute_source(one)) for one in source]
    return _absolute(source) if is_data_file(source) else source


def _with_absolute_paths(config: RunConfig) -> RunConfig:
    # Ray moves its workers to another folder, so no path may stay relative beyond this point.
    absolute = {"output_dir": _absolute(config.run.output_dir)}
    sources = {
        name: _absolute_source(source)
        for name in ("folder", "train", "validation", "test")
        if (source := getattr(config.data, name))
    }
    backbone = config.backbone.name
    local = {"name": str(Path(backbone).absolute())} if backbone != "minilm" and os.path.isdir(backbone) else {}
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


def _absolute(path: str) -> str:
    return str(Path(os.path.expanduser(path)).absolute())
