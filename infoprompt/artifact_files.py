"""The folder of an artifact, written and read: whole or not at all, and checked before anything is built of it.

prompt.safetensors   what was trained and is read when predicting, float32
config.json          resolved config, task, backbone with fingerprint, scores
README.md            model card
manifest.json        sizes and checksums
MLmodel              what MLflow loads it by, with three small files, see mlmodel.py
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from infoprompt.checkpoint import MANIFEST, check_manifest, write_manifest
from infoprompt.config import RunConfig, build_config, is_data_file, saved_values
from infoprompt.data.task import Task
from infoprompt.embedded import published_name
from infoprompt.example import example_code
from infoprompt.files import heal, read_object, whole_folder
from infoprompt.metrics import METRICS
from infoprompt.mlmodel import FILES as MLMODEL_FILES
from infoprompt.mlmodel import write_mlmodel
from infoprompt.model.heads.kind import head_kind
from infoprompt.tensor_file import save_tensors

FORMAT_VERSION = 1
TENSORS, CARD = "prompt.safetensors", "config.json"
FILES = (TENSORS, CARD, "README.md", MANIFEST, *MLMODEL_FILES)


class ArtifactError(ValueError):
    """An artifact is damaged, of another format, or made for another backbone."""


@contextlib.contextmanager
def own_folder(folder: Path, files: Sequence[str]) -> Iterator[Path]:
    """An empty folder to write to, which has the name `folder` when the body has ended; see `whole_folder`.

    Args:
        folder: where it goes in the end.
        files: names that may be overwritten there.
    Raises:
        ArtifactError: it holds something else, which would be lost, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder} is a file. Name a folder.")
    others = sorted(path.name for path in folder.iterdir() if path.name not in files) if folder.exists() else []
    if others:
        raise ArtifactError(f"{folder} holds other files ({', '.join(others[:3])}). Give a folder of its own.")
    with whole_folder(folder) as new:
        yield new


def save_artifact(
    folder: Path,
    trained: Mapping[str, Tensor],
    config: RunConfig,
    task: Task,
    *,
    fingerprint: str,
    scores: Mapping[str, Any],
    trained_parameters: int | None = None,
) -> None:
    """Write an artifact folder, whole or not at all; the critics' parameters are left out.

    Args:
        folder: to write.
        trained: what was trained, by name.
        config: of the run.
        task: what it predicts.
        fingerprint: of the backbone.
        scores: by part, for the card.
        trained_parameters: how many were trained, if `trained` has lost those that only training reads.
    Raises:
        ArtifactError: the folder holds something else, which would be lost.
        OSError: it cannot be written; an earlier artifact stays.
    """
    kept = {name: tensor.cpu() for name, tensor in trained.items() if _read_when_predicting(name, config)}
    card = {
        "format_version": FORMAT_VERSION,
        "backbone": {"name": config.backbone.name, "revision": config.backbone.revision, "fingerprint": fingerprint},
        "task": task.to_dict(),
        "scores": dict(scores),
        "parameters": sum(tensor.numel() for tensor in kept.values()),
        "trained_parameters": trained_parameters or sum(tensor.numel() for tensor in trained.values()),
        "config": shared_values(config),
    }
    with own_folder(folder, FILES) as new:
        save_tensors(new / TENSORS, kept, metadata={"format": "pt"})
        (new / CARD).write_text(json.dumps(card, indent=1, ensure_ascii=False), encoding="utf-8")
        (new / "README.md").write_text(_model_card(card), encoding="utf-8")
        write_mlmodel(new, task)
        write_manifest(new)


def _read_when_predicting(name: str, config: RunConfig) -> bool:
    unread = [
        "head_critic.",
        "representation_critic.",
        "head_baseline.",
        "representation_baseline.",
        "gaussian.log_std.",
    ]
    if not head_kind(config.head.kind).latent:
        unread.append("gaussian.")
    return not name.startswith(tuple(unread))


class _BackboneCard(BaseModel):
    model_config = ConfigDict(strict=True)
    name: str
    revision: str | None = None
    fingerprint: str


class _Card(BaseModel):
    """What `config.json` must hold; a later version may add to it."""

    model_config = ConfigDict(strict=True)
    backbone: _BackboneCard
    task: dict[str, Any]
    scores: dict[str, Any]
    config: dict[str, Any]


def read_card(folder: Path) -> dict[str, Any]:
    """`config.json` of an artifact; raises ArtifactError where the folder is none, is damaged, or does not fit."""
    heal(folder)
    if not (folder / CARD).is_file():
        raise ArtifactError(f"There is no artifact in {folder.absolute()}. Give the folder that training printed.")
    problem = check_manifest(folder, needed=(TENSORS, CARD))
    if problem:
        raise ArtifactError(f"The artifact {folder} is damaged: {problem}. Copy it again, or train it again.")
    try:
        card = read_object(folder / CARD)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"The artifact {folder} is damaged: {error}. Copy it again, or train it again.") from None
    if card.get("format_version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{folder} has the artifact format {card.get('format_version')!r}, but this version reads "
            f"{FORMAT_VERSION}. Use the infoprompt version that wrote it."
        )
    try:
        _Card.model_validate(card)
        _check_task(card["task"])
        build_config(card["config"])
        predicting_config(card)
    except ValidationError as error:
        raise _unreadable(folder, _first_problem(error)) from None
    except (ValueError, OSError, RuntimeError) as error:  # the last two: of paths that no system has
        raise _unreadable(folder, str(error)) from None
    return card


