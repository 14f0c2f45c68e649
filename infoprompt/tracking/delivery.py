"""Brings what a run's folder remembers to MLflow, each (metric, step) once, however often it is interrupted."""

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from infoprompt.config import TrackingSettings
from infoprompt.credentials import full_uri
from infoprompt.tracking.client import (
    DRIVER_SECONDS,
    MAX_PARAM_LENGTH,
    Status,
    connect,
    find_experiment,
    reason,
    shown_uri,
    tracking_uri,
    within,
)
from infoprompt.tracking.logged_model import MODEL_FILE, RUN_KEY_TAG, legal, send_model
from infoprompt.tracking.spool import LEDGER_NAME, SPOOL_NAME, Ledger, Record, Spool

logger = logging.getLogger(__name__)

Item = TypeVar("Item")

METRICS_PER_CALL = 1000  # MLflow's limit
ENTRIES_PER_CALL = 100  # MLflow's limit on params, and on tags


@dataclass(frozen=True)
class DeliveryReport:
    """What `deliver` did."""

    uri: str
    run_id: str | None
    records_sent: int
    artifacts_sent: int
    records_left: int
    artifacts_left: int
    error: str | None
    """Why something is left; None if all arrived."""


def deliver(output_dir: str | os.PathLike[str], uri: str | None = None) -> DeliveryReport:
    """Bring what MLflow missed of a run that is over; doing it again sends nothing twice.

    Args:
        output_dir: the run's folder.
        uri: server or database, if not the one the run was started with.
    Raises:
        ValueError: the folder holds no recorded run, or the URI's credentials are needed and not given.
    """
    folder = Path(output_dir)
    if not (folder / LEDGER_NAME).exists():
        raise ValueError(f"{folder} has no {LEDGER_NAME}: no run was recorded there with tracking.enabled=true.")
    ledger = Ledger.load(folder / LEDGER_NAME)
    full_uri = _full_uri(uri, ledger)
    if shown_uri(full_uri) != ledger.uri:
        ledger.update(uri=shown_uri(full_uri), described=False)
    spool = Spool(folder / SPOOL_NAME)
    delivery = Delivery(full_uri, ledger, spool, reopen=False)
    error = None
    try:
        delivery.everything()
    except Exception as failure:
        error = reason(failure)
    left, _ = spool.read(ledger.delivered)
    return DeliveryReport(
        ledger.uri,
        ledger.run_id,
        delivery.records_sent,
        delivery.artifacts_sent,
        len(left),
        len(ledger.artifacts),
        error,
    )


def end_for(output_dir: Path, settings: TrackingSettings, status: Status, *, overrule: bool = False) -> bool:
    """Deliver what MLflow misses of a run whose process is gone, and how it ended where it could not say so itself.

    Args:
        output_dir: the run's folder; nothing is done for one without records.
        settings: where MLflow is.
        status: how the run ended.
        overrule: also where it said something else, as a process may that is taken down.
    Returns:
        Whether MLflow has everything now; if it does not answer, a warning says so, and `infoprompt sync` brings the
        rest.
    """
    if not settings.enabled or not (output_dir / LEDGER_NAME).exists():
        return True
    uri = tracking_uri(settings)
    try:
        ledger = Ledger.load(output_dir / LEDGER_NAME)
        if ledger.status is None or (overrule and ledger.status != status):
            ledger.update(status=status, ended=False)
        problem = within(DRIVER_SECONDS, lambda: deliver(output_dir, uri)).error
    except (OSError, ValueError) as error:  # no answer in time, a full disk, a damaged file
        problem = str(error)
    if problem:
        logger.warning("MLflow at %s does not take the end of the run in %s (%s).", shown_uri(uri), output_dir, problem)
    return problem is None


