import json
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from preloaded import Preloaded

from infoprompt.config import ConfigError, RunConfig, TrackingSettings, build_config, dump_config
from infoprompt.tracking import (
    Tracker,
    deliver,
    end_for,
    end_run,
    prepare_tracking,
    shown_uri,
    start_parent_run,
    tracking_uri,
)
from infoprompt.tracking import client as tracking_client
from infoprompt.tracking.environment import COMMIT_VARIABLE, environment_tags, git_commit
from infoprompt.tracking.spool import Ledger, Record, Spool, read_history
from infoprompt.tracking.tracker import DELIVERY_PERIOD_SECONDS, SWITCH_SECONDS

# MLflow 3.17 maps its tables with an option that SQLAlchemy 2.1 calls deprecated
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One migrated SQLite database for all tests here; each test has a run of its own in it."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    assert prepare_tracking(TrackingSettings(uri=uri)) is not None
    return uri


@pytest.fixture
def make_config(tmp_path: Path) -> MakeConfig:
    def make(uri: str | None = None, enabled: bool = True, **optim: float) -> RunConfig:
        return build_config(
            {
                "run": {"output_dir": str(tmp_path / "run")},
                "optim": optim,
                "tracking": {"uri": uri, "enabled": enabled},
            }
        )

    return make


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def client(uri: str) -> Any:
    return tracking_client.connect(uri)


def steps_in_mlflow(uri: str, run_id: str | None, key: str = "train/loss") -> list[int]:
    return sorted(metric.step for metric in client(uri).get_metric_history(run_id, key))


def log_steps(tracker: Tracker, steps: range) -> None:
    for step in steps:
        tracker.log({"train/loss": 1 / (step + 1)}, step)


# --- the folder ----------------------------------------------------------------------------------------------------


def test_values_that_are_not_finite_survive_the_spool_as_strict_json(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "metrics.jsonl")
    spool.append(Record(3, 1.0, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 0.5}))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads(spool.path.read_text(), parse_constant=refuse)
    (record,), _ = spool.read()
    assert math.isnan(record.metrics["a"])
    assert (record.metrics["b"], record.metrics["c"], record.metrics["d"]) == (math.inf, -math.inf, 0.5)


def test_a_line_cut_off_by_a_kill_is_no_record_and_is_dropped_on_resume(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "metrics.jsonl")
    spool.append(Record(1, 1.0, {"a": 1.0}))
    with spool.path.open("a") as file:
        file.write('{"step": 2, "time')
    again = Spool(spool.path)
    assert [record.step for record in again.read()[0]] == [1]
    again.rewind(0, step=10)
    again.append(Record(2, 1.0, {"a": 1.0}))
    assert [record.step for record in Spool(spool.path).read()[0]] == [1, 2]


def test_rewinding_keeps_what_was_delivered_and_drops_the_rest_past_the_step(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "metrics.jsonl")
    for step in range(5):
        spool.append(Record(step, 1.0, {"a": 1.0}))
    _, delivered = spool.read(max_metrics=4)
    spool.rewind(delivered, step=1)
    assert [record.step for record in spool.read()[0]] == [0, 1, 2, 3]


def test_a_damaged_line_costs_only_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "time": 1, "metrics": {"a": 1}}\n\0\0\0\n{"step": 2, "time": 1, "metrics": {"a": 2}}\n'
    )
    assert [record.step for record in Spool(path).read()[0]] == [1, 2]
    assert "no record" in caplog.text


def test_a_damaged_ledger_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "tracking.json").write_text('{"uri": ')
    with pytest.raises(ValueError, match=r"tracking\.json is damaged .* Remove it"):
        Ledger.load(tmp_path / "tracking.json")


def test_a_ledger_loads_back_equal(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "tracking.json", "http://host", "experiment", "name", params={"a": "1"})
    ledger.add_artifact(tmp_path / "figures" / "x.png", "figures")
    assert Ledger.load(ledger.path) == ledger
    assert ledger.artifacts == [("figures/x.png", "figures")]  # still valid after the folder was moved


# --- the tracker without MLflow ------------------------------------------------------------------------------------


