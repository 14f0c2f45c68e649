"""YAML as settings: a file or an override, each value read by the type of its setting.

A setting that is a text gets the text as it stands (`name: 2024`, `{no: bad, 010: agent}`), and a number is decimal.
Only where a setting may be anything does the form of a value decide. A file that is too large, nests too deep, refers
to itself or multiplies by its anchors is refused before anything is built of it. Imports no torch.
"""

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from infoprompt.credentials import shown_uri
from infoprompt.settings import ConfigError, RunConfig, SettingName
from infoprompt.settings.kinds import Models, field_of, model_of_kind, models_of

MAX_BYTES = 2**20
MAX_DEPTH = 32
MAX_VALUES = 100_000
"""Values of a file with each alias written out."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it was built
_TAG = "tag:yaml.org,2002:"
_TAGS = {f"{_TAG}{name}" for name in ("str", "null", "bool", "int", "float", "map", "seq", "merge", "timestamp")}
_NULLS = ("", "~", "null", "Null", "NULL")
_NOT_FINITE = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_INTEGER = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


def read_yaml(path: Path, model: type[BaseModel], what: str = "config") -> dict[str, Any]:
    """The nested settings of a YAML file, each of the type that `model` gives it, not yet checked.

    Args:
        path: the file.
        model: whose settings it holds; what it does not know is read by its form.
        what: the file is called so in errors: `config`, `sweep`, `study`.
    Raises:
        ConfigError: the file is missing, no YAML, not a mapping, or past a limit.
    """
    shipped = {"config": "configs/"}.get(what, f"configs/{'studies' if what == 'study' else 'sweeps'}/")
    if not os.path.isfile(path):  # of a name that no file can have too
        raise ConfigError(f"There is no {what} file {path}. Check the path; shipped ones are in {shipped}.")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. Mend that, or give another file.") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES} bytes, the most that a {what} file may have. Shorten it.")
    try:
        text = content.decode("utf-8-sig")
        values = _built(text, model)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    except _Refused as error:
        raise ConfigError(f"{path}: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        example = {"config": "settings as `section: {key: value}`", "sweep": "`base`, `space` and other settings"}
        holds = example.get(what, "`base`, `methods` and other settings")
        raise ConfigError(f"{path} holds a {type(values).__name__}, but must hold {holds}.")
    return values


def parse_override(override: str, model: type[BaseModel] = RunConfig) -> dict[str, Any]:
    """`section.key=value` as nested settings, the value of the type that `model` gives the setting.

    Text is taken as it is; quotes around all of it are not part of it. Lists and mappings are YAML or JSON.

    Raises:
        ConfigError: it is not of that form, or the value cannot be read.
    """
    place, value = _parsed(override, model)
    nested: dict[str, Any] = {}
    _put(nested, place, value)
    return nested


def apply_override(values: dict[str, Any], override: str, model: type[BaseModel]) -> None:
    """Set what an override says in nested settings, in place; a mapping replaces the one there. Raises ConfigError."""
    place, value = _parsed(override, model)
    _put(values, place, value)


def nested_setting(key: str, value: Any) -> dict[str, Any]:
    """A run's dotted setting with a value of any type, as nested settings."""
    nested: dict[str, Any] = {}
    _put(nested, _place(key, RunConfig).parts, value)
    return nested


def root(override: str) -> str:
    """The first word of an override's key."""
    return override.partition("=")[0].partition(".")[0].strip().lstrip("-")


class _Refused(ConfigError):
    """What a file or a value holds, without the place."""


@dataclass(frozen=True)
class _Place:
    """Where a dotted key leads."""

    parts: list[str]
    kind: Any
    """The type of the setting."""
    anything: Any
    """The type that stands for `Any` within."""


@dataclass
class _Reading:
    """A walk over YAML nodes."""

    count: int = 0
    open: set[int] = field(default_factory=set)
    """Nodes that are being built: one that comes again within itself has no end."""


def _parsed(override: str, model: type[BaseModel]) -> tuple[list[str], Any]:
    key, separator, text = override.partition("=")
    key = key.strip().lstrip("-")
    if not separator or not all(part.strip() for part in key.split(".")):
        raise ConfigError(
            f"The override {shown_uri(override)!r:.120} is not of the form section.key=value, such as optim.lr=3e-3."
        )
    try:
        _checked(key)
        _checked(text)
        place = _place(key, model)
        return place.parts, _value(text.strip(), *_resolved(place.kind, place.anything), place.anything)
    except yaml.YAMLError:
        raise ConfigError(
            f"{key} is {shown_uri(text)!r:.120}, which is not valid YAML. Quote it, or close its brackets."
        ) from None
    except _Refused as error:
        raise ConfigError(f"{key[:100]}: {error}") from None


