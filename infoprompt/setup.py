"""What a run works with, built in the order of the data flow: data, backbone, model, engine, kept states."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from infoprompt.config import ConfigError, PromptSettings, RunConfig
from infoprompt.data.batch import Batch
from infoprompt.data.class_weights import class_weights
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.given_predictions import given_predictions
from infoprompt.data.loader import Pool, TrainLoader
from infoprompt.data.pairs import PairDraw
from infoprompt.data.pattern import without_content
from infoprompt.data.rows import Example
from infoprompt.data.split_rows import write_skipped
from infoprompt.data.splits import Splits, load_splits
from infoprompt.data.tasks import Task
from infoprompt.data.template import Template
from infoprompt.data.unlabelled import check_number
from infoprompt.engine.deepspeed_config import accumulation_steps
from infoprompt.engine.engine import build_engine, gathered, partitioned_loading, partitions_weights
from infoprompt.engine.interface import Engine
from infoprompt.engine.ranks import num_starts
from infoprompt.evaluate import Evaluation, evaluate, evaluate_given
from infoprompt.kernels.implementation import triton_obstacle
from infoprompt.metrics import check_metric
from infoprompt.model.backbone.cache import kept_backbone
from infoprompt.model.backbone.load import Backbone
from infoprompt.model.build import backbone_needs, build_member
from infoprompt.model.heads.kind import Head, head_kind
from infoprompt.model.heads.linear import class_means
from infoprompt.model.inputs import make_template, needs_unprompted_states
from infoprompt.model.lower_states import with_lower_states
from infoprompt.model.member import Member
from infoprompt.model.shared import SharedModel
from infoprompt.model.strangers import effective_number, kept_texts, nearest_shares
from infoprompt.model.unprompted import text_states, with_other_states, with_unprompted_states
from infoprompt.objective.encoding import Encoding
from infoprompt.objective.noise import noise_of
from infoprompt.output import on_first
from infoprompt.ranks import Ranks
from infoprompt.settings.head import ClassVectorSettings, LinearSettings, VerbaliserSettings
from infoprompt.warm_start import warm_started

log = logging.getLogger(__name__)

SHARES_ROWS = 2048
"""Enough to know a class's share to one per cent."""
LEAST_SHARE = 1e-6
"""Of a class, for its logarithm."""
EVEN = 0.8
"""Share of the classes that texts must at least spread over to look even; EXPERIMENTS 2026-11-29 has what skew does."""


