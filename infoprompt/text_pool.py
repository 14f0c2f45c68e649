"""The texts without labels that a run trains on: how many at a time, and which of them."""

import logging
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from infoprompt.config import ConfigError, RunConfig
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.loader import Pool
from infoprompt.data.unlabelled import check_number
from infoprompt.model.heads.linear import class_means
from infoprompt.model.strangers import effective_number, kept_texts, nearest_shares
from infoprompt.plain_rows import PlainRows
from infoprompt.setup import Setup

log = logging.getLogger(__name__)

EVEN = 0.8
"""Share of the classes that texts must at least spread over to look even; EXPERIMENTS 2026-11-29 has what skew does."""


def text_pool(config: RunConfig, rows: Mapping[str, EncodedDataset], used: np.ndarray, parts: int) -> Pool:
    """The texts that may be used, in equal parts for the `parts` passes of an update; raises ConfigError."""
    size, pool_rows = config.data.unlabelled_batch, rows["unlabelled"]
    if size % parts:
        raise ConfigError(
            f"data.unlabelled_batch is {size}, but {parts} forward passes of an update share it (ranks, times those of "
            f"each). Use {size - size % parts or parts}."
        )
    total = config.optim.total_steps(-(-len(rows["training"]) // config.data.batch_size))
    first = round(config.objective.label_start * total)
    return Pool(pool_rows, size, first, used)


def without_strangers(setup: Setup, used: np.ndarray, plain: PlainRows) -> np.ndarray:
    """Which of the used texts are like the task's rows; raises ConfigError if they are too few.

    Logs how many are left out, and warns where the others look uneven.
    """
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
