"""The batches that a run will see, of its own rows where these can be read."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from infoprompt.config import ConfigError, RunConfig
from infoprompt.data.batch import Batch
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.encoded import EncodedText, EncodedTexts
from infoprompt.data.loader import Pool, TrainLoader, epoch_order
from infoprompt.data.ragged import Ragged
from infoprompt.data.rows import Example
from infoprompt.data.splits import Splits, load_splits
from infoprompt.data.task import Task
from infoprompt.data.tasks import TASKS
from infoprompt.engine.deepspeed_config import accumulation_steps
from infoprompt.model.backbone.backbone import Backbone
from infoprompt.model.build import prompt_slots
from infoprompt.model.inputs import make_template, needs_unprompted_states
from infoprompt.model.member import Member
from infoprompt.objective.noise import noise_of
from launcher.plan.model import Words

log = logging.getLogger(__name__)

STATED_LENGTH = 128
"""Positions of each input where no rows can be read, if the model reads as many."""
MOST_ROWS = 4096
"""Rows of each part that are tokenized; of more, these are spread over all."""
MOST_BATCHES = 256


@dataclass(frozen=True)
class Batches:
    """What passes the model, on one rank."""

    typical: Batch
    """A training batch of about as many positions as the mean one."""
    largest: Batch
    """The training batch of most positions."""
    plain: Batch | None
    """The largest batch of plain texts whose states are kept; None where none are."""
    evaluated: Batch
    """The largest batch that is scored."""
    accumulation: int
    """Training batches an update."""
    padded_tokens: float
    """Positions a batch, padding counted, the mean over batches."""
    real_tokens: float
    """Positions a batch that hold a token or a prompt vector."""
    kept_state_rows: int
    """Inputs whose plain states are kept."""
    shapes: int
    """Training batches of different lengths."""
    steps_per_epoch: int
    source: str
    """Where the lengths come from, for people."""


def read_rows(config: RunConfig) -> tuple[Splits | None, Task, str]:
    """Rows and task of a run; without rows, the task as far as the settings tell it, and why."""
    try:
        splits = load_splits(config.data, config.data_seed)
    except (ConfigError, OSError) as error:
        task = TASKS.get(config.data.task or "") or Task(
            "unknown", ("no", "yes"), ("no", "yes"), ("accuracy",), "single"
        )
        if not task.labels and task.kind != "regression":
            task = replace(task, labels=("no", "yes"), label_texts=("no", "yes"))
        return None, task, str(error).splitlines()[0]
    return splits, splits.task, splits.description


def planned_batches(
    config: RunConfig, splits: Splits | None, task: Task, backbone: Backbone, member: Member, ranks: int
) -> Batches:
    """The batches of the first rank."""
    train, others, source = _encoded(config, splits, task, backbone)
    sizes = [len(splits.train), len(splits.validation), len(splits.test)] if splits else [len(train)]
    pool = _pool(config, splits, task, backbone, train)
    sizes.append(len(splits.unlabelled.texts) if splits and pool is not None else 0)
    plain = None
    if needs_unprompted_states(config, task, training=True):
        plain = replace(_longest(train.without_prompt(), config.evaluation.batch_size), unprompted=True)
        width = backbone.hidden_size * (2 if member.pooling == "entities" else 1)
        train, others = (_with_states(rows, backbone.hidden_size, width) for rows in (train, others))
        if pool is not None:
            pool = replace(pool, rows=_with_states(pool.rows, backbone.hidden_size, width))
    accumulation = accumulation_steps(config.data, ranks)
    draw = noise_of(config, has_latent=member.gaussian is not None)
    loader = TrainLoader(train, config.data.batch_size, accumulation, 0, ranks, config.seed, draw, pool=pool)
    steps = loader.steps_per_epoch
    chosen = set(range(0, steps, max(1, steps // MOST_BATCHES)))
    longest = int(np.flatnonzero(epoch_order(config.seed, 0, len(train)) == train.lengths_M.argmax())[0])
    batches = [next(iter(loader.micro_batches(step))) for step in sorted(chosen | {longest // config.data.batch_size})]
    padded = [batch.input_ids_BL.numel() for batch in batches]
    real = [int(batch.attended_BL.sum()) for batch in batches]
    counted = real if backbone.packs else padded
    mean = sum(counted) / len(counted)
    return Batches(
        typical=batches[min(range(len(batches)), key=lambda index: abs(counted[index] - mean))],
        largest=batches[max(range(len(batches)), key=lambda index: (counted[index], padded[index]))],
        plain=plain,
        evaluated=_longest(others, config.evaluation.batch_size),
        accumulation=accumulation,
        padded_tokens=sum(padded) / len(padded),
        real_tokens=sum(real) / len(real),
        kept_state_rows=sum(sizes) * train.num_choices if plain is not None else 0,
        shapes=min(len({batch.length for batch in batches}), config.optim.max_steps or steps),
        steps_per_epoch=-(-sizes[0] // config.data.batch_size),
        source=source,
    )


def _pool(
    config: RunConfig, splits: Splits | None, task: Task, backbone: Backbone, train: EncodedDataset
) -> Pool | None:
    """The texts without labels, read from the first update on; as long as training rows where they are not known."""
    if config.objective.label_form == "off":
        return None
    rows = train
    if splits is not None and splits.unlabelled.texts and not isinstance(backbone.tokenizer, Words):
        texts = splits.unlabelled.texts[:: -(-len(splits.unlabelled.texts) // MOST_ROWS)]
        template = make_template(config, backbone, task, splits.train)
        rows = EncodedDataset.encode(texts, task.labels, template, "unlabelled", task.scale)
    return Pool(rows, config.data.unlabelled_batch, 0, np.arange(len(rows)))


def _encoded(
    config: RunConfig, splits: Splits | None, task: Task, backbone: Backbone
) -> tuple[EncodedDataset, EncodedDataset, str]:
    if splits is None or isinstance(backbone.tokenizer, Words):
        rows = _stated_rows(config, task, backbone)
        return rows, rows, f"every input taken as {rows.lengths_M.max()} positions"
    template = make_template(config, backbone, task, splits.train)

    def encode(examples: Sequence[Example], name: str) -> EncodedDataset:
        spread = [*examples[:: -(-len(examples) // MOST_ROWS) or 1]]
        return EncodedDataset.encode(spread, task.labels, template, name, task.scale)

    scored = [*splits.validation, *(splits.test if config.evaluation.test else [])]
    train = encode(splits.train, "training")
    all_read = len(train) == len(splits.train)
    source = (
        f"the run's rows, {len(train):,} of them read" if all_read else f"{len(train):,} of {len(splits.train):,} rows"
    )
    return train, encode(scored, "scored"), source


def _stated_rows(config: RunConfig, task: Task, backbone: Backbone) -> EncodedDataset:
    """Inputs that are all of one length."""
    length = min(STATED_LENGTH, config.backbone.max_length or backbone.max_length)
    slots = prompt_slots(config.prompt)
    text = EncodedText(
        [1] * length,
        [*range(slots), *[-1] * (length - slots)],
        [0] * length,
        mask_index=slots,
        truncated=False,
        words=tuple(range(slots, length)) if task.kind == "tags" else (),
        marked=(slots, slots + 1) if task.kind in ("relation", "choice") else None,
    )
    count, choices = max(config.data.batch_size, config.evaluation.batch_size), task.num_classes or 1
    choices = choices if task.kind == "choice" else 1
    return EncodedDataset(
        EncodedTexts.of([text] * count * choices),
        [0] * count,
        0,
        num_choices=choices,
        tags=Ragged.of([[0] * len(text.words)] * count) if task.kind == "tags" else None,
        values=[0.5] * count if task.kind == "regression" else None,
    )


def _longest(rows: EncodedDataset, size: int) -> Batch:
    return rows.batch(np.argsort(rows.lengths_M)[-size:])


def _with_states(rows: EncodedDataset, summary_size: int, pooled_size: int) -> EncodedDataset:
    count = len(rows.texts)
    return replace(rows, summary_MD=torch.zeros(count, summary_size), pooled_MD=torch.zeros(count, pooled_size))
