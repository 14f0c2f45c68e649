"""Sections whose settings differ by their `kind`: each is a union with one model for each kind."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from infoprompt.nested import copy_nested, get_nested

OWN = "your own"
"""Stands for every kind that is not shipped."""

Models = tuple[type[BaseModel], ...]


def kind_of(union: Any) -> Callable[[Any], str]:
    """What chooses among the models of a section: its `kind`, the first one's if not given.

    A kind that none of them is of goes to the model of `OWN`, if there is one, which checks it.
    """
    default, *others = map(kind_of_model, models_of(union))

    def chosen(values: Any) -> str:
        kind = values.get("kind", default) if isinstance(values, Mapping) else getattr(values, "kind", default)
        return kind if kind in (default, *others) else OWN

    return chosen


def known_kind(section: str, kind: str, known: Sequence[str], folder: str) -> str:
    """The kind; raises ValueError if no file of the folder is of that name."""
    if kind in known:
        return kind
    raise ValueError(
        f"{section}.kind is {kind}, but kinds are {', '.join(known)}. Choose one, or add a file {kind}.py to {folder}."
    )


def models_of(annotation: Any) -> Models:
    """The models of a section, one for each kind where it has kinds; none for a single setting."""
    if get_origin(annotation) is Annotated:
        return models_of(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        members = [models_of(member) for member in get_args(annotation)]
        return tuple(model for member in members for model in member) if all(members) else ()
    return (annotation,) if isinstance(annotation, type) and issubclass(annotation, BaseModel) else ()


def kind_of_model(model: type[BaseModel]) -> str:
    """The kind whose settings a model of a section holds."""
    kind = model.model_fields["kind"].default
    return kind if isinstance(kind, str) else OWN


def field_of(models: Models, name: str) -> FieldInfo | None:
    """The setting of that name in a section; of several kinds that have it the first one's."""
    return next((model.model_fields[name] for model in models if name in model.model_fields), None)


@cache
def sections_with_kinds(model: type[BaseModel]) -> dict[str, Models]:
    """The models of each section that has kinds, the default kind's first."""
    found = {name: models_of(field.annotation) for name, field in model.model_fields.items()}
    return {name: models for name, models in found.items() if len(models) > 1}


def model_of_kind(models: Models, kind: Any) -> type[BaseModel]:
    """The model of a section's kind; the last one, which is for those of one's own, where none is of that kind."""
    return next((model for model in models if kind_of_model(model) == kind), models[-1])


def of_kind(section: Mapping[str, Any], models: Models, kind: Any) -> dict[str, Any]:
    """A section's settings without those that only other kinds have."""
    own = model_of_kind(models, kind).model_fields
    return {name: value for name, value in section.items() if name in own or field_of(models, name) is None}


def without_left_kinds(
    lower: Mapping[str, Any], uppers: Sequence[Mapping[str, Any]], model: type[BaseModel]
) -> dict[str, Any]:
    """Nested settings without what only those kinds have from which the settings above them turn away.

    Args:
        lower: the settings.
        uppers: those above them, the last of which wins.
        model: whose settings they are.
    """
    kept = copy_nested(lower)
    for name, models in sections_with_kinds(model).items():
        section = kept.get(name)
        kinds = [kind for upper in uppers if (kind := get_nested(upper, f"{name}.kind")) is not None]
        if kinds and isinstance(section, dict) and kinds[-1] != section.get("kind", kind_of_model(models[0])):
            kept[name] = of_kind(section, models, kinds[-1])
            kept[name].pop("options", None)  # each kind of one's own has others
    return kept
