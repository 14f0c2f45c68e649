"""How much each class counts in the task's loss, from `data.class_weights`."""

import difflib
from collections import Counter

import torch
from torch import Tensor

from infoprompt.config import ConfigError, DataSettings
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.task import KINDS, Task


def class_weights(settings: DataSettings, task: Task, rows: EncodedDataset) -> Tensor | None:
    """Weight of each class, [C], float32; None where all count alike.

        balanced: w_c = N / (K * N_c)

    with N training rows (of tags, words), N_c of them of class c, and K classes among them, as in scikit-learn. Classes
    without rows, and those that a mapping does not name, weigh 1.

    Raises:
        ConfigError: the task has no classes, or not the one that is named.
    """
    asked = settings.class_weights
    if asked == "none" or not asked:
        return None
    if task.kind in ("choice", "regression"):
        raise ConfigError(
            f"data.class_weights is {asked}, but {task.name} has rows of {KINDS[task.kind]}, which are of no class. "
            "Set it to none."
        )
    if isinstance(asked, dict):
        weights = {_known(label, task): weight for label, weight in asked.items()}
    else:
        classes = rows.tags.values_T.tolist() if rows.tags is not None else rows.labels
        counts = Counter(index for index in classes if index >= 0)
        weights = {index: counts.total() / (len(counts) * count) for index, count in counts.items()}
    return torch.tensor([float(weights.get(index, 1.0)) for index in range(task.num_classes)])


def _known(label: str, task: Task) -> int:
    if label not in task.labels:
        near = difflib.get_close_matches(label, task.labels, n=1, cutoff=0.4)
        hint = f"Did you mean {near[0]}?" if near else f"The classes are {', '.join(task.labels[:10])}."
        raise ConfigError(f"data.class_weights names {label}, which is not a class of {task.name}. {hint}")
    return task.labels.index(label)
