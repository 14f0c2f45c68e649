"""From scores to what is predicted, for every kind of task, and what it is compared with.

Shapes: B examples, C classes or choices, S words.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from infoprompt.data.batch import Batch
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.task import Task

Target = int | float | list[int]
"""Class index or place of the choice; value, or score of a candidate answer; or class index of each word."""


def predicted(logits_BC: Tensor, batch: Batch, task: Task) -> list[Target]:
    """What is predicted for each example of the batch, in its order.

    Args:
        logits_BC: scores of the model: [B, C]; [B, S, C] for tags, [B, 1] for regression.
        batch: what they were made from.
        task: its kind, and the scale that values are brought back to.
    """
    if task.scale is not None:
        low, high = task.scale
        values: list[Target] = [low + (high - low) * value for value in logits_BC.float().squeeze(1).tolist()]
        return values
    if task.kind == "answer":
        wrong_B, right_B = logits_BC.float().unbind(1)
        scores: list[Target] = (right_B - wrong_B).tolist()
        return scores
    if batch.word_BS is not None:
        num_words = (batch.word_BS >= 0).sum(1).tolist()
        return [tags[:count] for tags, count in zip(logits_BC.argmax(2).tolist(), num_words, strict=True)]
    classes: list[Target] = logits_BC.argmax(1).tolist()
    return classes


def targets(rows: EncodedDataset, task: Task) -> list[Target]:
    """What `predicted` is compared with, in the rows' order."""
    if rows.values is not None and task.scale is not None:
        low, high = task.scale
        return [low + (high - low) * value for value in rows.values]
    return [*rows.tags] if rows.tags is not None else [*rows.labels]


def compared(rows: EncodedDataset, task: Task, found: Sequence[Target]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions as metrics read them, in the rows' order.

    Of candidate answers, for each question: a list of its right answers, and the text of its best scored candidate.
    """
    if rows.candidates is None:
        return as_array(targets(rows, task)), as_array(found)
    scores = np.array(found, dtype=float)
    best: dict[str, int] = {}
    for row, candidate in enumerate(rows.candidates):
        if scores[row] > scores[best.setdefault(candidate.question, row)]:
            best[candidate.question] = row
    given = [rows.candidates[row] for row in best.values()]
    return as_array([list(answer.right) for answer in given]), np.array([answer.text for answer in given])


def as_array(values: Sequence[Target | list[str]]) -> np.ndarray:
    """The values as an array over examples; tags and right answers as an array of lists."""
    if not any(isinstance(value, list) for value in values):
        return np.asarray(values)
    array = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        array[index] = value
    return array


def completed(prediction: Target, known: Target, task: Task) -> Target:
    """Tags for all words of an example: those that were cut off count as predicted `O`, or the first class without it.

    Args:
        prediction: tags of the words that were read; anything but tags passes unchanged.
        known: the example's own target, which has a tag for each word.
        task: names the classes.
    """
    if not isinstance(prediction, list) or not isinstance(known, list):
        return prediction
    outside = task.labels.index("O") if "O" in task.labels else 0
    return prediction + [outside] * (len(known) - len(prediction))
