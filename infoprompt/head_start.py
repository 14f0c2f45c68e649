"""Where a head starts: from the label texts, the rows, training of its own, or calibrated."""

from dataclasses import replace

import numpy as np
from torch import Tensor

from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.pattern import without_content
from infoprompt.data.splits import Splits
from infoprompt.model.heads.kind import Head, head_kind
from infoprompt.model.heads.linear import class_means
from infoprompt.plain_rows import PlainRows
from infoprompt.settings.head import ClassVectorSettings, LinearSettings, VerbaliserSettings
from infoprompt.setup import SHARES_ROWS, Setup
from infoprompt.warm_start import warm_started

LEAST_SHARE = 1e-6
"""Of a class, for its logarithm."""


def start_head(setup: Setup, head: Head, plain: PlainRows) -> None:
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
    rows, pool = training, splits.unlabelled
    given = [pool.texts[row] for row in pool.used[:SHARES_ROWS]]
    if settings.calibration == "contextual":
        given = without_content(splits.train[0])
    if given:
        rows = EncodedDataset.encode(given, task.labels, setup.template, "calibrating", task.scale)
    mean_C = setup.mean_prediction(rows, np.unique(np.linspace(0, len(rows) - 1, SHARES_ROWS).round().astype(int)))
    trained = setup.engine.trained_state()
    bias_C = -mean_C.clamp(min=LEAST_SHARE).log()
    setup.engine.load_trained_state({**trained, "head.bias_C": bias_C - bias_C.mean()})
