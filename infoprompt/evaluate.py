"""Scoring a model on labelled rows.

Shapes: M rows of the data set.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from infoprompt.artifact import Artifact
from infoprompt.bar import track
from infoprompt.config import ConfigError
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.loader import evaluation_batches, num_batches
from infoprompt.data.mapped_rows import changed
from infoprompt.data.places import RowSource, source_name
from infoprompt.data.published_formats import adapter
from infoprompt.data.rows import Adapter, Example, Kind
from infoprompt.data.sources import FOUND_OUT, Dialect
from infoprompt.data.split_rows import SplitRows
from infoprompt.data.task import Task
from infoprompt.data.tasks import TASKS, known_task
from infoprompt.engine.interface import Engine
from infoprompt.engine.pack import Asking, infer
from infoprompt.metrics import score
from infoprompt.objective.task import example_losses
from infoprompt.predictions import Target, as_array, compared, completed, predicted, targets

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """Scores, and what they were made from, in the rows' order, as `predictions.compared` gives it."""

    scores: dict[str, float]
    labels: np.ndarray
    predictions: np.ndarray
    loss: float = math.nan
    """The task's loss, mean over the rows; NaN where only predictions are known."""


def evaluate(engine: Engine, rows: EncodedDataset, task: Task, batch_size: int, name: str) -> Asking[Evaluation]:
    """Score every row once; all ranks take part and all get the result. `name`: of the rows, for people."""
    ranks = engine.ranks
    batches = evaluation_batches(rows, batch_size, ranks.rank, ranks.world_size)
    count, parts = num_batches(rows, batch_size, ranks.world_size), []
    for batch in track(batches, count, f"scoring {name} rows, batches"):
        encoding = yield from infer(engine, batch.to(ranks.device))
        logits_BC = encoding.logits_BC.float().cpu()
        parts.append((batch.examples, predicted(logits_BC, batch, task), example_losses(logits_BC, batch)))
    known = targets(rows, task)
    found: list[Target] = [-1] * len(rows)
    loss_of = [math.nan] * len(rows)
    for rank_parts in ranks.gather_objects(parts):
        for indices, predictions, losses in rank_parts:
            for row, prediction, loss in zip(indices, predictions, losses, strict=True):
                if row >= 0:
                    found[row], loss_of[row] = completed(prediction, known[row], task), loss
    labels, predicted_M = compared(rows, task, found)
    return Evaluation(score(task, labels, predicted_M), labels, predicted_M, math.fsum(loss_of) / len(rows))


def evaluate_given(classes: Sequence[int] | None, rows: EncodedDataset, task: Task) -> Evaluation:
    """Scores of predictions from elsewhere, a class for each row; without any, all scores are NaN."""
    labels, predicted_M = compared(rows, task, classes or [-1] * len(rows))
    scores = score(task, labels, predicted_M) if classes else dict.fromkeys(task.metrics, math.nan)
    return Evaluation(scores, labels, predicted_M)


def evaluate_artifact(
    artifact: Artifact,
    source: RowSource,
    columns: Mapping[str, str],
    batch_size: int = 64,
    task: str | None = None,
    dialect: Dialect = FOUND_OUT,
) -> dict[str, float]:
    """Scores of an artifact on a labelled file or hub split.

    Args:
        artifact: what is scored.
        source: see `sources.read_rows`.
        columns: our column to the file's, where they differ.
        batch_size: examples per pass.
        task: the known task that the rows are of, if not the artifact's own; its columns, classes and metrics count.
        dialect: encoding and delimiter of the file, where they are given.
    Raises:
        ConfigError: the rows cannot be read, hold a label that the artifact (or the task) does not know, or are of a
            task with other classes.
    """
    if task is not None and task != artifact.config.data.task:
        return _scores_on(known_task(task), artifact, source, columns, batch_size, dialect)
    return evaluate_rows(artifact, source, columns, batch_size, dialect).scores


def evaluate_rows(
    artifact: Artifact,
    source: RowSource,
    columns: Mapping[str, str],
    batch_size: int = 64,
    dialect: Dialect = FOUND_OUT,
) -> Evaluation:
    """As `evaluate_artifact` on the artifact's own task, with labels and predictions of each row."""
    adapt = adapter(TASKS.get(artifact.config.data.task or ""))
    return evaluate_examples(artifact, _read(artifact.task, source, columns, adapt, dialect), batch_size)


def evaluate_examples(artifact: Artifact, examples: Sequence[Example], batch_size: int = 64) -> Evaluation:
    """As `evaluate_rows`, of rows that were read and checked."""
    own, rows = artifact.task, artifact.encode(examples)
    labels, predicted_M = compared(rows, own, artifact.predicted(rows, batch_size))
    return Evaluation(score(own, labels, predicted_M), labels, predicted_M)


def _scores_on(
    task: Task,
    artifact: Artifact,
    source: RowSource,
    columns: Mapping[str, str],
    batch_size: int,
    dialect: Dialect,
) -> dict[str, float]:
    """Scores on a task that the artifact was not trained on, each class of its own counted as one of the task's."""
    class_of = np.array(task.classes_of(artifact.task))
    examples = _read(task, source, columns, adapter(task), dialect)
    if "gender_parity" in task.metrics and [row.pair for row in examples[::2]] != [row.pair for row in examples[1::2]]:
        raise ConfigError(
            f"The rows of {source_name(source)} are not pairs of neighbours with the same hypothesis, which "
            "gender_parity compares. Give the published file, in its order."
        )
    rows = artifact.encode(changed(examples, Example.unlabelled))
    predictions = class_of[as_array(artifact.predicted(rows, batch_size))]
    return score(task, np.array(task.ids(examples)), predictions)


def _read(
    task: Task, source: RowSource, columns: Mapping[str, str], adapt: Adapter | None, dialect: Dialect
) -> Sequence[Example]:
    """Rows of the task, labels as it spells them; raises ConfigError for all that are not."""
    kind: Kind | None = "regression" if task.kind == "regression" else None
    part = SplitRows.read("given", source, columns, adapt, dialect, kind)
    if part.examples:
        part.check(task, known_task=False, owner=task.name)
    if part.problems:
        raise part.problems.error(source_name(source))
    for note in part.notes:
        log.warning(note)
    return part.examples
