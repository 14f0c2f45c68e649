"""What MLflow has of a sweep, in a real database; and a sweep for which there is none."""

import socket
import time
from pathlib import Path
from typing import Any

import pytest
from sweep_simulator import Toy, World, toy_sweep

from infoprompt.config import TrackingSettings, build_config
from infoprompt.tracking import Tracker, connect, describe_run, register_artifact, start_parent_run
from infoprompt.tracking import client as tracking_client
from launcher import mlflow_parent
from launcher.sweeps import mlflow_runs
from launcher.sweeps.journal import RunState, TrialState, save_trial
from launcher.sweeps.mlflow_runs import recorded

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")


def follow(sweep, record, toy: Toy) -> World:
    """A sweep of the toy, every event brought to the record."""
    wiring = {"group_runs": record.groups, "open_run": record.open_trial, "listen": record.note}
    one = World(sweep, toy, num_groups=2, parent_run_id=record.parent_run_id, **wiring).go()
    record.finish(one.trials)
    return one


def boom(values: dict[str, Any], seed: int, step: int) -> str | None:
    return "the loss is not finite" if values["lr"] == 0.75 and step == 5 else None


def with_config(sweep):
    """What the record reads of the first trial's config."""
    object.__setattr__(sweep, "first", build_config({"evaluation": {"every_steps": 2}}))
    return sweep


def test_sweep_trials_and_seeds_are_a_tree_with_how_each_ended(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracking = TrackingSettings(uri=uri)
    folder = tmp_path / "sweep"
    folder.mkdir()
    space = {"lr": {"grid": [0.5, 1.5, 0.75]}}
    sweep = with_config(toy_sweep(folder, space, seeds=[0, 1], name="mine"))
    with recorded(sweep, tracking, []) as record:
        one = follow(sweep, record, Toy(broken=boom))
        parent = record.parent_run_id
        child = start_parent_run(
            tracking, "seed", {"mlflow.parentRunId": one.trials[1].parent_run_id}
        )  # as a run records itself
    client = connect(uri)
    assert client.get_run(parent).info.status == "FINISHED"
    assert client.get_run(parent).info.run_name == "mine"
    runs = [client.get_run(trial.parent_run_id) for trial in one.trials]
    assert len({run.info.run_id for run in runs} | {parent}) == 4
    assert [run.data.tags["mlflow.parentRunId"] for run in runs] == [parent] * 3
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED", "FAILED"]
    assert [run.data.tags["sweep.ended"] for run in runs] == ["finished", "finished", "failed"]
    assert runs[2].data.tags["sweep.reason"] == "the loss is not finite"
    assert [run.data.params["lr"] for run in runs] == ["0.5", "1.5", "0.75"]
    assert runs[1].data.metrics["dev/score_mean"] == pytest.approx(one.trials[1].score)
    ended = client.get_metric_history(parent, "sweep/trials_ended")
    assert sorted(metric.value for metric in ended) == [1, 2, 3]
    best = max(client.get_metric_history(parent, "sweep/best_score"), key=lambda metric: metric.step)
    assert best.value == pytest.approx(max(trial.score for trial in one.trials if trial.score is not None))

    # a later start goes on with the same run
    with recorded(sweep, tracking, one.trials) as record:
        assert record.parent_run_id == parent
        assert client.get_run(parent).info.status == "RUNNING"
    assert client.get_run(parent).info.status == "KILLED"  # it ended without having come to an end

    # the best artifact becomes a version of a model, and the alias is the newest one's
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "prompt.txt").write_text("a prompt")
    describe_run(client, child, tags={"what": "artifact"})
    client.log_artifacts(child, str(artifact), "artifact")
    assert [register_artifact(tracking, child, "prompts", "champion") for _ in range(2)] == [1, 2]
    version = client.get_model_version_by_alias("prompts", "champion")
    assert (version.version, version.run_id) in [("2", child), (2, child)]
    assert (Path(version.source.removeprefix("file://")) / "prompt.txt").read_text() == "a prompt"


def test_what_a_stopped_sweep_leaves_is_ended_and_goes_on_with_the_next_start(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracking = TrackingSettings(uri=uri)
    sweep = with_config(toy_sweep(tmp_path, {"lr": {"grid": [0.5]}}, seeds=[0, 1]))
    trial = TrialState(0, {"lr": 0.5}, [RunState(seed, "running") for seed in (0, 1)])
    with recorded(sweep, tracking, []) as record:
        trial.parent_run_id = record.open_trial(trial)
        save_trial(tmp_path, trial)  # and the driver has not yet heard that its runs began
        workers = []
        for seed in (0, 1):
            config = build_config({"run": {"output_dir": str(tmp_path / f"trials/0000/seed_{seed}")}})
            config = config.model_copy(update={"tracking": tracking})
            workers.append(Tracker.open(config, first=True, parent_run_id=trial.parent_run_id))
            workers[-1].close("FAILED" if seed else None)  # as a kill leaves it, or a failure to reach the others
    client = connect(uri)
    left = [*(worker.run_id for worker in workers), trial.parent_run_id, record.parent_run_id]
    assert [client.get_run(run_id).info.status for run_id in left] == ["KILLED"] * 4
    with recorded(sweep, tracking, [trial]) as record:
        record.close()
        assert [client.get_run(run_id).info.status for run_id in left[2:]] == ["RUNNING"] * 2


def test_a_sweep_without_mlflow_goes_on_at_its_own_pace_and_raises_nothing(tmp_path, monkeypatch, caplog):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    monkeypatch.setattr(tracking_client, "DRIVER_SECONDS", 5.0)
    tracking = TrackingSettings(uri=f"http://127.0.0.1:{port}")
    folder = tmp_path / "sweep"
    folder.mkdir()
    sweep = with_config(toy_sweep(folder, {"lr": {"grid": [0.5, 1.5]}}, seeds=[0, 1]))
    with recorded(sweep, tracking, []) as record:
        assert record.parent_run_id is None
        assert not record.groups
        started = time.monotonic()
        one = follow(sweep, record, Toy())
        assert time.monotonic() - started < 5  # a busy machine; without waiting it is a few hundredths
    assert {trial.status for trial in one.trials} == {"finished"}
    assert record.status == "FINISHED"
    assert "No parent run in MLflow" in caplog.text


def test_a_server_that_goes_away_is_left_alone_and_nobody_waits_for_it(tmp_path, monkeypatch, caplog):
    calls = []

    def hangs(*_):
        calls.append(time.monotonic())
        raise ConnectionError("refused")

    monkeypatch.setattr(mlflow_runs, "connect", hangs)
    monkeypatch.setattr(mlflow_parent, "prepare_tracking", lambda tracking: "0")
    for module in (mlflow_parent, mlflow_runs):
        monkeypatch.setattr(module, "start_parent_run", lambda *_, **__: hangs() if len(calls) > 5 else "parent")
    monkeypatch.setattr(mlflow_runs, "end_run", lambda *_: None)
    folder = tmp_path / "sweep"
    folder.mkdir()
    sweep = with_config(toy_sweep(folder, {"lr": {"grid": [0.5, 1.5, 1.0]}}, seeds=[0, 1]))
    with recorded(sweep, TrackingSettings(uri="http://127.0.0.1:9"), []) as record:
        follow(sweep, record, Toy())
    assert len(calls) == 1  # then it is left alone for a minute
    assert caplog.text.count("MLflow does not take the sweep's own records now (refused)") == 1
