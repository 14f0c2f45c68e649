"""The artifact: a small folder that predicts with nothing but torch, transformers and the backbone.

    prompt.safetensors   what was trained and is read when predicting, float32
    config.json          resolved config, task, backbone with fingerprint, scores
    README.md            model card
    manifest.json        sizes and checksums
    MLmodel              what MLflow loads it by, with three small files, see mlmodel.py

Shapes: B examples, C classes.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from infoprompt.checkpoint import MANIFEST, check_manifest, write_manifest
from infoprompt.config import (
    ConfigError,
    DataSettings,
    RunConfig,
    build_config,
    is_data_file,
    load_config,
    saved_values,
)
from infoprompt.data.batch import Batch
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.rows import Example
from infoprompt.data.task import Task
from infoprompt.data.template import Template
from infoprompt.example import example_code
from infoprompt.files import heal, read_object, whole_folder
from infoprompt.metrics import METRICS
from infoprompt.mlmodel import FILES as MLMODEL_FILES
from infoprompt.mlmodel import write_mlmodel
from infoprompt.model.backbone.load import Backbone, load_backbone
from infoprompt.model.build import backbone_needs, build_member, prompt_slots, reads_unprompted
from infoprompt.model.heads.kind import head_kind
from infoprompt.model.member import Member
from infoprompt.model.shared import shared_pass
from infoprompt.nested import get_nested
from infoprompt.objective.encoding import Encoding
from infoprompt.predictions import Target, completed, predicted, targets
from infoprompt.predictor import States, scored_batches
from infoprompt.settings import InputPromptSettings
from infoprompt.tensor_file import read_tensors, save_tensors, unfit

FORMAT_VERSION = 1
TENSORS, CARD = "prompt.safetensors", "config.json"
FILES = (TENSORS, CARD, "README.md", MANIFEST, *MLMODEL_FILES)


NEEDS: dict[str, str] = {
    "single": "`text`",
    "pair": "`text_a` and `text_b`",
    "relation": "`text`, `head` and `tail`",
    "span": "`text` and `span`",
    "tags": "`words`",
    "choice": "`text` and `choices`",
    "answer": "`text`, or `text_a` and `text_b`",
    "regression": "`text`, or `text_a` and `text_b`",
}
"""Kind of task to the columns of its rows."""


class ArtifactError(ValueError):
    """An artifact is damaged, of another format, or made for another backbone."""


@dataclass(frozen=True)
class Prediction:
    """What is predicted for one example."""

    label: str
    """The most probable class; of a choice `choice1` and so on; all tags with blanks between them; the value."""
    probabilities: dict[str, float]
    """Class (or choice) to probability; empty for tags and values."""
    tags: tuple[str, ...] | None = None
    """Class of each word, where words are tagged."""
    value: float | None = None
    """The value, of a regression."""


class Artifact:
    """A trained prompt with its head, ready to predict."""

    def __init__(self, model: Member, config: RunConfig, task: Task, card: Mapping[str, Any]) -> None:
        self.model = model.eval()
        head = config.head.model_copy(update={"pooling": model.pooling})
        self.config = config.model_copy(update={"head": head})
        self.task = task
        self.card = card
        self._template = make_template(config, model.backbone)

    @classmethod
    def from_pretrained(cls, folder: str | Path, backbone: str | None = None, device: str = "auto") -> "Artifact":
        """Load an artifact and its backbone.

        Args:
            folder: what `save_pretrained` wrote.
            backbone: where the backbone is now, if not where it was in training; its weights must be the same.
            device: `auto`, `cpu` or `cuda`.
        Raises:
            ArtifactError: the folder is missing or damaged, or the backbone's weights differ.
            ConfigError: the backbone cannot be loaded.
        """
        folder = Path(folder)
        config = predicting_config(read_card(folder))
        settings = config.backbone.model_copy(update={"name": backbone} if backbone else {})
        target = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        lm_head = head_kind(config.head.kind).lm_head
        loaded = load_backbone(settings, target, needs=backbone_needs(config), lm_head=lm_head)
        return cls.over(loaded, folder, loaded.fingerprint())

    @classmethod
    def over(cls, backbone: Backbone, folder: Path, fingerprint: str) -> "Artifact":
        """Load an artifact over a backbone that is loaded, and that others may share.

        Args:
            backbone: with its language-model head if the artifact's head reads it.
            folder: what `save_pretrained` wrote.
            fingerprint: of the backbone.
        Raises:
            ArtifactError: the folder is missing or damaged, or was made for other weights.
        """
        card = read_card(folder)
        if fingerprint != card["backbone"]["fingerprint"]:
            raise ArtifactError(
                f"{folder} was made for the backbone {card['backbone']['name']!r} with other weights than those of "
                f"{backbone.name!r}. Give the folder or name of the right one as `backbone`."
            )
        task = Task.from_dict(card["task"])
        state = _read_trained(folder)
        config = predicting_config(card)
        _check_size(config, state, folder)
        make_template(config, backbone)  # refuses more vectors than the backbone has positions, before they are made
        model = build_member(config, backbone, task)
        model.to(next(backbone.parameters()).device)
        _load_trained(model, state, folder)
        return cls(model, RunConfig.model_validate(card["config"]), task, card)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the artifact again, elsewhere."""
        state = {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}
        fingerprint, scores = self.card["backbone"]["fingerprint"], self.card["scores"]
        save_artifact(
            Path(folder),
            state,
            self.config,
            self.task,
            fingerprint=fingerprint,
            scores=scores,
            trained_parameters=self.card.get("trained_parameters"),
        )

    def predict(self, examples: Iterable[Example | str], batch_size: int = 64) -> list[Prediction]:
        """What is predicted for each example, in the order given; a text stands for a single-text example.

        Where words are tagged, the blanks of a text part its words.

        Raises:
            ValueError: an example is not of the kind that the task was trained on.
        """
        rows = self.read(examples)
        return self.predictions(rows, self._scores(rows, batch_size))

    def read(self, examples: Iterable[Example | str]) -> EncodedDataset:
        """What `predict` makes of its input: the examples, checked and tokenized, without labels."""
        given = [self._example(example) for example in examples]
        for number, example in enumerate(given, 1):
            self.check(example, f"Example {number}")
        return self.encode([example.unlabelled() for example in given])

    def check(self, example: Example | str, what: str) -> None:
        """Raise ValueError, which calls the example `what`, if it is not of the kind that the task was trained on."""
        example = self._example(example)
        if not self.task.fits(example.unlabelled()):
            raise ValueError(f"{what} is of the kind {example.kind}, but this prompt reads {NEEDS[self.task.kind]}.")
        if example.choices is not None and len(example.choices) != self.task.num_classes:
            raise ValueError(
                f"{what} has {len(example.choices)} choices, but this prompt reads {self.task.num_classes}."
            )

    def predictions(self, rows: EncodedDataset, scores: Iterable[tuple[Batch, Tensor]]) -> list[Prediction]:
        """What is predicted for each row, from batches of them, in any order, with the model's scores."""
        if self.task.kind in ("tags", "regression"):
            return [self._other_prediction(target) for target in self._targets(rows, scores)]
        return [
            Prediction(self.task.labels[int(row.argmax())], dict(zip(self.task.labels, row.tolist(), strict=True)))
            for row in self._probabilities(rows, scores)
        ]

    def probabilities(self, examples: Sequence[Example], batch_size: int = 64) -> Tensor:
        """Probability of each class or choice, [B, C], float32 on the CPU.

        Raises:
            ValueError: the task has no classes of whole examples.
        """
        if self.task.kind in ("tags", "regression"):
            raise ValueError(f"{self.task.name} is of the kind {self.task.kind}, without classes of examples.")
        rows = self.encode([example.unlabelled() for example in examples])
        return self._probabilities(rows, self._scores(rows, batch_size))

    def encode(self, examples: Sequence[Example]) -> EncodedDataset:
        """Tokenized examples, with their labels where they have any."""
        return EncodedDataset.encode(examples, self.task.labels, self._template, "given", self.task.scale)

    def predicted(self, rows: EncodedDataset, batch_size: int = 64) -> list[Target]:
        """Class index, value or tag indices of each row, in the rows' order."""
        return self._targets(rows, self._scores(rows, batch_size))

    def _targets(self, rows: EncodedDataset, scores: Iterable[tuple[Batch, Tensor]]) -> list[Target]:
        known = targets(rows, self.task)
        found: list[Target] = [-1] * len(rows)
        for batch, logits_BC in scores:
            for row, prediction in zip(batch.examples, predicted(logits_BC, batch, self.task), strict=True):
                found[row] = completed(prediction, known[row], self.task)
        return found

    def _probabilities(self, rows: EncodedDataset, scores: Iterable[tuple[Batch, Tensor]]) -> Tensor:
        result_BC = torch.zeros(len(rows), len(self.task.labels))
        for batch, logits_BC in scores:
            result_BC[batch.examples] = logits_BC.softmax(1)
        return result_BC

    def _scores(self, rows: EncodedDataset, batch_size: int) -> Iterator[tuple[Batch, Tensor]]:
        """Batches and the model's scores of them, float32 on the CPU."""
        for ((_, batch, logits_BC),) in artifact_scores({"": self}, {"": rows}, batch_size):
            yield batch, logits_BC

    def _example(self, given: Example | str) -> Example:
        if not isinstance(given, str):
            return given
        return Example(text=given, words=tuple(given.split()) if self.task.kind == "tags" else None)

    def _other_prediction(self, target: Target) -> Prediction:
        """Of tags or a value."""
        if isinstance(target, list):
            tags = tuple(self.task.labels[tag] for tag in target)
            return Prediction(" ".join(tags), {}, tags=tags)
        return Prediction(f"{target:.4g}", {}, value=float(target))