@dataclass(frozen=True)
class Setup:
    """What a run works with."""

    config: RunConfig
    task: Task
    engine: Engine
    member: Member
    train: TrainLoader
    dev: EncodedDataset
    test: EncodedDataset
    fingerprint: str
    template: Template
    class_weight_C: Tensor | None = None
    """See `data.class_weights`."""
    given: Mapping[str, list[int]] | None = None
    """Classes of the rows of `test` and `dev`, where `evaluation.predictions` gives them in place of the model."""

    @property
    def ranks(self) -> Ranks:
        """The ranks of this run."""
        return self.engine.ranks

    @property
    def metric(self) -> str:
        """The metric that chooses the best state."""
        return self.config.evaluation.metric or self.task.metrics[0]

    def infer(self, batch: Batch) -> Encoding:
        """Forward without gradient."""
        return self.engine.infer(batch.to(self.ranks.device))

    def of(self, rows: Mapping[str, EncodedDataset], kept_texts: np.ndarray | None = None) -> "Setup":
        """The same with other rows: `training`, `dev`, `test` and `unlabelled`."""
        pool = self.train.pool
        if pool is not None:
            pool = replace(pool, rows=rows["unlabelled"], kept=pool.kept if kept_texts is None else kept_texts)
        train = replace(self.train, rows=rows["training"], pool=pool)
        return replace(self, train=train, dev=rows["dev"], test=rows["test"])

    def tags(self) -> dict[str, str]:
        """What a table of runs is read and sorted by: task, rows, backbone and prompt."""
        prompt = self.config.prompt
        length = f" {prompt.length}" if isinstance(prompt, PromptSettings) else ""
        return {
            "task": self.task.name,
            "task.kind": self.task.kind,
            "rows.train": str(len(self.train.rows)),
            "rows.dev": str(len(self.dev)),
            "rows.test": str(len(self.test)),
            **(
                {"rows.unlabelled": str(len(self.train.pool.kept)), "unlabelled": self.pool_name}
                if self.train.pool
                else {}
            ),
            "backbone": self.config.backbone.name,
            "prompt": f"{prompt.kind}{length}",
        }

    @property
    def pool_name(self) -> str:
        """`rest`, `transductive` or `file`: where the texts without labels come from; empty where there are none."""
        source = self.config.data.unlabelled
        if self.train.pool is None:
            return ""
        return str(source) if source in ("rest", "transductive") else "file"

    @property
    def spelled_out(self) -> RunConfig:
        """The config with the words around a text, and the demonstrations, in place of what says where they are."""
        if self.template.pattern is None:
            return self.config
        data = self.template.pattern.spelled_out(self.config.data)
        return self.config.model_copy(update={"data": data})

    def class_shares(self) -> Tensor:
        """Mean prediction for the texts without labels, at most the first `SHARES_ROWS`, [C]; all ranks take part."""
        assert self.train.pool is not None
        return self.mean_prediction(self.train.pool.rows, self.train.pool.kept[:SHARES_ROWS])

    def mean_prediction(self, texts: EncodedDataset, kept: np.ndarray) -> Tensor:
        """Mean probability of each class over some texts, [C]; all ranks take part."""
        size, ranks = self.config.evaluation.batch_size, self.ranks
        filled = np.append(kept, np.full(-len(kept) % (size * ranks.world_size), -1))
        total_C = torch.zeros(self.task.num_classes)
        for rows in filled.reshape(-1, ranks.world_size, size)[:, ranks.rank]:
            known = torch.from_numpy(rows >= 0)
            encoding = self.infer(texts.batch(rows))
            total_C = total_C + encoding.logits_BC.float().cpu().softmax(1)[known].sum(0)
        parts: list[Tensor] = ranks.gather_objects(total_C)
        return torch.stack(parts).sum(0) / len(kept)

    def untouched_parameters(self) -> int:
        """Trained parameters that the training rows cannot change, such as a table's rows for other tokens."""
        prompt = self.member.prompt
        if prompt is None:
            return 0
        real = self.train.rows.without_prompt().texts.input_ids
        return sum(parameter.numel() for parameter in prompt.parameters()) - prompt.touched_parameters(real)

    def evaluate(self, rows: EncodedDataset) -> Evaluation:
        """Scores on rows; all ranks take part."""
        name = "test" if rows is self.test else "dev"
        if self.given is not None:
            return evaluate_given(self.given.get(name), rows, self.task)
        batch_size = self.config.evaluation.batch_size

        def infer(batches: Mapping[str, Batch]) -> dict[str, Encoding]:
            return {name: self.infer(batch) for name, batch in batches.items()}

        return evaluate(infer, rows, self.task, self.ranks, batch_size, name)


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
        pool = _pool(config, rows, np.array(splits.unlabelled.used), ranks.world_size * accumulation)
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
    plain = _Plain(
        setup, rows, key, EncodedDataset.encode(labels, task.labels, template.without_words(), "label", task.scale)
    )
    kept = None
    if pool is not None and config.data.unlabelled_filter:
        kept = _without_strangers(setup, pool.kept, plain)
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


@dataclass
class _Plain:
    """The data sets with the states of their plain texts, each made when it is first asked for."""

    setup: Setup
    rows: Mapping[str, EncodedDataset]
    key: str
    labels: EncodedDataset
    """The label texts."""
    _filled: dict[str, EncodedDataset] = field(default_factory=dict)

    def __getitem__(self, name: str) -> EncodedDataset:
        if name not in self._filled:
            setup = self.setup
            self._filled[name] = with_unprompted_states(
                self.rows[name],
                setup.infer,
                setup.ranks,
                backbone_key=self.key,
                batch_size=setup.config.evaluation.batch_size,
            )
        return self._filled[name]

    @cached_property
    def label_states(self) -> Tensor:
        """Pooled states of the label texts, [C, D]; every rank takes part."""
        setup = self.setup
        return text_states(self.labels, setup.infer, setup.ranks, setup.config.evaluation.batch_size)

    def states_of(self, name: str, part: EncodedDataset) -> EncodedDataset:
        """The same rows with other fields, and with these states."""
        return replace(part, summary_MD=self[name].summary_MD, pooled_MD=self[name].pooled_MD)


