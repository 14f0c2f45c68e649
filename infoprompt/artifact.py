"""The artifact: a small folder that predicts with nothing but torch, transformers and the backbone.

Shapes: B examples, C classes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infoprompt.artifact_files import TENSORS, ArtifactError, predicting_config, read_card, save_artifact, shared_values
from infoprompt.config import ConfigError, DataSettings, RunConfig, load_config, saved_values
from infoprompt.data.batch import Batch
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.rows import Example
from infoprompt.data.task import Task
from infoprompt.model.backbone.load import Backbone, load_backbone
from infoprompt.model.build import backbone_needs, build_member
from infoprompt.model.heads.kind import head_kind
from infoprompt.model.inputs import make_template, needs_unprompted_states
from infoprompt.model.member import Member
from infoprompt.model.shared import shared_pass
from infoprompt.nested import get_nested
from infoprompt.objective.encoding import Encoding
from infoprompt.predictions import Target, completed, predicted, targets
from infoprompt.predictor import States, scored_batches
from infoprompt.tensor_file import read_tensors, unfit

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
        self._template = make_template(config, model.backbone, task)

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
        make_template(config, backbone, task)  # refuses too many vectors for the backbone before they are made
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
        if any(not choice.strip() for choice in example.choices or ()):
            raise ValueError(f"{what} has a choice without text. Give each choice at least a word.")

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
    # the artifact has words and demonstrations spelled out
    known, own = ({**shared_values(of)["data"], "template": None, "demonstrations": 0} for of in (run, config))
    return run.data if known == own else None


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
