"""What MLflow has of a study: a parent run, which all starts of the study share, with its tables and figures."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from infoprompt.config import TrackingSettings
from infoprompt.tracking import end_run, log_files, prepare_tracking, shown_uri, start_parent_run, tracking_uri
from launcher.study_plan import Study

RUN_NAME = "mlflow_run.json"


@contextlib.contextmanager
def recorded(study: Study, tracking: TrackingSettings) -> Iterator[str | None]:
    """The parent run's id, None without tracking; at the end the study's files are brought to it, also when stopped."""
    prepare_tracking(tracking)
    run_id = _parent_run(study, tracking)
    status: Literal["FINISHED", "FAILED", "KILLED"] = "KILLED"
    try:
        yield run_id
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        top = [path for path in sorted(study.folder.iterdir()) if path.suffix in (".md", ".csv") or path.stem == "plan"]
        figures = sorted((study.folder / "figures").glob("*.png"))
        log_files(tracking, run_id, {**dict.fromkeys(top, ""), **dict.fromkeys(figures, "figures")})
        end_run(tracking, run_id, status)


def _parent_run(study: Study, tracking: TrackingSettings) -> str | None:
    if not tracking.enabled:
        return None
    path, uri = study.folder / RUN_NAME, shown_uri(tracking_uri(tracking))
    earlier = _earlier_run(path, uri)
    run_id = start_parent_run(tracking, study.config.study_name, {"study": study.config.study_name}, earlier)
    if run_id:
        path.write_text(json.dumps({"uri": uri, "run_id": run_id}), encoding="utf-8")
    return run_id


def _earlier_run(path: Path, uri: str) -> str | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(kept["run_id"]) if kept.get("uri") == uri and kept.get("run_id") else None
