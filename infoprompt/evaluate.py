"""Scoring a model on labelled rows.

Letters: N rows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from infoprompt.artifact import Artifact
from infoprompt.config import ConfigError
from infoprompt.data.batch import Batch
from infoprompt.data.forms import adapter
from infoprompt.data.loader import Rows, evaluation_batches
from infoprompt.data.rows import read_examples
from infoprompt.data.task import Task
from infoprompt.data.tasks import TASKS
from infoprompt.metrics import score
from infoprompt.model.encoding import Encoding
from infoprompt.model.unprompted import Peers
from infoprompt.predictions import Target, as_array, completed, predicted, targets


@dataclass(frozen=True)
class Evaluation:
    """Scores, and what they were made from, in the rows' order: class indices, values, or lists of tag indices."""

    scores: dict[str, float]
    labels: np.ndarray
    predictions: np.ndarray


def evaluate(infer: Callable[[Batch], Encoding], rows: Rows, task: Task, peers: Peers, batch_size: int) -> Evaluation:
    """Score every row once; all ranks take part and all get the result."""
    parts: list[tuple[list[int], list[Target]]] = []
    for batch in evaluation_batches(rows, batch_size, peers.rank, peers.world_size):
        parts.append((batch.examples, predicted(infer(batch).logits_BC, batch, task)))
    known = targets(rows, task)
    found: list[Target] = [-1] * len(rows)
    for rank_parts in peers.gather_objects(parts):
        for indices, predictions in rank_parts:
            for row, prediction in zip(indices, predictions, strict=True):
                if row >= 0:
                    found[row] = completed(prediction, known[row], task)
    labels, predicted_N = as_array(known), as_array(found)
    return Evaluation(score(task, labels, predicted_N), labels, predicted_N)


def evaluate_artifact(
    artifact: Artifact, source: str, columns: Mapping[str, str], batch_size: int = 64
) -> dict[str, float]:
    """Scores of an artifact on a labelled file or hub split.

    Raises:
        ConfigError: the rows cannot be read, or hold a label that the artifact does not know.
    """
    task = artifact.task
    examples = read_examples(source, columns, adapt=adapter(TASKS.get(artifact.config.data.task or "")))
    known = set(task.labels)
    for number, example in enumerate(examples, 1):
        if not task.fits(example):
            raise ConfigError(
                f"Row {number} of {source} is of the kind {example.kind}, but this prompt was trained on rows of the "
                f"kind {task.kind}. Give a file with the same columns, or name them by --column."
            )
        unknown = next((label for label in example.given_labels if label not in known), None)
        if unknown is not None:
            raise ConfigError(
                f"Row {number} of {source} has the label {unknown!r}, which this prompt was not trained on. "
                f"It knows: {', '.join(task.labels[:10])}{', ...' if len(known) > 10 else ''}."
            )
    rows = artifact.encode(examples)
    return score(task, as_array(targets(rows, task)), as_array(artifact.predicted(rows, batch_size)))
