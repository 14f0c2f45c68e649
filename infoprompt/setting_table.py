"""Every setting of a model by its dotted key, which kinds it is for, and the table of them in Markdown."""

from collections.abc import Iterator
from typing import get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from infoprompt.settings import RunConfig
from infoprompt.settings.kinds import Models, field_of, kind_of_model, models_of


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
                kinds = kinds_with(models, setting)
                yield f"{prefix}{name}.{setting}", described, f"For {kinds}: " if kinds else ""


def kinds_with(models: Models, setting: str) -> str:
    """The kinds that have a setting, in words; empty if all have it."""
    have = [kind_of_model(model) for model in models if setting in model.model_fields]
    lack = [kind_of_model(model) for model in models if setting not in model.model_fields]
    if len(lack) == 1:
        return f"every kind but {lack[0]}"
    return (", ".join(have[:-1]) + " and " + have[-1] if len(have) > 1 else have[0]) if lack else ""
