"""What is wrong with the settings of a file: a line for each problem, with the way out."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from infoprompt.credentials import shown_uri
from infoprompt.nested import get_nested
from infoprompt.setting_table import kinds_with, setting_keys
from infoprompt.settings import LIMIT, RunConfig
from infoprompt.settings.kinds import OWN, Models, field_of, kind_of_model
from infoprompt.yaml_files import section_of

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
            f"{kinds_with(owners[1:], name)}. {way}"
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
