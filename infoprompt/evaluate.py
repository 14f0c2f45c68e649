"""Scoring a model on labelled rows.

Letters: B examples, C classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from infoprompt.artifact import Artifact
from infoprompt.config import ConfigError
from infoprompt.data.batch import Batch
from infoprompt.data.loader import Rows, evaluation_batches
from infoprompt.data.rows import read_examples
from infoprompt.data.tasks import Task
from infoprompt.metrics import score
from infoprompt.model.encoding import Encoding
from infoprompt.model.unprompted import Peers


@dataclass(frozen=True)
class Evaluation:
    """Scores, each in [0, 1], and what they were made from, in the rows' order."""

    scores: dict[str, float]
    labels: np.ndarray
    predictions: np.ndarray


def evaluate(infer: Callable[[Batch], Encoding], rows: Rows, task: Task, peers: Peers, batch_size: int) -> Evaluation:
    """Score every row once; all ranks take part and all get the result."""
    parts: list[tuple[list[int], list[int]]] = []
    for batch in evaluation_batches(rows, batch_size, peers.rank, peers.world_size):
        predicted_B = infer(batch).logits_BC.argmax(1)
        parts.append((batch.row_B.tolist(), predicted_B.tolist()))
    predictions = np.full(len(rows), -1)
    for rank_parts in peers.gather_objects(parts):
        for indices, predicted in rank_parts:
            for row, prediction in zip(indices, predicted, strict=True):
                if row >= 0:
                    predictions[row] = prediction
    labels = np.asarray(rows.labels)
    return Evaluation(score(task, labels, predictions), labels, predictions)


def evaluate_artifact(
    artifact: Artifact, source: str, columns: Mapping[str, str], batch_size: int = 64
) -> dict[str, float]:
    """Scores of an artifact on a labelled file or hub split.

    Raises:
        ConfigError: the rows cannot be read, or hold a label that the artifact does not know.
    """
    examples = read_examples(source, columns)
    index = {label: i for i, label in enumerate(artifact.task.labels)}
    for number, example in enumerate(examples, 1):
        if example.label not in index:
            raise ConfigError(
                f"Row {number} of {source} has the label {example.label!r}, which this prompt was not trained on. "
                f"It knows: {', '.join(artifact.task.labels[:10])}{', ...' if len(index) > 10 else ''}."
            )
    labels = np.asarray([index[str(example.label)] for example in examples])
    predictions = artifact.probabilities(examples, batch_size).argmax(1).numpy()
    return score(artifact.task, labels, predictions)
