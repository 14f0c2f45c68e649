"""Builds what a run works with, in the order of the data flow: data, backbone, model, engine, kept states."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from infoprompt.config import ConfigError, RunConfig
from infoprompt.data.class_weights import class_weights
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.given_predictions import given_predictions
from infoprompt.data.loader import TrainLoader
from infoprompt.data.pairs import PairDraw
from infoprompt.data.rows import Example
from infoprompt.data.split_rows import write_skipped
from infoprompt.data.splits import Splits, load_splits
from infoprompt.data.tasks import Task
from infoprompt.engine.deepspeed_config import accumulation_steps
from infoprompt.engine.engine import build_engine, gathered, partitioned_loading, partitions_weights
from infoprompt.engine.interface import Engine
from infoprompt.engine.ranks import num_starts
from infoprompt.head_start import calibrate, start_head
from infoprompt.kernels.implementation import triton_obstacle
from infoprompt.metrics import check_metric
from infoprompt.model.backbone.cache import kept_backbone
from infoprompt.model.backbone.load import Backbone
from infoprompt.model.build import backbone_needs, build_member
from infoprompt.model.heads.kind import head_kind
from infoprompt.model.inputs import make_template, needs_unprompted_states
from infoprompt.model.lower_states import with_lower_states
from infoprompt.model.member import Member
from infoprompt.model.shared import SharedModel
from infoprompt.model.unprompted import with_other_states
from infoprompt.objective.noise import noise_of
from infoprompt.output import on_first
from infoprompt.plain_rows import PlainRows
from infoprompt.ranks import Ranks
from infoprompt.setup import Setup
from infoprompt.text_pool import text_pool, without_strangers

log = logging.getLogger(__name__)

EngineOf = Callable[[Member, RunConfig, Ranks], Engine]
"""Makes the engine that trains a member."""


def build_own_engine(member: Member, config: RunConfig, ranks: Ranks) -> Engine:
    """An engine for this member alone."""
    return build_engine(SharedModel([member]), [config], ranks)


def build_setup(
    config: RunConfig, ranks: Ranks, splits: Splits | None = None, engine_of: EngineOf = build_own_engine
) -> Setup:
    """Data, model and engine, in the order of the data flow; every rank calls it.

    Args:
        config: every setting.
        ranks: of this run.
        splits: the rows, where they were read before; read here if not given.
        engine_of: makes the engine.
    """
    obstacle = triton_obstacle(ranks.device.type)
    if config.objective.kernels == "triton" and obstacle:
        raise ConfigError(f"objective.kernels is triton, but {obstacle}. Use auto or chunked.")
    splits = splits or load_splits(config.data, config.data_seed)
    task = _scored_by(config.evaluation.metric, splits.task)
    if ranks.is_first:
        log.info(splits.description)
        for note in splits.notes:
            log.warning(note)
        write_skipped(splits.skipped, Path(config.run.output_dir))
    given = _given(config, task, splits, ranks)
    accumulation = accumulation_steps(config.data, ranks.world_size)
    backbone, fingerprint = _backbone(config, ranks)
    template = make_template(config, backbone, task, splits.train)
    member = build_member(config, backbone, task)
    engine = engine_of(member, config, ranks)

    def encode(examples: Sequence[Example], name: str) -> EncodedDataset:
        return EncodedDataset.encode(examples, task.labels, template, name, task.scale)

    test = splits.test if config.evaluation.test else []
    rows = {"training": encode(splits.train, "training"), "dev": encode(splits.validation, "dev")}
    rows["test"] = encode(test, "test")
    pool = None
    if config.objective.label_form != "off":
        rows["unlabelled"] = encode(splits.unlabelled.texts, "unlabelled")
        pool = text_pool(config, rows, np.array(splits.unlabelled.used), ranks.world_size * accumulation)
    key = f"{fingerprint} {config.backbone.dtype}{' unpadded' * backbone.packs} {config.head.pooling_of(backbone.kind)}"
    setup = Setup(
        config,
        task,
        engine,
        member,
        TrainLoader(
            rows["training"],
            config.data.batch_size,
            accumulation,
            ranks.rank,
            ranks.world_size,
            config.seed,
            noise_of(config, has_latent=member.gaussian is not None),
            pool=pool,
            pairs=_pairs(config, rows["training"], ranks.world_size * accumulation),
        ),
        rows["dev"],
        rows["test"],
        fingerprint,
        template,
        class_weights(config.data, task, rows["training"]),
        given,
    )
    batch_size = config.evaluation.batch_size
    labels = [Example(text=text) for text in task.label_texts]
    plain = PlainRows(
        setup, rows, key, EncodedDataset.encode(labels, task.labels, template.without_words(), "label", task.scale)
    )
    kept = None
    if pool is not None and config.data.unlabelled_filter:
        kept = without_strangers(setup, pool.kept, plain)
        setup = setup.of(rows, kept)
    start_head(setup, member.head, plain)
    calibrate(setup, splits, rows["training"])
    first_layer = 0 if member.prompt is None else member.prompt.first_layer
    if first_layer and not partitions_weights(config):
        lower = with_lower_states(
            list(rows.values()),
            backbone,
            first_layer,
            ranks,
            backbone_key=key,
            batch_size=batch_size,
            most_bytes=config.backbone.kept_mib * 2**20,
        )
        rows = dict(zip(rows, lower, strict=True))
    if not needs_unprompted_states(config, task, training=True):
        return setup.of(rows)
    unread = {"training"} if config.head_fit == "start" else set()  # nothing is trained on these rows
    filled = {name: part if name in unread else plain.states_of(name, part) for name, part in rows.items()}
    if config.mixes_rows:
        filled = {name: with_other_states(part) for name, part in filled.items()}
    return setup.of(filled)


def _given(config: RunConfig, task: Task, splits: Splits, ranks: Ranks) -> dict[str, list[int]] | None:
    if config.evaluation.predictions is None:
        return None
    path = config.evaluation.predictions.replace("{seed}", str(config.seed)).replace("{task}", task.name)
    parts = {"dev": splits.validation} | ({"test": splits.test} if config.evaluation.test else {})
    return ranks.broadcast_object(on_first(ranks, lambda: given_predictions(path, task, parts)))


def _pairs(config: RunConfig, training: EncodedDataset, num_parts: int) -> PairDraw | None:
    """What draws the training rows two by two, where the loss is of pairs; `num_parts` are passes, over all ranks."""
    if config.objective.task != "contrastive":
        return None
    if config.data.batch_size // num_parts % 2:
        raise ConfigError(
            f"data.batch_size is {config.data.batch_size}, but objective.task is contrastive, and each of {num_parts} "
            f"forward passes of an update takes whole pairs. Use a multiple of {2 * num_parts}."
        )
    return PairDraw(training.labels)


def _backbone(config: RunConfig, ranks: Ranks) -> tuple[Backbone, str]:
    needs, lm_head = backbone_needs(config), head_kind(config.head.kind).lm_head
    if not partitions_weights(config):
        return kept_backbone(config.backbone, ranks.device, needs=needs, lm_head=lm_head)
    with partitioned_loading(config, ranks):
        parts = f"{ranks.rank} of {ranks.world_size} {config.engine.model_dump_json()} {num_starts()}"
        return kept_backbone(config.backbone, ranks.device, gathered, needs=needs, lm_head=lm_head, parts=parts)


def _scored_by(metric: str | None, task: Task) -> Task:
    """The task, scored by `evaluation.metric` too where it is not one of the task's own."""
    if metric is None or metric in task.metrics:
        return task
    check_metric(metric, task)
    return replace(task, metrics=(*task.metrics, metric))
