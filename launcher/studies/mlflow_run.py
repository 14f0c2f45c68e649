"""What MLflow has of a study: a parent run, which all starts of the study share, with its tables and figures."""

import contextlib
from collections.abc import Iterator
from typing import Literal

from infoprompt.config import TrackingSettings
from infoprompt.tracking import end_run, log_files
from launcher.mlflow_parent import shared_parent
from launcher.studies.plan import Study


@contextlib.contextmanager
def recorded(study: Study, tracking: TrackingSettings) -> Iterator[str | None]:
    """The parent run's id, None without tracking; at the end the study's files are brought to it, also when stopped."""
    name = study.config.study_name
    run_id = shared_parent(study.folder, tracking, name, {"study": name})
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
