"""The artifact of a run as a model of MLflow's own: in the experiment's tab of models, with its final scores.

A version in the registry is made from it.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infoprompt.tracking.spool import Ledger, Spool

RUN_KEY_TAG = "infoprompt.run_key"
"""By it a run, or its model, is found whose creation was never answered."""
MODEL_FILE = "MLmodel"
"""What a folder that MLflow can load has."""
FINAL = ("test/", "best/")
"""Beginnings of the names of metrics that are those of the saved state."""
TOLD = ("task", "task.kind", "recipe", "backbone", "prompt")
"""Tags of the run that are shown beside its model."""

# What a server answers that knows no such models, as MLflow 2 does.
UNKNOWN = ("ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED", "FEATURE_DISABLED")


def send_model(client: Any, ledger: Ledger, spool: Spool, experiment_id: str, folder: Path) -> None:
    """Bring a run's artifact as a model; doing it again changes nothing. Nothing where the server knows no models.

    Raises:
        what the client raises.
    """
    from mlflow.entities import LoggedModelOutput, Metric
    from mlflow.exceptions import MlflowException

    try:
        model_id = _model_id(client, ledger, experiment_id)
    except MlflowException as error:
        if error.error_code in UNKNOWN:
            return
        raise
    client.log_model_artifacts(model_id, str(folder))
    records = [(record, _final(record.metrics)) for record in spool.read()[0]]
    # the run has them already; a database keeps what comes twice with one time once
    metrics = [
        Metric(legal(key), value, round(record.time * 1000), record.step, model_id=model_id)
        for record, values in records
        for key, value in values.items()
    ]
    if metrics:
        client.log_batch(ledger.run_id, metrics=metrics, synchronous=True)
    outputs = client.get_run(ledger.run_id).outputs
    if not any(output.model_id == model_id for output in (outputs.model_outputs if outputs else ())):  # refused twice
        client.log_outputs(ledger.run_id, [LoggedModelOutput(model_id, max((m.step for m in metrics), default=0))])
    client.finalize_logged_model(model_id, "READY")


def legal(key: str) -> str:
    """A metric's name as MLflow takes it."""
    return re.sub(r"[^\w\-. /]", "_", key)[:250]


def _model_id(client: Any, ledger: Ledger, experiment_id: str) -> str:
    if ledger.model_id is not None:
        return ledger.model_id
    query = f"tags.`{RUN_KEY_TAG}` = '{ledger.run_key}'"
    found = client.search_logged_models([experiment_id], query, max_results=1)
    if not found:
        found = [
            client.create_logged_model(
                experiment_id,
                name=re.sub(r"[/:.%\"']", "_", ledger.run_name) or None,  # what MLflow refuses
                source_run_id=ledger.run_id,
                tags={RUN_KEY_TAG: ledger.run_key},
                params={key: ledger.tags[key] for key in TOLD if key in ledger.tags},
                model_type="soft prompt",
            )
        ]
    ledger.update(model_id=str(found[0].model_id))
    return str(found[0].model_id)


def _final(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if key.startswith(FINAL) and math.isfinite(value)}