def test_without_tracking_metrics_are_written_and_mlflow_is_not_imported(tmp_path: Path) -> None:
    program = f"""
import sys
from infoprompt.config import build_config
from infoprompt.tracking import Tracker
config = build_config({{"run": {{"output_dir": {str(tmp_path)!r}}}, "tracking": {{"enabled": False}}}})
tracker = Tracker.open(config, first=True)
tracker.log({{"train/loss": 0.5}}, step=1)
tracker.log_text("report.txt", "fine")
tracker.close()
assert tracker.run_id is None
assert "mlflow" not in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert read_history(tmp_path) == [{"step": 1, "train/loss": 0.5}]
    assert (tmp_path / "artifacts" / "report.txt").read_text() == "fine"
    assert not (tmp_path / "tracking.json").exists()


def test_other_ranks_than_the_first_write_nothing(make_config: MakeConfig) -> None:
    config = make_config("sqlite:////nowhere/mlflow.db")
    tracker = Tracker.open(config, first=False)
    tracker.log({"train/loss": 1.0}, step=1)
    tracker.log_text("a.txt", "a")
    tracker.close()
    assert tracker.run_id is None
    assert not Path(config.run.output_dir).exists()


def test_a_resumed_run_replaces_the_records_past_its_resume_state(make_config: MakeConfig) -> None:
    config = make_config(enabled=False)
    log_steps(Tracker.open(config, first=True), range(8))
    resumed = Tracker.open(config, first=True, last_logged_step=4)
    log_steps(resumed, range(5, 10))
    assert [row["step"] for row in resumed.history()] == list(range(10))


def test_a_fresh_run_moves_the_records_of_an_earlier_one_aside(make_config: MakeConfig) -> None:
    config = make_config(enabled=False)
    log_steps(Tracker.open(config, first=True), range(3))
    again = Tracker.open(config, first=True)
    log_steps(again, range(1))
    assert len(again.history()) == 1
    assert len(read_history(Path(config.run.output_dir) / "earlier-1")) == 3


# --- MLflow in a database ------------------------------------------------------------------------------------------


def test_a_run_arrives_with_its_steps_settings_tags_artifacts_and_status(
    database: str, make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COMMIT_VARIABLE, "abc123-dirty")
    config = make_config(database, lr=0.25)
    parent = start_parent_run(config.tracking, "sweep", {"kind": "sweep"})
    tracker = Tracker.open(config, first=True, parent_run_id=parent, tags={"trial": "7"})
    log_steps(tracker, range(1, 21))
    tracker.log({"train/kl": math.inf, "dev/f1 [macro]": 0.5}, step=3)
    saved = tmp_path / "prompt"
    saved.mkdir()
    (saved / "prompt.json").write_text("{}")
    tracker.log_artifacts(saved, "best")
    tracker.close()

    run = client(database).get_run(tracker.run_id)
    assert steps_in_mlflow(database, tracker.run_id) == list(range(1, 21))
    assert math.isnan(run.data.metrics["train/kl"])  # an infinity would stretch the chart to 1.8e308
    assert run.data.metrics["dev/f1 _macro_"] == 0.5
    assert (run.info.status, run.info.run_name, run.data.params["optim.lr"]) == ("FINISHED", "run", "0.25")
    tags = run.data.tags
    assert (tags["mlflow.parentRunId"], tags["trial"], tags["git.commit"], tags["git.dirty"]) == (
        parent,
        "7",
        "abc123",
        "true",
    )
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    assert (artifacts / "config.yaml").read_text() == dump_config(config)
    assert (artifacts / "best" / "prompt.json").exists()
    end_run(config.tracking, parent, "FAILED")
    assert client(database).get_run(parent).info.status == "FAILED"


def test_a_killed_and_resumed_run_has_each_step_once_and_says_what_changed(
    database: str, make_config: MakeConfig
) -> None:
    config = make_config(database, lr=0.25)
    killed = Tracker.open(config, first=True)
    log_steps(killed, range(1, 58))
    killed.close("KILLED")

    resumed = Tracker.open(make_config(database, lr=0.5), first=True, run_id=killed.run_id, last_logged_step=50)
    assert resumed.run_id == killed.run_id
    assert client(database).get_run(resumed.run_id).info.status == "RUNNING"
    log_steps(resumed, range(51, 61))
    resumed.close()
    run = client(database).get_run(resumed.run_id)
    assert steps_in_mlflow(database, run.info.run_id) == list(range(1, 61))
    assert (run.data.params["optim.lr"], run.data.tags["changed.optim.lr"]) == ("0.25", "0.5")
    assert run.info.status == "FINISHED"
    assert [row["step"] for row in resumed.history()] == list(range(1, 61))


def test_a_killed_run_that_is_started_anew_can_still_be_delivered_and_ended(
    database: str, make_config: MakeConfig
) -> None:
    config = make_config(database)
    killed = Tracker.open(config, first=True)
    log_steps(killed, range(1, 4))
    killed.close()
    ledger = Path(config.run.output_dir) / "tracking.json"
    Ledger.load(ledger).update(status=None, ended=False, delivered=0)  # as a kill leaves it
    again = Tracker.open(config, first=True)
    again.close()
    assert again.run_id != killed.run_id
    report = deliver(Path(config.run.output_dir) / "earlier-1")
    assert (report.run_id, report.records_left, report.artifacts_left, report.error) == (killed.run_id, 0, 0, None)
    assert steps_in_mlflow(database, killed.run_id) == [1, 2, 3]
    assert client(database).get_run(killed.run_id).info.status == "KILLED"


@pytest.mark.parametrize("answered", [True, False], ids=["made", "its making was never answered"])
def test_a_run_whose_process_is_gone_is_delivered_and_ended_for_it(
    answered: bool, database: str, make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(database)
    folder = Path(config.run.output_dir)
    assert end_for(folder, config.tracking, "KILLED")  # nothing was recorded yet
    killed = Tracker.open(config, first=True)
    log_steps(killed, range(1, 4))
    killed.close(None)
    ledger = Ledger.load(folder / "tracking.json")
    ledger.update(delivered=0, run_id=ledger.run_id if answered else None)
    dead = config.tracking.model_copy(update={"uri": "http://127.0.0.1:9"})
    assert not end_for(folder, dead, "KILLED")
    assert "does not take the end of the run" in caplog.text
    assert end_for(folder, config.tracking, "FAILED")  # how it ended was said before
    assert client(database).get_run(killed.run_id).info.status == "KILLED"
    assert steps_in_mlflow(database, killed.run_id) == [1, 2, 3]
    assert Ledger.load(folder / "tracking.json").run_id == killed.run_id


def test_a_run_resumed_in_an_empty_folder_repeats_no_step(
    database: str, make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config(database)
    first = Tracker.open(config, first=True)
    log_steps(first, range(1, 8))
    first.close("KILLED")
    Path(config.run.output_dir).rename(tmp_path / "lost")
    resumed = Tracker.open(config, first=True, run_id=first.run_id, last_logged_step=5)
    log_steps(resumed, range(6, 11))
    resumed.close()
    assert steps_in_mlflow(database, first.run_id) == list(range(1, 11))


def test_a_delivery_whose_acknowledgement_was_lost_repeats_no_step(database: str, make_config: MakeConfig) -> None:
    config = make_config(database)
    tracker = Tracker.open(config, first=True)
    log_steps(tracker, range(1, 8))
    tracker.close()
    folder = Path(config.run.output_dir)
    Ledger.load(folder / "tracking.json").update(delivered=0)
    report = deliver(folder)
    assert (report.records_sent, report.records_left, report.error) == (7, 0, None)
    assert steps_in_mlflow(database, tracker.run_id) == list(range(1, 8))
    assert client(database).get_run(tracker.run_id).info.status == "FINISHED"


def test_a_run_that_was_killed_before_its_first_state_and_starts_again_is_one_run(
    database: str, make_config: MakeConfig
) -> None:
    config = make_config(database)
    killed = Tracker.open(config, first=True)
    log_steps(killed, range(1, 4))
    killed.close(None)  # as a process that is gone: without a word of its end
    again = Tracker.open(config, first=True, started_again=True)
    log_steps(again, range(1, 8))
    again.close()
    assert again.run_id == killed.run_id
    assert steps_in_mlflow(database, again.run_id) == list(range(1, 8))
    finished = Tracker.open(config, first=True, started_again=True)
    finished.close()
    assert finished.run_id != again.run_id
    changed = config.model_copy(update={"seed": 7})
    other = Tracker.open(changed, first=True, started_again=True)
    other.close()
    assert other.run_id != finished.run_id


def test_a_call_that_fails_is_tried_again_without_a_word_to_the_loop(
    database: str, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow import MlflowClient

    log_batch, failures = MlflowClient.log_batch, iter([True, True])

    def unsteady(self: Any, run_id: str, metrics: Any = (), **rest: Any) -> None:
        log_batch(self, run_id, metrics=metrics, **rest)
        if metrics and next(failures, False):
            raise ConnectionError("the answer was lost at http://me:hidden@host")

    monkeypatch.setattr(MlflowClient, "log_batch", unsteady)
    monkeypatch.setattr("infoprompt.tracking.tracker.DELIVERY_PERIOD_SECONDS", 0.05)
    tracker = Tracker.open(make_config(database), first=True)
    log_steps(tracker, range(1, 31))
    time.sleep(1)
    tracker.close()
    assert steps_in_mlflow(database, tracker.run_id) == list(range(1, 31))
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "infoprompt sync" in warnings[0]
    assert "hidden" not in caplog.text


def test_deliveries_of_all_runs_together_leave_the_process_most_of_its_time(
    database: str, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr("infoprompt.tracking.tracker.DELIVERY_SHARE", 1e-9)  # the next one is a minute away
    tracker = Tracker.open(make_config(database), first=True)
    thread = tracker._delivery
    assert thread is not None
    thread.tried.wait()
    assert sys.getswitchinterval() <= SWITCH_SECONDS
    tried, log_batch = [], MlflowClient.log_batch

    def counted(self: Any, *arguments: Any, **named: Any) -> None:
        tried.append(named)
        log_batch(self, *arguments, **named)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    log_steps(tracker, range(1, 6))
    time.sleep(2 * DELIVERY_PERIOD_SECONDS)
    assert not tried
    tracker.close()  # the last one does not wait
    assert steps_in_mlflow(database, tracker.run_id) == list(range(1, 6))


def test_logging_costs_the_loop_next_to_nothing(database: str, make_config: MakeConfig) -> None:
    tracker = Tracker.open(make_config(database), first=True)
    start = time.perf_counter()
    log_steps(tracker, range(200))
    seconds = (time.perf_counter() - start) / 200
    tracker.close()
    assert seconds < 0.01  # one line to a file; a call to a server takes 0.13 s


def test_a_run_that_mlflow_has_lost_is_delivered_anew(
    database: str, make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(database)
    tracker = Tracker.open(config, first=True)
    log_steps(tracker, range(1, 4))
    tracker.close()
    other = f"sqlite:///{tmp_path}/other.db"
    report = deliver(config.run.output_dir, other)
    assert "no run" in caplog.text
    run = client(other).get_run(report.run_id)
    assert steps_in_mlflow(other, report.run_id) == [1, 2, 3]
    assert run.info.status == "FINISHED"
    assert Path(run.info.artifact_uri.removeprefix("file://"), "config.yaml").exists()
    client(other).delete_experiment(run.info.experiment_id)
    with pytest.raises(ConfigError, match=r"tracking\.experiment is infoprompt, but .*restore"):
        prepare_tracking(TrackingSettings(uri=other))


# --- a server that is down -----------------------------------------------------------------------------------------


def test_a_server_that_is_down_costs_one_warning_and_its_records_come_later(
    database: str, make_config: MakeConfig, closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(f"http://me:hidden@127.0.0.1:{closed_port}")
    start = time.monotonic()
    assert prepare_tracking(config.tracking) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    caplog.clear()
    tracker = Tracker.open(config, first=True)
    assert tracker.run_id is None
    log_steps(tracker, range(1, 11))
    tracker.close()
    assert time.monotonic() - start < 20  # MLflow's own limits would take four minutes for one call
    at_start, at_end = [record.getMessage() for record in caplog.records]
    assert "Training goes on" in at_start
    assert "infoprompt sync" in at_end

    folder = Path(config.run.output_dir)
    written = "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    assert "hidden" not in written + caplog.text
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI"):
        deliver(folder)  # the folder does not keep the password
    for _ in range(2):
        report = deliver(folder, database)
        assert (report.records_left, report.artifacts_left, report.error) == (0, 0, None)
    assert report.records_sent == 0
    assert steps_in_mlflow(database, report.run_id) == list(range(1, 11))
    run = client(database).get_run(report.run_id)
    assert (run.info.status, run.data.params["seed"]) == ("FINISHED", "0")


def test_a_run_resumed_before_its_server_came_back_is_one_run(database: str, make_config: MakeConfig) -> None:
    down = make_config("http://127.0.0.1:9")
    first = Tracker.open(down, first=True)
    log_steps(first, range(1, 8))
    first.close("KILLED")
    resumed = Tracker.open(make_config(database), first=True, last_logged_step=5)
    log_steps(resumed, range(6, 11))
    resumed.close()
    assert steps_in_mlflow(database, resumed.run_id) == list(range(1, 11))


@pytest.fixture
def server(tmp_path: Path, closed_port: int) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts `mlflow server` on one port and one database, as often as asked."""
    started: list[subprocess.Popen[bytes]] = []
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(closed_port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "server-artifacts")]
    # its jobs are processes of their own, which take as long to start
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / "server.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=tmp_path, env=environment, start_new_session=True
            )
        started.append(process)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{closed_port}/health", timeout=2).close()
                return process
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        raise TimeoutError((tmp_path / "server.log").read_text())

    yield start
    for process in started:
        if process.poll() is None:
            kill(process)


