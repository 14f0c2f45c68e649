"""Pretrains the table of instance-wise prompt tuning on a text classification file; the backbone is not run.

A class is read off the looked-up rows alone: table -> encoder's features -> linear layer -> classes. Source: IPT
(arXiv:2206.01958) in the form of the authors' released code, with these differences:

- The table is trained. The released scripts leave it out of the optimiser, so their "pretrained" table is random.
- The encoder's last layer, which spreads the features over the prompt vectors, is not part of it and stays at its own
  start. The published MLP has a second layer behind it and trains both.
- The data are the user's own; the published ones (13 categories of text) are not public.

What the table has seen, a later run has seen. So the rows must not be those that it is tested on. Where it is to show
what a few examples can do, they must not be other rows of the same task either.

Shapes: B examples, C classes, M rows of the data set, P prompt vectors (looked up), V vocabulary,
W width of a table row.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from infoprompt.config import ConfigError, RunConfig
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.places import source_name
from infoprompt.data.rows import Example
from infoprompt.data.splits import Splits, load_splits
from infoprompt.data.task import KINDS, Task
from infoprompt.folder_lock import beside, held
from infoprompt.model.backbone.load import Backbone, load_backbone
from infoprompt.model.build import backbone_needs
from infoprompt.model.inputs import make_template
from infoprompt.model.prompt_table import (
    FeedForwardEncoder,
    TableCard,
    TableEncoder,
    claim_table_folder,
    save_table,
    vocabulary_hash,
)
from infoprompt.model.prompts import ipt
from infoprompt.model.prompts.kind import PromptContext
from infoprompt.model.prompts.start import Vocabulary
from infoprompt.pretraining.classifier import TableClassifier, TableOptimizer
from infoprompt.progress import Progress, TrainingStopped
from infoprompt.schedule import learning_rate
from infoprompt.settings.prompt import IptSettings

log = logging.getLogger(__name__)

ENCODE_ROWS = 1024


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training rows came to."""

    epoch: int
    """Counted from 1."""
    epochs: int
    steps: int
    """Updates made so far."""
    loss: float
    """Mean cross entropy of the pass, in nats."""
    dev_accuracy: float
    seconds: float
    """Since the start of training."""


@dataclass(frozen=True)
class PretrainResult:
    """What came out of pretraining."""

    table: str
    """Folder of the table, for `prompt.table`."""
    dev_accuracy: float
    """Of the best state, on the rows that chose it."""
    best_epoch: int
    num_classes: int
    steps: int
    seconds: float
    trained_parameters: int
    """Table, encoder and linear layer; the encoder's last layer is not trained."""
    touched_parameters: int
    """The same, counting only those rows of the table that the training rows look up."""
    table_rows: int
    touched_rows: int
    history: list[Epoch] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The result as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class _Part:
    """The looked-up ids and classes of a data set."""

    ids_MP: Tensor
    label_M: Tensor


def pretrain(config: RunConfig, on_epoch: Callable[[Epoch], None] | None = None) -> PretrainResult:
    """Train table, encoder and a linear layer, and write the best state's table and encoder to `prompt.table`.

    `prompt.encoder` none trains the mlp beside the table (the mean row is classified); a later run uses the table
    alone. The best state is that of the epoch with the highest accuracy on `data.validation`, or on rows held out of
    the training rows; test rows are never looked at. Everything runs on the CPU in one process: the same config gives
    the same bytes on the same machine. `objective`, `engine`, `checkpoint` and `tracking` play no part.

    Args:
        config: of kind ipt, with `prompt.table` naming the folder to write; an earlier table there is overwritten.
        on_epoch: called after each pass over the training rows.
    Raises:
        ConfigError: a setting, the data or the folder do not fit; nothing was trained.
        TrainingStopped: the loss is not finite.
    """
    folder = _claimed(config)
    with held(beside(folder), f"prompt.table is {folder}", "a pretraining"):
        return _pretrain(config, folder, on_epoch)


def _pretrain(config: RunConfig, folder: Path, on_epoch: Callable[[Epoch], None] | None) -> PretrainResult:
    splits = load_splits(config.data, config.data_seed)
    _check_task(splits.task)
    log.info(splits.description)
    for note in splits.notes:
        log.warning(note)
    backbone = load_backbone(config.backbone, needs=backbone_needs(config))
    train, dev = _parts(config, splits, backbone)
    started = time.monotonic()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = _build(config, splits.task, backbone)
        history, best = _fit(model, config, train, dev, on_epoch)
    model.load_trained(best)
    chosen = max(history, key=lambda row: row.dev_accuracy)
    touched = len(train.ids_MP.unique())
    trained = sum(tensor.numel() for tensor in best.values())
    rows, width = model.table_VW.shape
    result = PretrainResult(
        table=str(folder),
        dev_accuracy=chosen.dev_accuracy,
        best_epoch=chosen.epoch,
        num_classes=splits.task.num_classes,
        steps=history[-1].steps,
        seconds=round(time.monotonic() - started, 3),
        trained_parameters=trained,
        touched_parameters=trained - (rows - touched) * width,
        table_rows=rows,
        touched_rows=touched,
        history=history,
    )
    save_table(folder, model.table_VW, model.encoder, _card(config, splits, backbone, result))
    return result


def _claimed(config: RunConfig) -> Path:
    prompt = _prompt(config)
    if prompt.table is None:
        raise ConfigError("prompt.table is not given. Name the folder that the pretrained table is to be written to.")
    return claim_table_folder(prompt.table)


def _prompt(config: RunConfig) -> IptSettings:
    if not isinstance(config.prompt, IptSettings):
        raise ConfigError(
            f"prompt.kind is {config.prompt.kind}, but only kind ipt has a table to pretrain. Use "
            "configs/recipes/ipt_pretrained.yaml."
        )
    return config.prompt