def _place(key: str, model: type[BaseModel]) -> _Place:
    if key.count(".") > MAX_DEPTH:
        raise _Refused(f"a setting lies at most {MAX_DEPTH} levels down. Write fewer dots.")
    parts: list[str] = []
    kind, anything, rest = model, None, key  # type: Any, Any, str
    while rest:
        kind, _ = _bare(kind)
        if models := models_of(kind):
            part, _, rest = rest.partition(".")
            known = field_of(models, part)
            kind = Any if known is None else known.annotation
        elif get_origin(kind) is dict:
            names, kind = get_args(kind)
            inner, _ = _bare(kind)
            if names == SettingName or not (inner is Any or models_of(inner) or get_origin(inner) is dict):
                part, rest = rest, ""  # the dots are the name's own
            else:
                part, _, rest = rest.partition(".")
            anything = _type_of(part) if names == SettingName else anything
        else:
            (part, _, rest), kind = rest.partition("."), Any
        parts.append(part)
    return _Place(parts, kind, anything)


def _type_of(setting: str) -> Any:
    """The type of a run's dotted setting; `base` may stand among those that a sweep varies."""
    return str if setting == "base" else _place(setting, RunConfig).kind


def _put(values: dict[str, Any], place: list[str], value: Any) -> None:
    *parents, last = place
    for part in parents:
        inner = values.get(part)
        if inner is not None and not isinstance(inner, dict):
            key = ".".join(place)
            raise ConfigError(
                f"{key} is a part of {part}, but that is {inner!r:.100}. Give {part} whole, as a mapping."
            )
        if inner is None:
            values[part] = {}
        values = values[part]
    values[last] = value


def _bare(kind: Any) -> tuple[Any, bool]:
    """A type without its annotations, and whether it may be null."""
    optional = False
    while not models_of(kind) and get_origin(kind) in (Annotated, Union, UnionType):
        members = get_args(kind)[:1] if get_origin(kind) is Annotated else get_args(kind)
        optional |= NoneType in members
        others = [member for member in members if member is not NoneType]
        kind = others[0] if len(others) == 1 else Any
    return kind, optional


def _resolved(kind: Any, anything: Any) -> tuple[Any, bool]:
    bare, optional = _bare(kind)
    if bare is Any and anything is not None:
        return _bare(anything)
    return bare, optional


def _value(text: str, kind: Any, optional: bool, anything: Any) -> Any:
    """What an override says."""
    if models_of(kind) or get_origin(kind) in (list, tuple, dict) or (kind is Any and text[:1] in ("[", "{")):
        return _built(text, kind, anything)
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        try:
            node = _composed(text)
        except yaml.YAMLError:  # such as 'it's'
            node = None
        if isinstance(node, yaml.ScalarNode) and node.style == text[0]:
            return _scalar(node.value, True, kind, optional)
    return _scalar(text, False, kind, optional)


def _built(text: str, kind: Any, anything: Any = None) -> Any:
    node = _composed(text)
    return None if node is None else _from_node(node, kind, anything, _Reading())


def _composed(text: str) -> yaml.Node | None:
    depth = 0
    events: Iterator[Any] = yaml.parse(text, Loader=_LOADER)
    for event in events:  # one after the other: nothing nests yet
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1  # type: ignore[union-attr]
                raise _Refused(f"line {line} nests more than {MAX_DEPTH} levels deep. Write it with fewer brackets.")
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
    node: yaml.Node | None = yaml.compose(text, Loader=_LOADER)
    return node


def _from_node(node: Any, kind: Any, anything: Any, reading: _Reading) -> Any:
    line = node.start_mark.line + 1
    if node.tag not in _TAGS:
        raise _Refused(
            f"line {line} has the tag {node.tag.replace(_TAG, '!!')}, which settings do not need. Remove it."
        )
    reading.count += 1
    if reading.count > MAX_VALUES:
        raise _Refused(f"it holds more than {MAX_VALUES} values once its aliases (*name) are written out. Use fewer.")
    kind, optional = _resolved(kind, anything)
    if isinstance(node, yaml.ScalarNode):
        if get_origin(kind) is list:  # the short form of a list of one, or wrong
            kind, _ = _resolved(get_args(kind)[0], anything)
        return _scalar(node.value, node.style in ("'", '"', "|", ">"), kind, optional)
    if id(node) in reading.open:
        raise _Refused(f"what begins in line {line} refers to itself by an alias (*name). Remove the alias.")
    if len(reading.open) >= MAX_DEPTH:
        raise _Refused(f"line {line} nests more than {MAX_DEPTH} levels deep. Write it with fewer brackets.")
    reading.open.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        kinds = _kinds_of_items(kind, len(node.value), anything)
        built: Any = [_from_node(item, of, anything, reading) for item, of in zip(node.value, kinds, strict=True)]
    else:
        built = {}
        for name, value in _pairs(node, reading):
            of, within = _kind_of_entry(kind, name, anything)
            built[name] = _from_node(value, of, within, reading)
    reading.open.discard(id(node))
    return built