def kill(server: subprocess.Popen[bytes]) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait(timeout=10)


@pytest.mark.slow
def test_a_server_killed_and_restarted_has_every_step_once(
    server: Callable[[], subprocess.Popen[bytes]],
    make_config: MakeConfig,
    closed_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("infoprompt.tracking.tracker.MAX_PAUSE_SECONDS", 2.0)
    uri = f"http://127.0.0.1:{closed_port}"
    process = server()
    tracker = Tracker.open(make_config(uri), first=True)
    assert tracker.run_id is not None
    log_steps(tracker, range(1, 4))
    time.sleep(2)
    kill(process)
    log_steps(tracker, range(4, 7))
    time.sleep(3)
    process = server()
    log_steps(tracker, range(7, 10))
    tracker.close()
    assert steps_in_mlflow(uri, tracker.run_id) == list(range(1, 10))
    run = client(uri).get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert [item.path for item in client(uri).list_artifacts(tracker.run_id)] == ["config.yaml"]


def test_processes_that_meet_at_a_fresh_database_all_find_the_experiment(tmp_path: Path, processes: Preloaded) -> None:
    program = f"""
from infoprompt.config import TrackingSettings
from infoprompt.tracking import prepare_tracking
print(prepare_tracking(TrackingSettings(uri="sqlite:///{tmp_path}/fresh.db")))
"""
    null, errors, outputs = Path(os.devnull), tmp_path / "errors", [tmp_path / f"output{number}" for number in range(4)]
    started = [processes.start(program, [], tmp_path, os.environ, [null, output, errors]) for output in outputs]
    assert [process.wait(120) for process in started] == [0] * 4, errors.read_text()
    assert {output.read_text().strip() for output in outputs} == {"1"}


# --- where, and from what ------------------------------------------------------------------------------------------


def test_the_uri_is_the_setting_then_the_variable_then_a_database_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(TrackingSettings()) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other")
    assert tracking_uri(TrackingSettings()) == "http://other"
    assert tracking_uri(TrackingSettings(uri="sqlite:///sub/a.db")) == f"sqlite:///{tmp_path}/sub/a.db"
    assert tracking_uri(TrackingSettings(uri="sqlite:////abs/a.db")) == "sqlite:////abs/a.db"


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "mlruns"])
def test_a_folder_of_files_is_refused_with_the_way_out(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.uri .*sqlite:///.*mlruns/mlflow\.db"):
        tracking_uri(TrackingSettings(uri=uri))


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:hidden@host:5000/path", "http://***@host:5000/path"),
        ("postgresql://me:hidden@db/mlflow?sslmode=require", "postgresql://***@db/mlflow?sslmode=require"),
        ("postgresql://db/mlflow?user=me&password=hidden&a=b", "postgresql://db/mlflow?user=me&password=***&a=b"),
        ("http://host:5000", "http://host:5000"),
    ],
)
def test_credentials_are_not_shown(uri: str, shown: str) -> None:
    assert shown_uri(uri) == shown