def _check_task(values: Mapping[str, Any]) -> None:
    """Raise ValueError if these are not the fields of a task, or they contradict each other."""
    known = Task.__dataclass_fields__.keys() - {"source"}
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"task has the unknown {', '.join(unknown)}.")
    task = TypeAdapter(Task).validate_python(dict(values))
    if len(task.labels) != len(task.label_texts) or len(set(task.labels)) != len(task.labels):
        raise ValueError("task.labels are not one name for each of task.label_texts.")
    if task.kind != "regression" and not task.labels:
        raise ValueError(f"task.labels is empty, but task.kind is {task.kind}.")
    if not task.metrics or not set(task.metrics) <= METRICS.keys():
        raise ValueError(f"task.metrics is {list(task.metrics)}, but metrics are {', '.join(METRICS)}.")


def _unreadable(folder: Path, why: str) -> ArtifactError:
    return ArtifactError(
        f"The {CARD} of {folder} is not one that this version reads: {why} Use the infoprompt version that wrote it, "
        "or train it again."
    )


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}."


def predicting_config(card: Mapping[str, Any]) -> RunConfig:
    """The config that an artifact's model is built of, without what only training has."""
    values = dict(card["config"])
    for section in ("objective", "prompt"):
        if not isinstance(values.get(section), Mapping):
            raise ArtifactError(f"config.{section} is {values.get(section)!r}, but must hold settings.")
    # The critics are of no use any more; without their weights the model is built without them.
    values["objective"] = {**values["objective"], "head_weight": 0, "representation_weight": 0, "kl_weight": 0}
    # Nor are the files that training started from.
    values["prompt"] = {**values["prompt"], **dict.fromkeys(values["prompt"].keys() & {"start_from", "table"})}
    if card["config"]["prompt"].get("table"):
        values["prompt"]["init"] = "random"
    return build_config(values)


def shared_values(config: RunConfig) -> dict[str, Any]:
    """A config as plain values for what is given to others: no credentials, and of the files that only training read
    no more than their names. The folder of a backbone stays, for loading needs it."""
    values = saved_values(config)
    values["tracking"]["uri"] = None
    values["run"] |= {"output_dir": Path(config.run.output_dir).name, "mirror": None, "compare_with": {}}
    values["data"]["folder"] = None
    for section, names in {"data": ("train", "validation", "test"), "prompt": ("table", "start_from")}.items():
        for name in names:
            path = values[section].get(name)
            if isinstance(path, list):
                values[section][name] = [_name_alone(one) for one in path]
            elif path is not None:
                values[section][name] = _name_alone(path)
    return values


def _name_alone(path: str) -> str:
    return Path(path).name if Path(path).is_absolute() or is_data_file(path) else path


def _parameters(card: Mapping[str, Any]) -> str:
    kept, trained = card["parameters"], card["trained_parameters"]
    only = "" if kept == trained else f" ({kept:,} of them kept: predicting reads no others)"
    return f"{trained:,} trained parameters{only}"


def _model_card(card: Mapping[str, Any]) -> str:
    config, task, scores = card["config"], card["task"], card["scores"]
    rows = "\n".join(
        f"| {part} | {name} | {value:.4f} |"
        for part, values in scores.items()
        if isinstance(values, Mapping)
        for name, value in values.items()
    )
    vectors = "" if config["prompt"]["kind"] == "none" else f", {config['prompt']['length']} vectors"
    backbone = card["backbone"]
    name = Path(backbone["name"]).name if Path(backbone["name"]).is_absolute() else backbone["name"]
    base = published_name(name)
    return f"""---
library_name: infoprompt
base_model: {base}
tags: [prompt-tuning, soft-prompt]
---
# A soft prompt for {task["name"]}

Made by infoprompt: {_parameters(card)} on the frozen
backbone `{name}` (weights SHA-256 `{backbone["fingerprint"][:16]}`).

- prompt: {config["prompt"]["kind"]}{vectors}, seed {config["seed"]}
- objective: preset {config["objective"]["preset"]}, head weight {config["objective"]["head_weight"]}, representation
  weight {config["objective"]["representation_weight"]}
- labels: {len(task["labels"])} ({", ".join(task["labels"][:5])}{", ..." if len(task["labels"]) > 5 else ""})

| part | metric | score |
| --- | --- | --- |
{rows}

```python
{example_code(Task.from_dict(task))}
```
"""
