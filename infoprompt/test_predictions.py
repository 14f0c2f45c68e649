"""What is kept of the scoring of the test rows, and how a run that ended without it gets it later."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from infoprompt.artifact import Artifact
from infoprompt.config import ConfigError, RunConfig
from infoprompt.data.splits import load_splits
from infoprompt.data.task import Task
from infoprompt.evaluate import Evaluation
from infoprompt.figures import confusion_matrix
from infoprompt.files import replace_file
from infoprompt.metrics import class_scores, score
from infoprompt.picture import save_picture
from infoprompt.predictions import compared

PREDICTIONS_NAME = "predictions.json"
RESULT_NAME = "result.json"


def keep_predictions(folder: Path, task: Task, tested: Evaluation) -> None:
    """Write what was predicted for each test row, and what always predicting the most frequent class would score."""
    majority = {}
    if task.classifies:
        most_frequent = np.bincount(tested.labels).argmax()
        majority = score(task, tested.labels, np.full_like(tested.labels, most_frequent))
    kept = {
        "classes": list(task.labels),
        "labels": tested.labels.tolist(),
        "predictions": [None if _is_nan(value) else value for value in tested.predictions.tolist()],
        "majority": majority,
    }
    replace_file(folder / PREDICTIONS_NAME, json.dumps(kept))


def _is_nan(value: Any) -> bool:
    """Which JSON has no word for."""
    return isinstance(value, float) and math.isnan(value)


def score_later(config: RunConfig, device: str) -> dict[str, Any]:
    """Score the artifact of a finished run on its test rows, as the run would have done with `evaluation.test`.

    Args:
        config: of the run; `predictions.json`, `result.json` and the confusion matrix in its folder are brought up to
            date.
        device: `auto`, `cpu` or `cuda`.
    Returns:
        `test` and `classes` of the run's result; empty if the task has no test rows.
    Raises:
        ConfigError: the run has no artifact, or its test rows cannot be read.
        ArtifactError: the artifact is damaged, or the backbone has other weights.
    """
    folder = Path(config.run.output_dir)
    artifact_folder = folder / "artifact"
    if not artifact_folder.is_dir():
        raise ConfigError(
            f"There is no artifact in {artifact_folder}: either run.save_artifact is false, or this machine does not "
            "share the folder"
        )
    examples = load_splits(config.data, config.data_seed).test
    if not examples:
        return {}
    artifact = Artifact.from_pretrained(artifact_folder, device=device)
    task = artifact.task
    rows = artifact.encode(examples)
    labels, predictions = compared(rows, task, artifact.predicted(rows, config.evaluation.batch_size))
    tested = Evaluation(score(task, labels, predictions), labels, predictions)
    found = {"test": tested.scores, "classes": class_scores(task, labels, predictions)}
    keep_predictions(folder, task, tested)
    result = json.loads((folder / RESULT_NAME).read_text())
    replace_file(folder / RESULT_NAME, json.dumps({**result, **found}, indent=1))
    if task.classifies:
        path = folder / "artifacts" / "confusion_matrix.png"
        save_picture(path.name, path, lambda: confusion_matrix(labels.tolist(), predictions.tolist(), task.labels))
    return found
