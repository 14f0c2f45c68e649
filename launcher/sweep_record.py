"""What MLflow has of a sweep: a parent run, and an end for every trial, also for those that were killed."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from infoprompt.config import TrackingSettings
from infoprompt.tracking import end_run, prepare_tracking, start_parent_run
from infoprompt.tracking.spool import LEDGER_NAME
from launcher.sweep_outcome import TrialOutcome
from launcher.sweep_plan import SweepSettings


@dataclass
class Record:
    """The parent run, and the trials whose own runs nobody else ends."""

    parent_run_id: str | None
    abandoned: list[str]
    """Ids of trials that began and are not known to have ended."""
    status: Literal["FINISHED", "FAILED", "KILLED"] = "KILLED"

    def finish(self, outcomes: Sequence[TrialOutcome]) -> None:
        """All trials ended; a failed one may have been killed before it could say so."""
        self.abandoned = [outcome.trial_id for outcome in outcomes if outcome.result is None]
        self.status = "FINISHED" if any(outcome.result for outcome in outcomes) else "FAILED"


@contextlib.contextmanager
def recorded(sweep: SweepSettings, tracking: TrackingSettings, trial_ids: Mapping[int, str]) -> Iterator[Record]:
    """A parent run that ends as the body does; `trial_ids` are those of the trials that have begun by then."""
    prepare_tracking(tracking)
    tags = {"sweep.file": sweep.base, "sweep.metric": sweep.metric}
    record = Record(start_parent_run(tracking, sweep.sweep_name, tags), [])
    finished = False
    try:
        yield record
        finished = True
    except Exception:
        record.status = "FAILED"
        raise
    finally:
        for trial_id in record.abandoned if finished else trial_ids.values():
            folder = Path(sweep.output_dir) / "trials" / trial_id
            if not (folder / "result.json").exists():
                end_run(tracking, recorded_run_id(folder), "FAILED" if finished else record.status)
        end_run(tracking, record.parent_run_id, record.status)


def recorded_run_id(folder: Path) -> str | None:
    """The trial's run in MLflow; None if it failed before it had one, or on a node whose folder is not here."""
    try:
        run_id: str | None = json.loads((folder / LEDGER_NAME).read_text(encoding="utf-8"))["run_id"]
    except (OSError, ValueError, KeyError):
        return None
    return run_id