def _pool(config: RunConfig, rows: Mapping[str, EncodedDataset], used: np.ndarray, parts: int) -> Pool:
    size, pool_rows = config.data.unlabelled_batch, rows["unlabelled"]
    if size % parts:
        raise ConfigError(
            f"data.unlabelled_batch is {size}, but {parts} forward passes of an update share it (ranks, times those of "
            f"each). Use {size - size % parts or parts}."
        )
    total = config.optim.total_steps(-(-len(rows["training"]) // config.data.batch_size))
    first = round(config.objective.label_start * total)
    return Pool(pool_rows, size, first, used)


def _without_strangers(setup: Setup, used: np.ndarray, plain: _Plain) -> np.ndarray:
    parts = [plain[name].pooled_MD for name in ("unlabelled", "training", "dev")]
    states, training, dev = (torch.empty(0, 1) if part is None else part for part in parts)
    label_CD = plain.label_states
    kept = used[kept_texts(states[used], training, dev, label_CD)]
    if setup.ranks.is_first:
        log.info(
            "%s of %s texts without labels are left out as strangers to the task (data.unlabelled_filter).",
            f"{len(used) - len(kept):,}",
            f"{len(used):,}",
        )
    check_number(len(kept), "Strangers are left out of data.unlabelled")
    if setup.config.objective.label_marginal == "uniform" and setup.ranks.is_first:
        _warn_of_shares(setup, class_means(label_CD, plain["training"]), states[kept])
    return kept


def _warn_of_shares(setup: Setup, mean_CD: Tensor, state_UD: Tensor) -> None:
    """Warn where texts whose classes are taken to be equally frequent look otherwise."""
    share_C = nearest_shares(state_UD, mean_CD)
    if effective_number(share_C) < EVEN * len(share_C):
        log.warning(
            "The texts without labels look uneven: about %.0f %% are of the class %s, by the labelled rows nearest to "
            "them. The label's term (objective.label_form: plain) takes all classes as equally frequent, and harms "
            "where they are not. Compare guarded and off on held-out rows.",
            100 * float(share_C.max()),
            setup.task.labels[int(share_C.argmax())],
        )


def _backbone(config: RunConfig, ranks: Ranks) -> tuple[Backbone, str]:
    needs, lm_head = backbone_needs(config), head_kind(config.head.kind).lm_head
    if not partitions_weights(config):
        return kept_backbone(config.backbone, ranks.device, needs=needs, lm_head=lm_head)
    with partitioned_loading(config, ranks):
        parts = f"{ranks.rank} of {ranks.world_size} {config.engine.model_dump_json()} {num_starts()}"
        return kept_backbone(config.backbone, ranks.device, gathered, needs=needs, lm_head=lm_head, parts=parts)


def start_head(setup: Setup, head: Head, plain: _Plain) -> None:
    """Start a head from the states of label texts and rows, as its kind and the settings say; every rank calls it."""
    config, kind = setup.config, head_kind(setup.config.head.kind)
    started: dict[str, Tensor] = {}
    if kind.reads_labels(config, setup.task):
        states_CD = plain.label_states
        if isinstance(config.head, ClassVectorSettings) and config.head.init == "class_means":
            states_CD = class_means(states_CD, plain["training"])
        started = head.start_from(states_CD)
    steps = config.head.warm_start_steps if isinstance(config.head, LinearSettings) else 0
    trained = setup.engine.trained_state()
    if steps:
        whole = {name: trained[f"head.{name}"] for name in head.state_dict()} | started
        pool = setup.train.pool
        if pool is not None:
            pool = replace(pool, rows=plain["unlabelled"])
        loader = replace(setup.train, rows=plain["training"], pool=pool)
        started = warm_started(config, setup.task, loader, whole, setup.class_weight_C)
    named = {f"head.{name}": value for name, value in started.items()}
    if named:
        setup.engine.load_trained_state({**trained, **named})
    if setup.member.start_anchor is not None:
        # read from the state, since an engine may hold only a part of the parameters
        vectors = named.get("head.linear.weight", trained.get("head.linear.weight", trained.get("head.vectors_CE")))
        assert vectors is not None
        setup.member.start_anchor.start(vectors.to(setup.ranks.device), len(setup.train.rows))


def calibrate(setup: Setup, splits: Splits, training: EncodedDataset) -> None:
    """Set the bias of a head that is the model's own as `head.calibration` says; every rank calls it.

        b_c = -log(mean over texts x of p(c | x))

    Source: Zhao et al. 2021, arXiv:2102.09690, for texts without content; over unlabelled texts as in batch
    calibration, Zhou et al. 2023, arXiv:2309.17249.
    """
    settings, task = setup.config.head, setup.task
    if not isinstance(settings, VerbaliserSettings) or settings.calibration == "none":
        return
    rows, given = training, list(splits.unlabelled.texts[:SHARES_ROWS])
    if settings.calibration == "contextual":
        given = without_content(splits.train[0])
    if given:
        rows = EncodedDataset.encode(given, task.labels, setup.template, "calibrating", task.scale)
    mean_C = setup.mean_prediction(rows, np.arange(min(len(rows), SHARES_ROWS)))
    trained = setup.engine.trained_state()
    bias_C = -mean_C.clamp(min=LEAST_SHARE).log()
    setup.engine.load_trained_state({**trained, "head.bias_C": bias_C - bias_C.mean()})


def _scored_by(metric: str | None, task: Task) -> Task:
    """The task, scored by `evaluation.metric` too where it is not one of the task's own."""
    if metric is None or metric in task.metrics:
        return task
    check_metric(metric, task)
    return replace(task, metrics=(*task.metrics, metric))
