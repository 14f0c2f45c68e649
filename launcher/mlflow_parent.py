"""The run in MLflow that the runs of a sweep or a study have as their parent, the same one for every start."""

import json
from collections.abc import Mapping
from pathlib import Path

from infoprompt.config import TrackingSettings
from infoprompt.tracking import prepare_tracking, shown_uri, start_parent_run, tracking_uri
from infoprompt.tracking.client import NOTHING

PARENT_NAME = "mlflow_run.json"
"""In the folder of the sweep or study: the run's id, and where it is, without credentials."""


def shared_parent(
    folder: Path,
    tracking: TrackingSettings,
    name: str,
    tags: Mapping[str, str],
    params: Mapping[str, str] = NOTHING,
) -> str | None:
    """Id of the run, gone on with if an earlier start made it there; None without tracking, or, with a warning, MLflow.

    Args:
        folder: of the sweep or study.
        tracking: where MLflow is.
        name: of a new run.
        tags: of a new run.
        params: of a new run.
    Raises:
        ConfigError: see `prepare_tracking`.
    """
    if not tracking.enabled:
        return None
    prepare_tracking(tracking)
    uri, path = shown_uri(tracking_uri(tracking)), folder / PARENT_NAME
    run_id = start_parent_run(tracking, name, tags, _earlier_run(path, uri), params)
    if run_id:
        path.write_text(json.dumps({"uri": uri, "run_id": run_id}), encoding="utf-8")
    return run_id


def _earlier_run(path: Path, uri: str) -> str | None:
    """Id that an earlier start has left; None if it was made elsewhere. Sweeps did not use to say where."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(kept, dict) or kept.get("uri", uri) != uri or not isinstance(kept.get("run_id"), str):
        return None
    return str(kept["run_id"])