def test_environment_tags_name_versions_machine_and_engine_but_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hidden")
    monkeypatch.setenv("RAY_JOB_SUBMISSION_ID", "raysubmit_1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    tags = environment_tags(RunConfig())
    assert {"version.torch", "version.python", "host.cpu", "host.cores", "host.memory_gib"} <= tags.keys()
    assert (tags["world_size"], tags["ray.submission_id"], tags["engine.kind"]) == ("4", "raysubmit_1", "deepspeed")
    assert all(value and "hidden" not in value for value in tags.values())


def test_the_commit_is_known_without_a_repository_if_the_launcher_passed_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv(COMMIT_VARIABLE, raising=False)
    assert git_commit() is None
    monkeypatch.setenv(COMMIT_VARIABLE, "abc123")
    assert git_commit() == "abc123"


def test_asking_for_the_commit_writes_nothing_to_the_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(COMMIT_VARIABLE, raising=False)
    (tmp_path / "file").write_text("text")
    author = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    for command in (["init", "-q"], ["add", "file"], [*author, "commit", "-qm", "Begin"]):
        subprocess.run(["git", *command], check=True)
    os.utime(tmp_path / "file", (0, 0))  # git would note in its index that the file is the same
    index = (tmp_path / ".git/index").read_bytes()
    assert len(git_commit()) == 40
    assert (tmp_path / ".git/index").read_bytes() == index