def _pairs(node: yaml.MappingNode, reading: _Reading) -> Iterator[tuple[str, yaml.Node]]:
    """Keys as they are written, with their values; those that `<<` brings first, so that the node's own win."""
    seen: set[str] = set()
    own = []
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise _Refused(f"line {line} has a list or a mapping as a key, but a key must be a text. Quote it.")
        name = _checked(key.value)
        if name in seen:
            raise _Refused(f"{name} is given twice, the second time in line {line}. Remove one.")
        seen.add(name)
        if key.tag != f"{_TAG}merge":
            own.append((name, value))
            continue
        for other in reversed(value.value if isinstance(value, yaml.SequenceNode) else [value]):
            if not isinstance(other, yaml.MappingNode):
                raise _Refused(f"line {line} merges (<<) what is no mapping. Give an alias of a mapping.")
            if id(other) in reading.open:
                raise _Refused(f"line {line} merges (<<) a mapping into itself. Remove it.")
            reading.count += 1
            if reading.count > MAX_VALUES:
                raise _Refused(f"it holds more than {MAX_VALUES} values once merged (<<). Use fewer.")
            reading.open.add(id(other))
            yield from _pairs(other, reading)
            reading.open.discard(id(other))
    yield from own


def _kinds_of_items(kind: Any, number: int, anything: Any) -> list[Any]:
    if models_of(kind):  # the short form of a task: its overrides
        return [anything or str] * number
    kinds = get_args(kind)
    if get_origin(kind) is list:
        return list(kinds) * number
    if get_origin(kind) is tuple:
        return [kinds[min(place, len(kinds) - 1)] for place in range(number)]
    return [Any] * number


def _kind_of_entry(kind: Any, name: str, anything: Any) -> tuple[Any, Any]:
    """The type of a mapping's entry, and what stands for `Any` within it."""
    if models := models_of(kind):
        known = field_of(models, name)
        return (Any, None) if known is None else (known.annotation, anything)
    if get_origin(kind) is dict:
        names, values = get_args(kind)
        return values, _type_of(name) if names == SettingName else anything
    return Any, None


def _scalar(text: str, quoted: bool, kind: Any, optional: bool) -> Any:
    null = not quoted and text in _NULLS
    if kind is str or models_of(kind):
        return None if null and (optional or not text or kind is not str) else _checked(text)
    return None if null else _typed(text, quoted, kind)


def _typed(text: str, quoted: bool, kind: Any) -> Any:
    if kind is bool:
        return _BOOLEANS.get(text.lower(), _checked(text))
    if kind in (int, float):
        return _number(text)
    if get_origin(kind) is Literal:
        named = {str(choice): choice for choice in get_args(kind)}
        numbers = all(isinstance(choice, int) for choice in named.values())
        return named.get(text, _number(text) if numbers else _checked(text))
    if quoted:
        return _checked(text)
    return {"true": True, "false": False}.get(text.lower(), _number(text))


def _number(text: str) -> Any:
    """An `int` or `float` where it is written as one, else the text."""
    if text.lower() in _NOT_FINITE:
        return _NOT_FINITE[text.lower()]
    try:
        if _INTEGER.fullmatch(text):
            return int(text)
        number = float(text) if _NUMBER.fullmatch(text) else None
    except ValueError:  # thousands of digits
        return text
    return _checked(text) if number is None or math.isinf(number) else number


def _checked(text: str) -> str:
    if "\0" in text:
        raise _Refused(f"{text[:40]!r} holds a null character, which neither paths nor records can. Remove it.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _Refused(f"{text[:40]!r} holds what is no character in UTF-8. Write it in UTF-8.") from None
    return text


def section_of(location: Sequence[int | str], model: type[BaseModel]) -> tuple[list[str], Models]:
    """Pydantic's location without the kinds that it puts in, and the models of the section that its last part is in.

    Of a section with kinds the first model is that of its kind, and all follow; of such a section itself, all.
    """
    parts: list[str] = []
    owners: Models = (model,)
    kind: Any = model
    for part in location:
        kind, _ = _bare(kind)
        models = models_of(kind)
        if len(models) > 1:
            kind = model_of_kind(models, part)
            owners = (kind, *models)
            continue
        parts.append(str(part))
        if models:
            owners = owners if owners[0] is kind else models
            known = field_of(models, str(part))
            kind = Any if known is None else known.annotation
        else:
            kind = get_args(kind)[-1] if get_args(kind) else Any
    return parts, models_of(kind) or owners
