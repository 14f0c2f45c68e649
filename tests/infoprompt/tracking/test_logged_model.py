"""A run's artifact as MLflow's own model: its scores, its version, and what MLflow alone predicts by it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from infoprompt.artifact import Artifact
from infoprompt.config import TrackingSettings, build_config
from infoprompt.tracking import Tracker, connect, deliver, register_artifact, runs_page
from infoprompt.tracking import delivery as tracking_delivery
from infoprompt.tracking.spool import LEDGER_NAME, Ledger
from infoprompt.train import run

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

TEXTS = ["the good film was great", "a bad movie"]
ALONE = """
import json, sys, warnings
warnings.simplefilter("ignore")
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/tiny@champion")
table = pandas.DataFrame({"label": ["?"] * len(sys.argv[2:]), "text": sys.argv[2:]})
print(json.dumps([model.predict(table).to_dict("records"), model.predict(sys.argv[2:]).to_dict("records")]))
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> str:
    """One database for all tests here."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


def test_a_registered_run_predicts_through_mlflow_alone_as_its_artifact_does(database, toy_settings, tmp_path):
    tracking = TrackingSettings(uri=database)
    settings = {**toy_settings, "tracking": {"uri": database, "every_steps": 1}}
    settings["optim"]["epochs"] = 1
    result = run(build_config(settings))
    assert register_artifact(tracking, result.run_id, "tiny", "champion") == 1
    command = [sys.executable, "-c", ALONE, str(tracking.uri), *TEXTS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    by_table, by_list = json.loads(done.stdout.splitlines()[-1])
    expected = Artifact.from_pretrained(result.artifact).predict(TEXTS)
    assert by_table == by_list
    for found, wanted in zip(by_table, expected, strict=True):
        assert found["label"] == wanted.label
        assert found["probabilities"] == pytest.approx(wanted.probabilities, abs=1e-6)

    # the model beside the run: its scores, what it is, its version
    client = connect(tracking.uri)
    recorded = client.get_run(result.run_id)
    (output,) = recorded.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (model.status.value, model.source_run_id) == ("READY", result.run_id)
    scores = {metric.key: metric.value for metric in model.metrics}
    assert scores == {
        **{f"test/{name}": value for name, value in result.test.items()},
        **{f"best/dev_{name}": value for name, value in result.dev.items()},
    }
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "tiny", "version": 1}]
    version = client.get_model_version_by_alias("tiny", "champion")
    assert (version.source, version.run_id) == (model.artifact_location, result.run_id)

    # what a table of runs is read by
    wanted = {
        "task.kind": "single",
        "rows.test": "40",
        "prompt": "instance 4",
        "backbone": settings["backbone"]["name"],
    }
    assert wanted.items() <= recorded.data.tags.items()
    assert int(recorded.data.tags["rows.train"]) + int(recorded.data.tags["rows.dev"]) == 120
    assert wanted.keys() & model.params.keys() == {"task.kind", "prompt", "backbone"}
    assert "None" not in recorded.data.params.values()
    assert runs_page(Path(result.output_dir)) == f"#/experiments/{recorded.info.experiment_id}/runs"


@pytest.fixture
def artifact(tmp_path) -> Path:
    folder = tmp_path / "run" / "made"
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}")
    return folder


def finished(tmp_path: Path, uri: str, artifact: Path) -> Path:
    """A run that has logged all that it will."""
    config = build_config({"run": {"output_dir": str(tmp_path / "run")}, "tracking": {"uri": uri}})
    tracker = Tracker.open(config, first=True)
    tracker.log({"test/accuracy": 0.5, "train/loss": 1.0}, 3)
    tracker.log_artifacts(artifact, "artifact")
    tracker.close()
    return tmp_path / "run"


def test_a_model_whose_sending_was_cut_off_is_gone_on_with_and_not_made_twice(
    database, tmp_path, artifact, monkeypatch
):
    uri = database
    send = tracking_delivery.send_model

    def cut_off(client, ledger, *rest):
        send(client, ledger, *rest)
        ledger.update(model_id=None)  # as if the answer to its creation had been lost
        raise ConnectionError("the line went dead")

    monkeypatch.setattr(tracking_delivery, "send_model", cut_off)
    folder = finished(tmp_path, uri, artifact)
    monkeypatch.setattr(tracking_delivery, "send_model", send)
    assert Ledger.load(folder / LEDGER_NAME).artifacts == [("made", "artifact")]
    report = deliver(folder)
    assert (report.error, report.artifacts_left) == (None, 0)
    client = connect(uri)
    recorded = client.get_run(report.run_id)
    (model,) = client.search_logged_models([recorded.info.experiment_id], f"source_run_id = '{report.run_id}'")
    assert [(metric.key, metric.value) for metric in model.metrics] == [("test/accuracy", 0.5)]
    assert [metric.value for metric in client.get_metric_history(report.run_id, "test/accuracy")] == [0.5]
    assert [output.model_id for output in recorded.outputs.model_outputs] == [model.model_id]
    assert recorded.info.status == "FINISHED"


def test_a_server_that_knows_no_models_gets_the_artifact_all_the_same(database, tmp_path, artifact, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def refuse(*_, **__):
        error = MlflowException("API request to endpoint failed with error code 404")
        error.error_code = "ENDPOINT_NOT_FOUND"
        raise error

    uri = database
    with monkeypatch.context() as server:
        server.setattr(MlflowClient, "search_logged_models", refuse)
        folder = finished(tmp_path, uri, artifact)
    ledger = Ledger.load(folder / LEDGER_NAME)
    assert (ledger.artifacts, ledger.model_id, ledger.ended) == ([], None, True)
    client = connect(uri)
    assert [file.path for file in client.list_artifacts(ledger.run_id, "artifact")] == ["artifact/MLmodel"]
    assert register_artifact(TrackingSettings(uri=uri), str(ledger.run_id), "of_an_old_server", "champion") == 1
    version = client.get_model_version_by_alias("of_an_old_server", "champion")
    assert version.source == f"{client.get_run(ledger.run_id).info.artifact_uri}/artifact"


def test_a_ledger_of_before_is_still_read(tmp_path):
    old = {"uri": "sqlite:////x.db", "experiment": "e", "run_name": "r", "run_id": "1", "run_key": "k", "artifacts": []}
    (tmp_path / LEDGER_NAME).write_text(json.dumps({**old, "artifacts_sent": [["artifact", "artifact"]]}))
    ledger = Ledger.load(tmp_path / LEDGER_NAME)
    assert (ledger.run_id, ledger.model_id, ledger.experiment_id) == ("1", None, None)
    assert runs_page(tmp_path) is None
