"""MLflow's client: where it is, how long it may take, and what the driver asks of it around a run.

Every call may take long or fail. Nothing here is called by the training loop.
"""

import importlib
import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from filelock import FileLock

from infoprompt.config import ConfigError, TrackingSettings
from infoprompt.credentials import full_uri, shown_uri

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")
NOTHING: Mapping[str, Any] = MappingProxyType({})
MAX_PARAM_LENGTH = 6000  # MLflow cuts the value of a param here
Status = Literal["FINISHED", "FAILED", "KILLED"]

MODEL_VERSIONS_TAG = "mlflow.modelVersions"
"""By it MLflow's pages lead from a model to its versions in the registry."""
DRIVER_SECONDS = 60.0  # for one call before or after a run; a fresh database takes up to 10

# Without it, MLflow's pages open such runs among those of chat applications.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}

# MLflow's own limits let one refused connection take four minutes. A run's records can wait; a run cannot.
CLIENT_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def tracking_uri(settings: TrackingSettings) -> str:
    """Server or database to use: `tracking.uri`, else MLFLOW_TRACKING_URI, else `mlflow.db` in this folder.

    A database file's path is made absolute, since workers run in other folders: call this in the driver.
    Raises:
        ConfigError: for a folder of files, which MLflow no longer writes, or an address whose credentials are lacking.
    """
    given = settings.uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    uri = full_uri(given)
    if uri is None:
        raise ConfigError(
            f"tracking.uri is {given}, whose credentials are not kept. Set MLFLOW_TRACKING_URI to the full address, or "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or give tracking.uri again."
        )
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    if uri.startswith("file:") or ("://" not in uri and uri != "databricks"):
        shown = _masked(uri)
        raise ConfigError(
            f"tracking.uri (or MLFLOW_TRACKING_URI) is {shown}, but MLflow no longer records into a folder of files. "
            f"Use a database, such as sqlite:///{shown.removeprefix('file:').rstrip('/')}/mlflow.db, or a server."
        )
    return uri


def _masked(uri: str) -> str:
    """Of something that may be an address whose scheme was forgotten."""
    return shown_uri(uri) if "://" in uri else re.sub(r"^.*@", "***@", uri)


def load_mlflow() -> None:
    """Import MLflow with short limits; takes seconds, so the main thread does it before the first step."""
    for name, value in CLIENT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "mlflow.store.db.utils"):  # a line for every table of a fresh database
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a line for every retry; we warn once
    try:
        importlib.import_module("mlflow")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"tracking.enabled is true, but {error.name} is missing. Install mlflow, or set tracking.enabled=false."
        ) from error


def connect(uri: str) -> Any:
    """A client; makes the tables of a fresh database, one process at a time (two at once break each other)."""
    load_mlflow()
    from mlflow import MlflowClient

    database = _database_file(uri)
    if database is None:
        return MlflowClient(uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock", timeout=60):
        return MlflowClient(uri)


def find_experiment(client: Any, uri: str, name: str) -> str:
    """Id of the experiment, made if missing; raises ConfigError if it was deleted."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            location = _artifact_location(uri, name)
            return str(client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS))
        except MlflowException:  # somebody else was faster
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        raise ConfigError(
            f"tracking.experiment is {name}, but that experiment was deleted. Choose another name, or bring it back: "
            f"mlflow experiments restore --experiment-id {experiment.experiment_id}"
        )
    return str(experiment.experiment_id)


def within(seconds: float, call: Callable[[], Answer]) -> Answer:
    """The call's answer or exception; TimeoutError if it takes longer (a database driver may try for minutes)."""
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=work, daemon=True, name="mlflow-call").start()
    try:
        answer, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer in {seconds:g} s") from None
    if error is not None:
        raise error
    return answer


