"""What came out of a run, and the files and figures that it leaves."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from infoprompt.artifact_files import save_artifact
from infoprompt.engine.pack import Asking
from infoprompt.evaluate import Evaluation
from infoprompt.figures import confusion_matrix, learning_curves
from infoprompt.files import replace_file
from infoprompt.metrics import class_scores, steps_to_share
from infoprompt.output import on_first
from infoprompt.progress import Progress, TrainingStopped
from infoprompt.setup import Setup
from infoprompt.test_predictions import keep_predictions
from infoprompt.tracking import Tracker
from infoprompt.tracking.environment import git_commit, package_version
from infoprompt.training_state import TrainingState


@dataclass(frozen=True)
class RunResult:
    """What came out of a run; the same on every rank."""

    test: dict[str, float]
    """Scores of the best state on the test rows; empty where there are none."""
    dev: dict[str, float]
    """Scores of the best state on the held-out rows; empty where predictions from elsewhere have none of them."""
    steps: int
    """Updates made."""
    best_step: int
    """Updates after which the best state was reached."""
    steps_to_95: int
    """Updates after which dev first reached 95 % of its best score."""
    seconds: float
    """Time of training and evaluation on dev, resumed parts included; loading and test left out."""
    trained_parameters: int
    touched_parameters: int
    """Trained parameters, counting of a table only the rows that the training rows look up."""
    encoder_passes: float
    """Passes over the backbone for each training example of each update. They are the forward passes of training, those
    of texts without labels included, and one unprompted pass for each training row whose states are kept, over the
    examples seen. 1 for a static prompt; 1 + 1 / epochs with kept states; 1 / epochs for a head on kept states alone.
    Without updates the rows count as seen once. Kept states count as computed here also where an earlier run left them;
    evaluation is left out, and so is that a backward pass may be shorter."""
    total_encoder_passes: int
    """The same as a count: `encoder_passes` times the examples seen."""
    metric: str
    """The metric that chose the best state."""
    artifact: str
    """Folder of the artifact; empty if `run.save_artifact` is false."""
    output_dir: str
    run_id: str | None
    unlabelled: str = ""
    """Where texts without labels came from: `rest`, `file`, or `transductive`, the test rows' own; empty without."""
    classes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Precision, recall, F1 and support of each class on the test rows; empty without them or without classes."""
    rows: Mapping[str, int] = field(default_factory=dict)
    """How many rows were trained on (`train`), held out (`dev`) and tested on (`test`); texts without
    labels that were used (`unlabelled`)."""
    version: str | None = None
    """Installed version of this package."""
    commit: str | None = None
    """See `git_commit`."""

    def as_json(self) -> dict[str, Any]:
        """The result as plain values."""
        return asdict(self)


def finish(setup: Setup, state: TrainingState, tracker: Tracker) -> Asking[RunResult]:
    """Score the best state on the test rows, and write all that a run leaves; every rank calls it.

    Raises:
        TrainingStopped: the disk does not take it.
    """
    config, ranks = setup.config, setup.ranks
    output_dir = Path(config.run.output_dir)
    setup.engine.load_trained_state(state.best_state)
    tested = (yield from setup.evaluate(setup.test)) if len(setup.test) else None
    test = tested.scores if tested else {}
    curve = [(int(row["step"]), row[f"dev/{setup.metric}"]) for row in state.history if f"dev/{setup.metric}" in row]
    trained_parameters = sum(tensor.numel() for tensor in state.best_state.values())
    passes = _encoder_passes(setup, state.progress)
    result = RunResult(
        test=test,
        dev=finite(state.best_scores),
        steps=state.progress.step,
        best_step=state.best_step,
        steps_to_95=steps_to_share(curve) if config.updates else 0,
        seconds=round(state.seconds, 3),
        trained_parameters=trained_parameters,
        touched_parameters=trained_parameters - setup.untouched_parameters(),
        encoder_passes=passes / (state.progress.examples or len(setup.train.rows)),
        total_encoder_passes=passes,
        metric=setup.metric,
        artifact=str(output_dir / "artifact") if config.run.save_artifact else "",
        output_dir=str(output_dir),
        run_id=state.run_id,
        unlabelled=setup.pool_name,
        classes=class_scores(setup.task, tested.labels, tested.predictions) if tested else {},
        rows={
            "train": len(setup.train.rows),
            "dev": len(setup.dev),
            "test": len(setup.test),
            **({"unlabelled": len(setup.train.pool.kept)} if setup.train.pool else {}),
        },
        version=package_version("infoprompt"),
        commit=git_commit(),
    )
    on_first(ranks, lambda: _write_results(setup, state, tracker, tested, result))
    return result


def _write_results(
    setup: Setup, state: TrainingState, tracker: Tracker, tested: Evaluation | None, result: RunResult
) -> None:
    """Write what came out, `result.json` last; raises TrainingStopped if the disk does not take it."""
    config, output_dir = setup.config, Path(result.output_dir)
    scores = {"dev": result.dev, "test": result.test}
    try:
        if result.artifact:
            artifact, fingerprint = Path(result.artifact), setup.fingerprint
            save_artifact(
                artifact, state.best_state, setup.spelled_out, setup.task, fingerprint=fingerprint, scores=scores
            )
        replace_file(output_dir / "history.json", json.dumps([finite(row) for row in state.history]))
        tracker.log({f"test/{name}": value for name, value in result.test.items()}, result.steps)
        tracker.log({f"best/dev_{name}": value for name, value in state.best_scores.items()}, result.steps)
        if result.artifact:  # behind its scores, which MLflow shows beside it
            tracker.log_artifacts(Path(result.artifact), "artifact")
        if tested:
            keep_predictions(output_dir, setup.task, tested)
        # last of what is needed, so that its presence means that everything else is there; a picture is a bonus
        replace_file(output_dir / "result.json", json.dumps({"state": "finished", **result.as_json()}, indent=1))
    except OSError as error:
        kept = "Its last resume state stays: with --resume auto nothing is trained again."
        lost = "checkpoint.enabled is false, so there is no resume state to go on from: start again."
        raise TrainingStopped(
            f"The run has come to its end, but its results could not be written to {output_dir}: {error}. Make room, "
            f"or get the right to write there. {kept if config.checkpoint.enabled else lost}"
        ) from None
    if config.run.save_artifact or config.tracking.enabled:  # else nobody looks at the pictures of one of many runs
        _draw(setup, state, tracker, tested)


def _draw(setup: Setup, state: TrainingState, tracker: Tracker, tested: Evaluation | None) -> None:
    tracker.log_figure("learning_curves.png", lambda: learning_curves(state.history))
    if tested and setup.task.classifies:
        labels, predictions = tested.labels.tolist(), tested.predictions.tolist()
        tracker.log_figure("confusion_matrix.png", lambda: confusion_matrix(labels, predictions, setup.task.labels))


def finite(row: Mapping[str, float]) -> dict[str, float]:
    """What JSON has words for: neither NaN nor infinity."""
    return {name: value for name, value in row.items() if math.isfinite(value)}


def _encoder_passes(setup: Setup, progress: Progress) -> int:
    """See `RunResult.encoder_passes`."""
    rows = setup.train.rows
    kept = 0 if rows.pooled_MD is None else len(rows)
    if kept and setup.config.prompt.kind == "none":
        return kept
    pool = setup.train.pool
    below = 0 if pool is None else max(0, progress.step - pool.first_step) * pool.batch_size
    return kept + progress.examples + below