def artifact_scores(
    artifacts: Mapping[str, Artifact], rows: Mapping[str, EncodedDataset], batch_size: int
) -> Iterator[list[tuple[str, Batch, Tensor]]]:
    """Scores of rows by artifacts over one backbone, in passes that they share; see `scored_batches`."""
    device = next(next(iter(artifacts.values())).model.backbone.parameters()).device
    reads: dict[str, States] = {
        name: "other" if artifact.config.mixes_rows else "own"
        for name, artifact in artifacts.items()
        if needs_unprompted_states(artifact.config, artifact.task, training=False)
    }

    @torch.inference_mode()
    def infer(batches: Mapping[str, Batch]) -> dict[str, Encoding]:
        members = [artifacts[name].model for name in batches]
        encodings = shared_pass(members, [batch.to(device) for batch in batches.values()])
        return dict(zip(batches, encodings, strict=True))

    return scored_batches(rows, infer, batch_size, reads=reads)


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
    values["run"] |= {"output_dir": Path(config.run.output_dir).name, "compare_with": {}}
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


def data_of_training(folder: Path, config: RunConfig) -> DataSettings | None:
    """Where the rows of an artifact's run were, as the run's own folder still has it around the artifact.

    Args:
        folder: the artifact's.
        config: the artifact's.
    """
    try:
        run = load_config(folder.absolute().parent / "config.yaml")
    except ConfigError:
        return None
    return run.data if shared_values(run)["data"] == shared_values(config)["data"] else None