def reason(error: BaseException) -> str:
    """One line, without credentials: the innermost error, such as a refused connection."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    text = " ".join(str(error).split())
    return shown_uri(f"{type(error).__name__}: {text}")[:300]


def prepare_tracking(settings: TrackingSettings) -> str | None:
    """Make database and experiment, in the driver, before any worker starts (two that make them at once fail).

    Returns:
        The experiment's id; None if tracking is off, or, with one warning, if MLflow cannot be reached.
    Raises:
        ConfigError: the settings cannot work: a folder of files as URI, a deleted experiment.
    """
    if not settings.enabled:
        return None
    uri = tracking_uri(settings)
    try:
        return within(DRIVER_SECONDS, lambda: find_experiment(connect(uri), uri, settings.experiment))
    except ConfigError:
        raise
    except Exception as error:  # whatever a server, a database driver or a proxy may raise
        logger.warning(
            "MLflow at %s cannot be used now (%s). Runs go on; their records are kept in their folders.",
            shown_uri(uri),
            reason(error),
        )
        return None


def start_parent_run(
    settings: TrackingSettings,
    name: str,
    tags: Mapping[str, str],
    run_id: str | None = None,
    params: Mapping[str, str] = NOTHING,
) -> str | None:
    """Make the run that others name as their parent, as for a sweep; None, with a warning, if that fails.

    `run_id`: the one that an earlier start made, to go on with where MLflow still has it.
    """
    if not settings.enabled:
        return None
    uri = tracking_uri(settings)

    def start() -> str:
        client = connect(uri)
        if run_id is not None and _reopened(client, run_id):
            return run_id
        run = client.create_run(find_experiment(client, uri, settings.experiment), tags=dict(tags), run_name=name)
        describe_run(client, run.info.run_id, params=params)
        return str(run.info.run_id)

    try:
        return within(DRIVER_SECONDS, start)
    except ConfigError:
        raise
    except Exception as error:
        logger.warning("No parent run in MLflow at %s (%s); its runs stand alone.", shown_uri(uri), reason(error))
        return None


def describe_run(
    client: Any,
    run_id: str,
    *,
    params: Mapping[str, str] = NOTHING,
    tags: Mapping[str, str] = NOTHING,
    metrics: Mapping[str, float] = NOTHING,
    step: int = 0,
) -> None:
    """Log to a run that no `Tracker` keeps, such as a sweep's, in one call; raises what the client raises."""
    from mlflow.entities import Metric, Param, RunTag

    now = round(time.time() * 1000)
    client.log_batch(
        run_id,
        metrics=[Metric(key, value, now, step) for key, value in metrics.items()],
        params=[Param(key, value[:MAX_PARAM_LENGTH]) for key, value in params.items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
        synchronous=True,
    )


def register_artifact(settings: TrackingSettings, run_id: str, name: str, alias: str) -> int | None:
    """Make the artifact of a run a new version in MLflow's model registry; a warning, and None, if that fails."""
    uri = tracking_uri(settings)

    def register() -> int:
        from mlflow.exceptions import MlflowException

        client = connect(uri)
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        run = client.get_run(run_id)
        models = run.outputs.model_outputs if run.outputs else []
        model = client.get_logged_model(models[-1].model_id) if models else None
        # its folder and not `models:/ID`, which MLflow looks for in its default database, whatever the client's is
        source = model.artifact_location if model else f"{run.info.artifact_uri}/artifact"
        version = client.create_model_version(name, source, run_id=run_id, model_id=model.model_id if model else None)
        if model:
            earlier = json.loads(model.tags.get(MODEL_VERSIONS_TAG, "[]"))
            told = json.dumps([*earlier, {"name": name, "version": int(version.version)}])
            client.set_logged_model_tags(model.model_id, {MODEL_VERSIONS_TAG: told})
        client.set_registered_model_alias(name, alias, version.version)
        return int(version.version)

    try:
        return within(DRIVER_SECONDS, register)
    except Exception as error:
        logger.warning("MLflow at %s does not register %s (%s).", shown_uri(uri), name, reason(error))
        return None


def end_run(settings: TrackingSettings, run_id: str | None, status: Status) -> None:
    """Set a run's final status from outside: a parent's, or that of a run whose process was killed."""
    if run_id is None or not settings.enabled:
        return
    uri = tracking_uri(settings)
    try:
        within(DRIVER_SECONDS, lambda: connect(uri).set_terminated(run_id, status))
    except Exception as error:
        logger.warning("Run %s in MLflow at %s could not be ended (%s).", run_id, shown_uri(uri), reason(error))


def log_files(settings: TrackingSettings, run_id: str | None, files: Mapping[Path, str]) -> None:
    """Bring files to a run, each below the artifact folder it is given (`""`: the top); a warning if that fails."""
    if run_id is None or not settings.enabled:
        return
    uri = tracking_uri(settings)

    def send() -> None:
        client = connect(uri)
        for path, folder in files.items():
            client.log_artifact(run_id, str(path), folder or None)

    try:
        within(DRIVER_SECONDS, send)
    except Exception as error:
        logger.warning("MLflow at %s does not take the files of run %s (%s).", shown_uri(uri), run_id, reason(error))


def _reopened(client: Any, run_id: str) -> bool:
    """Whether MLflow has the run; it is shown as RUNNING again."""
    from mlflow.exceptions import MlflowException

    try:
        client.update_run(run_id, status="RUNNING")
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # gone, or in the bin
            return False
        raise
    return True


def _database_file(uri: str) -> Path | None:
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(path) if uri.startswith("sqlite:///") and path not in ("", ":memory:") else None


def _artifact_location(uri: str, experiment: str) -> str | None:
    """Beside a database file; MLflow itself would choose the folder in which the process happens to run."""
    database = _database_file(uri)
    return (database.parent / "mlruns" / re.sub(r"[^\w.-]", "_", experiment)).as_uri() if database else None