def _check_task(task: Task) -> None:
    if not task.classifies:
        raise ConfigError(
            f"The pretraining data ({task.name}) are {KINDS[task.kind]}, but a table is pretrained on classes of "
            "texts. Give data.train or data.task rows with one label each."
        )


def _parts(config: RunConfig, splits: Splits, backbone: Backbone) -> tuple[_Part, _Part]:
    template = make_template(config, backbone)

    def part(examples: Sequence[Example], name: str) -> _Part:
        rows = EncodedDataset.encode(examples, splits.task.labels, template, name)
        starts = range(0, len(rows), ENCODE_ROWS)
        batches = (rows.batch(range(start, min(start + ENCODE_ROWS, len(rows)))) for start in starts)
        ids_MP = torch.cat([ipt.first_ids(batch, _prompt(config).length, rows.pad_id) for batch in batches])
        return _Part(ids_MP, torch.tensor(rows.labels))

    return part(splits.train, "training"), part(splits.validation, "dev")


def _build(config: RunConfig, task: Task, backbone: Backbone) -> TableClassifier:
    """Started as the random table of kind ipt is with the same seed."""
    context = PromptContext(
        Vocabulary(backbone, backbone.tokenizer, task.label_texts),
        backbone.hidden_size,
        backbone.num_layers,
        backbone.num_kv_heads,
        backbone.head_size,
        backbone.summary,
        torch.Generator().manual_seed(config.seed),
    )
    prompt = ipt.build(_prompt(config).model_copy(update={"table": None}), context)
    encoder = prompt.encoder
    if encoder is None:
        encoder = FeedForwardEncoder(prompt.table_VW.shape[1], length=1)  # only its features count: the mean row
    assert isinstance(encoder, TableEncoder)
    return TableClassifier(prompt.table_VW.detach(), encoder, task.num_classes)


def _plan(config: RunConfig, num_rows: int) -> Progress:
    steps_per_epoch = -(-num_rows // config.data.batch_size)
    total = steps_per_epoch * config.optim.epochs
    return Progress(steps_per_epoch, min(total, config.optim.max_steps or total))


def _fit(
    model: TableClassifier, config: RunConfig, train: _Part, dev: _Part, on_epoch: Callable[[Epoch], None] | None
) -> tuple[list[Epoch], dict[str, Tensor]]:
    """Every epoch, and the state of the first of those with the highest accuracy on dev."""
    optimizer = TableOptimizer(model, config.optim)
    progress = _plan(config, len(train.label_M))
    epochs = -(-progress.total_steps // progress.steps_per_epoch)
    history: list[Epoch] = []
    best: dict[str, Tensor] = {}
    start = time.monotonic()
    patience = config.evaluation.patience or epochs
    best_accuracy, since_best = -1.0, 0
    while not progress.done and since_best < patience:
        progress, loss = _pass(model, optimizer, config, train, progress)
        accuracy = _accuracy(model, dev, config.evaluation.batch_size)
        since_best += 1
        if accuracy > best_accuracy:
            best_accuracy, since_best = accuracy, 0
            best = model.trained_state()
        history.append(
            Epoch(len(history) + 1, epochs, progress.step, loss, accuracy, round(time.monotonic() - start, 3))
        )
        if on_epoch:
            on_epoch(history[-1])
    return history, best


def _pass(
    model: TableClassifier, optimizer: TableOptimizer, config: RunConfig, train: _Part, progress: Progress
) -> tuple[Progress, float]:
    """One pass over the training rows, in an order that depends on seed and epoch alone; the mean loss."""
    order = np.random.default_rng([config.seed, int(progress.epoch)]).permutation(len(train.label_M))
    losses = []
    model.train()
    for rows_B in torch.from_numpy(order).split(config.data.batch_size):
        if progress.done:
            break
        loss = F.cross_entropy(model(train.ids_MP[rows_B]), train.label_M[rows_B])
        if not loss.isfinite():
            raise TrainingStopped(
                f"The loss of update {progress.step + 1} is not finite; nothing was written. Lower optim.lr."
            )
        optimizer.step(loss, learning_rate(config.optim, progress))
        losses.append(float(loss.detach()))
        progress = progress.after(len(rows_B))
    return progress, sum(losses) / len(losses)


@torch.inference_mode()
def _accuracy(model: TableClassifier, part: _Part, batch_size: int) -> float:
    model.eval()
    pieces = zip(part.ids_MP.split(batch_size), part.label_M.split(batch_size), strict=True)
    return sum(int((model(ids_BP).argmax(1) == label_B).sum()) for ids_BP, label_B in pieces) / len(part.label_M)


def _card(config: RunConfig, splits: Splits, backbone: Backbone, result: PretrainResult) -> TableCard:
    origin = {
        "data": {
            "task": splits.task.name,
            "train": config.data.train and Path(source_name(config.data.train)).name,
            "rows": len(splits.train),
            "classes": list(splits.task.labels),
        },
        "backbone": {
            "name": config.backbone.name,
            "revision": config.backbone.revision,
            "fingerprint": backbone.fingerprint(),
        },
        "scores": {"dev_accuracy": result.dev_accuracy, "best_epoch": result.best_epoch},
        "touched_rows": result.touched_rows,
        "seed": config.seed,
        "optim": config.optim.model_dump(mode="json"),
        "batch_size": config.data.batch_size,
    }
    prompt = _prompt(config)
    beside = "mlp" if prompt.encoder == "none" else prompt.encoder
    return TableCard(beside, prompt.mode, prompt.length, vocabulary_hash(backbone.tokenizer), origin)