def make_template(config: RunConfig, backbone: Backbone) -> Template:
    """The input layout that a config asks for on a backbone; raises ConfigError where it has too few positions."""
    asked = config.backbone.max_length
    if asked is not None and asked > backbone.max_length:
        raise ConfigError(
            f"backbone.max_length is {asked}, but {backbone.name!r} reads at most {backbone.max_length} positions. "
            f"Use {backbone.max_length} or less, or leave it out for the model's own limit."
        )
    return Template.probe(
        backbone.tokenizer,
        num_vectors=prompt_slots(config.prompt),
        placement=config.prompt.template if isinstance(config.prompt, InputPromptSettings) else "warp",
        use_mask=config.head.pooling_of(backbone.kind) == "mask",
        max_length=asked or backbone.max_length,
        num_embeddings=backbone.num_embeddings,
    )


def needs_unprompted_states(config: RunConfig, task: Task, training: bool) -> bool:
    """Whether a forward reads the plain text's states."""
    objective = config.objective
    if not config.backbone.frozen:
        return False
    contrasted = objective.representation_weight > 0 and objective.representation_negatives != "batch"
    in_loss = training and (contrasted or objective.kl_weight > 0)
    return reads_unprompted(config) or in_loss or (config.prompt.kind == "none" and task.kind != "tags")


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


def _read_trained(folder: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(folder / TENSORS)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"The artifact {folder} is damaged: {error}. Copy it again, or train it again.") from None


def _check_size(config: RunConfig, state: Mapping[str, Tensor], folder: Path) -> None:
    """Refuse a width that the file cannot fill, before so much memory is asked for."""
    largest = max(4096, sum(tensor.numel() for tensor in state.values()))
    values = saved_values(config)
    for key in ("prompt.length", "prompt.bottleneck", "objective.latent_size"):
        if (value := get_nested(values, key, 0)) > largest:
            raise ArtifactError(f"{folder} does not fit its own config: {key} is {value}. Train it again.")


@torch.no_grad()
def _load_trained(model: Member, state: Mapping[str, Tensor], folder: Path) -> None:
    parameters = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and (name in state or not name.startswith("gaussian.log_std."))
    }
    problem = unfit(state, {name: parameter.shape for name, parameter in parameters.items()}, torch.float32)
    if problem is not None:
        raise ArtifactError(f"{folder} does not fit its own config: its {TENSORS} {problem}. Train it again.")
    for name, tensor in state.items():
        parameters[name].copy_(tensor)


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
    base = "sentence-transformers/all-MiniLM-L6-v2" if name == "minilm" else name
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
