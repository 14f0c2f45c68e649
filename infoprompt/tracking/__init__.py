"""MLflow, and the records of a run that stand without it.

tracker.py (what a run calls) -> spool.py (its folder) -> delivery.py (MLflow, each record once) -> client.py (limits)
"""

from infoprompt.tracking.client import (
    connect,
    describe_run,
    end_run,
    log_files,
    prepare_tracking,
    register_artifact,
    shown_uri,
    start_parent_run,
    tracking_uri,
)
from infoprompt.tracking.delivery import DeliveryReport, deliver, end_for
from infoprompt.tracking.spool import read_history, recorded_as, runs_page
from infoprompt.tracking.tracker import Tracker

__all__ = [
    "DeliveryReport",
    "Tracker",
    "connect",
    "deliver",
    "describe_run",
    "end_for",
    "end_run",
    "log_files",
    "prepare_tracking",
    "read_history",
    "recorded_as",
    "register_artifact",
    "runs_page",
    "shown_uri",
    "start_parent_run",
    "tracking_uri",
]