class Delivery:
    """Delivers what the ledger says is missing; any call may raise, and the next one goes on where it ended."""

    def __init__(self, uri: str, ledger: Ledger, spool: Spool, *, reopen: bool) -> None:
        """`reopen`: the run goes on, and MLflow shall show it as RUNNING again."""
        self.records_sent = 0
        self.artifacts_sent = 0
        self._uri = uri
        self._ledger = ledger
        self._spool = spool
        self._reopen = reopen
        self._client: Any = None
        self._attached = False
        self._known_steps: dict[str, set[int] | None] = {}  # steps MLflow had of a metric; None: some, not yet asked

    @property
    def complete(self) -> bool:
        """Whether MLflow has everything."""
        ledger = self._ledger
        ended = ledger.status is None or ledger.ended
        return ledger.described and ledger.delivered >= self._spool.size and not ledger.artifacts and ended

    def everything(self) -> None:
        """One attempt at all that is missing; raises what the client raises."""
        if self.complete:
            return
        if self._client is None:
            self._client = connect(self._uri)
        if not self._attached:
            self._attach()
        if not self._ledger.described:
            self._describe()
        self._send_records()
        failure = self._send_artifacts()
        if self._ledger.status and not self._ledger.ended:  # even after a failure: the run is not RUNNING any more
            self._client.set_terminated(self._ledger.run_id, self._ledger.status)
            self._ledger.update(ended=True)
        if failure:
            raise failure

    def _attach(self) -> None:
        """Find the run, or make it."""
        run = self._find_run()
        if run is None:
            experiment_id = find_experiment(self._client, self._uri, self._ledger.experiment)
            tags = {**self._ledger.tags, RUN_KEY_TAG: self._ledger.run_key}
            run = self._client.create_run(experiment_id, tags=tags, run_name=self._ledger.run_name)
        elif self._reopen and self._ledger.status is None and run.info.status != "RUNNING":
            self._client.update_run(run.info.run_id, status="RUNNING")
        self._known_steps = dict.fromkeys(run.data.metrics)
        self._ledger.update(run_id=run.info.run_id, experiment_id=run.info.experiment_id)
        self._attached = True

    def _find_run(self) -> Any:
        from mlflow.exceptions import MlflowException

        if self._ledger.run_id is None:
            return self._find_unanswered()
        try:
            return self._client.get_run(self._ledger.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        logger.warning("MLflow has no run %s any more; all records go to a new one.", self._ledger.run_id)
        self._ledger.forget_delivery()
        return None

    def _find_unanswered(self) -> Any:
        """The run of an earlier attempt that the server made, but whose answer never came."""
        experiment = self._client.get_experiment_by_name(self._ledger.experiment)
        if experiment is None:
            return None
        query = f"tags.`{RUN_KEY_TAG}` = '{self._ledger.run_key}'"
        runs = self._client.search_runs([experiment.experiment_id], query, max_results=1)
        return runs[0] if runs else None

    def _describe(self) -> None:
        """Log params and tags. MLflow's params are written once, so one that a resumed run changed becomes a tag."""
        from mlflow.entities import Param, RunTag

        run = self._client.get_run(self._ledger.run_id).data
        wanted = {key: value[:MAX_PARAM_LENGTH] for key, value in self._ledger.params.items()}
        new = [Param(key, value) for key, value in wanted.items() if key not in run.params]
        changed = {
            f"changed.{key}": value
            for key, value in wanted.items()
            if key in run.params and (run.params[key] != value or f"changed.{key}" in run.tags)
        }
        tags = [RunTag(key, value) for key, value in {**self._ledger.tags, **changed}.items()]
        for params_part in _parts(new, ENTRIES_PER_CALL):
            self._client.log_batch(self._ledger.run_id, params=params_part, synchronous=True)
        for tags_part in _parts(tags, ENTRIES_PER_CALL):
            self._client.log_batch(self._ledger.run_id, tags=tags_part, synchronous=True)
        self._ledger.update(described=True)

    def _send_records(self) -> None:
        """Send what lies behind `ledger.delivered`. MLflow's databases drop what comes twice with one time, so an
        answer that got lost does no harm either."""
        while self._ledger.delivered < self._spool.size:
            records, end = self._spool.read(self._ledger.delivered, METRICS_PER_CALL // 2)
            if end == self._ledger.delivered:
                raise FileNotFoundError(f"{self._spool.path} is gone or was cut off while the run went on")
            metrics = self._new_metrics(records)
            for part in _parts(metrics, METRICS_PER_CALL):
                self._client.log_batch(self._ledger.run_id, metrics=part, synchronous=True)
            self.records_sent += len(records)
            self._ledger.update(delivered=end)

    def _new_metrics(self, records: Sequence[Record]) -> list[Any]:
        from mlflow.entities import Metric

        return [
            # an infinite value would stretch the chart to 1.8e308; MLflow shows NaN for what it is
            Metric(legal(key), value if math.isfinite(value) else math.nan, round(record.time * 1000), record.step)
            for record in records
            for key, value in record.metrics.items()
            if record.step not in self._steps_there(legal(key))
        ]

    def _steps_there(self, key: str) -> set[int]:
        """Steps of a metric that MLflow had when the run was reopened."""
        steps = self._known_steps.get(key, set())
        if steps is None:
            steps = {metric.step for metric in self._client.get_metric_history(self._ledger.run_id, key)}
            self._known_steps[key] = steps
        return steps

    def _send_artifacts(self) -> Exception | None:
        """Send each file and folder; one that fails stays on the list, and the others go on."""
        failure = None
        for entry in list(self._ledger.artifacts):
            path, to = self._ledger.path.parent / entry[0], entry[1] or None
            try:
                if path.is_dir():
                    self._client.log_artifacts(self._ledger.run_id, str(path), to)
                    if (path / MODEL_FILE).exists():
                        send_model(self._client, self._ledger, self._spool, str(self._ledger.experiment_id), path)
                elif path.exists():
                    self._client.log_artifact(self._ledger.run_id, str(path), to)
                else:
                    logger.warning("%s is gone and cannot be delivered to MLflow any more.", path)
            except Exception as error:
                failure = error
                continue
            self.artifacts_sent += 1
            self._ledger.artifact_done(entry)
        return failure


def _full_uri(uri: str | None, ledger: Ledger) -> str:
    """The URI with the credentials that the ledger leaves out."""
    full = uri or full_uri(ledger.uri)
    if full is None:
        raise ValueError(
            f"The run was recorded at {ledger.uri}, whose credentials are not kept. Set MLFLOW_TRACKING_URI to the "
            "full URI, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )
    return full


def _parts(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
