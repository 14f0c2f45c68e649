"""A head that is found at once from the training rows, see `head.fit`.

Shapes: M rows of the training part, D hidden width.
"""

import torch
from torch import Tensor

from infoprompt.bar import track
from infoprompt.data.loader import evaluation_batches, num_batches
from infoprompt.model.fitted_heads import FITS, Linear, TrainingRows
from infoprompt.output import on_first
from infoprompt.setup import Setup

WEIGHT, BIAS = "head.linear.weight", "head.linear.bias"


def fit_head(setup: Setup) -> None:
    """Set the head to what `head.fit` makes of the training rows and the model as it is; every rank calls it."""
    way = setup.config.head_fit
    if way in ("gradient", "start"):
        return
    fit, rows = FITS[way], setup.train.rows
    states_MD = pooled_states(setup) if fit.reads_states else None
    trained = setup.engine.trained_state()

    def found() -> Linear:
        given = TrainingRows(rows.labels, setup.task.num_classes, states_MD, setup.class_weight_C)
        return fit.fit(given, (trained[WEIGHT], trained[BIAS]))

    linear = setup.ranks.broadcast_object(on_first(setup.ranks, found))  # machines differ in rounding
    assert linear is not None
    weight_CD, bias_C = linear
    setup.engine.load_trained_state({**trained, WEIGHT: weight_CD, BIAS: bias_C})


def pooled_states(setup: Setup) -> Tensor:
    """Pooled states of the training rows, [M, D], float32 on the CPU: those that are kept, where the head reads these.

    Else of a pass over all rows, with the prompt. Every rank takes part.
    """
    rows, ranks, batch_size = setup.train.rows, setup.ranks, setup.config.evaluation.batch_size
    if setup.config.prompt.kind == "none" and rows.pooled_MD is not None:
        return rows.pooled_MD
    batches = evaluation_batches(rows, batch_size, ranks.rank, ranks.world_size)
    parts = []
    for batch in track(
        batches, num_batches(rows, batch_size, ranks.world_size), "states of the training rows, batches"
    ):
        parts.append((batch.row_B, setup.infer(batch).pooled_BD.float().cpu()))
    found = [part for rank_parts in ranks.gather_objects(parts) for part in rank_parts]
    row_M, pooled_MD = (torch.cat(side) for side in zip(*found, strict=True))
    known_M = row_M >= 0
    states_MD = torch.zeros(len(rows), pooled_MD.shape[1])
    states_MD[row_M[known_M]] = pooled_MD[known_M]
    return states_MD
