"""Studies that are really trained, with a model of two layers."""

import csv
import json
import os
import signal
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import yaml
from here_worker import HEAD, STATIC, HereWorker, leave_result, use_here_worker

from infoprompt.config import ConfigError, build_config
from infoprompt.folder_lock import held, inside
from infoprompt.tracking.environment import git_commit
from launcher.studies.jobs import cells
from launcher.studies.loop import train_study
from launcher.studies.plan import load_study
from launcher.studies.runs_table import compare_files
from launcher.studies.study import StudyFailed, start_study
from launcher.studies.worker import Order, Worker, WorkerDied


def pretended(order: Order) -> str | None:
    """Leaves what a run leaves; its scores follow from its seed and learning rate."""
    config = order.config
    leave_result(config, {"accuracy": 0.5 + 0.1 * config.seed + config.optim.lr})
    return None


@pytest.fixture
def workers(monkeypatch) -> type[HereWorker]:
    """Has studies trained by `HereWorker`."""
    return use_here_worker(monkeypatch)


@pytest.fixture
def pretending(workers, monkeypatch) -> type[HereWorker]:
    """Has studies pretend to train, and draw nothing."""
    monkeypatch.setattr(HereWorker, "train", staticmethod(pretended))
    monkeypatch.setattr("launcher.studies.draw.draw", lambda *arguments: [])
    return workers


def table_of(folder: Path, name: str = "table.csv") -> list[dict[str, str]]:
    with (folder / name).open() as stream:
        return list(csv.DictReader(stream))


def test_a_study_trains_chooses_and_reports(study_file, tmp_path, workers, capsys):
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump({**STATIC, "optim": {"lr": 1e30}}))
    start_study(study_file, ["methods={head: head.yaml, static: static.yaml, broken: broken.yaml}"])
    out = tmp_path / "out"
    assert len(workers.started()) == 10
    rows = {row["method"]: row for row in table_of(out)}
    broken = rows.pop("broken")
    assert (broken["seeds"], broken["failed"], broken["mean"]) == ("0", "2", "")
    assert "- toy, total_16, broken, final, seed 0, {}: TrainingStopped: The loss of" in (out / "table.md").read_text()
    scores = {}
    for method, row in rows.items():
        folder = out / "runs/toy/total_16" / method
        kept = [json.loads((folder / f"seed_{seed}/result.json").read_text()) for seed in (0, 1)]
        scores[method] = [result["test"]["accuracy"] for result in kept]
        assert float(row["mean"]) == pytest.approx(np.mean(scores[method]))
        assert float(row["deviation"]) == pytest.approx(np.std(scores[method], ddof=1))
        assert float(row["steps_to_95"]) == np.mean([result["steps_to_95"] for result in kept])
        assert int(row["trained_parameters"]) == kept[0]["trained_parameters"]
        searched = [json.loads(path.read_text()) for path in folder.glob("search/*/result.json")]
        assert len(searched) == 2
        assert not any(result["test"] for result in searched), "a run of the search saw the test rows"
        best = max(result["dev"]["accuracy"] for result in searched)
        chosen = yaml.safe_load((folder / "seed_0/config.yaml").read_text())["optim"]["lr"]
        by_rate = {
            yaml.safe_load((Path(result["output_dir"]) / "config.yaml").read_text())["optim"]["lr"]: result
            for result in searched
        }
        assert by_rate[chosen]["dev"]["accuracy"] == best
        assert row["setting"] == f"optim.lr={chosen:.4g}"
    differences = np.subtract(scores["static"], scores["head"])
    assert float(rows["static"]["difference"]) == pytest.approx(differences.mean())
    assert int(rows["static"]["wins"]) == (differences > 0).sum()
    assert rows["head"]["difference"] == ""
    labels = json.loads((out / "runs/toy/total_16/head/seed_0/predictions.json").read_text())["labels"]
    assert len(labels) == 40
    assert float(rows["head"]["majority"]) == np.bincount(labels).max() / 40 == 0.5
    # a head on kept states needs each training row's state once: 16 passes for 2 x 16 examples
    assert float(rows["head"]["encoder_passes"]) == 0.5
    assert float(rows["static"]["encoder_passes"]) == 1
    runs = table_of(out, "runs.csv")
    assert len(runs) == 10
    finished = [row for row in runs if row["state"] == "finished"]
    assert {(row["train_rows"], row["dev_rows"], row["test_rows"]) for row in finished if row["phase"] == "final"} == {
        ("16", "16", "40")
    }
    assert {(row["version"], row["commit"]) for row in finished} == {(version("infoprompt"), git_commit() or "")}
    again = compare_files([out / "runs.csv"], baselines=["head"])
    assert {row.method: row.mean for row in again.rows if row.seeds} == {
        name: float(rows[name]["mean"]) for name in rows
    }
    for heavy in ("checkpoints", "artifact", "search/*/artifacts"):
        assert not list(out.rglob(heavy))
    assert f"{np.mean(scores['head']):.4f} ± {np.std(scores['head'], ddof=1):.4f}" in (out / "table.md").read_text()
    assert {path.name for path in (out / "figures").iterdir()} == {
        f"toy_total_16_{name}.png" for name in ("learning_curves", "scores_by_seed", "information")
    }
    assert "10 of 10" in capsys.readouterr().out


def test_a_study_of_tags_has_no_share_of_a_class(study_file, tmp_path, pretending, monkeypatch):
    def tagged(order: Order) -> None:
        pretended(order)
        tags = {"classes": ["O", "B-x"], "labels": [[0, 1], [0]], "predictions": [[0, 0], [1]], "majority": {}}
        (Path(order.config.run.output_dir) / "predictions.json").write_text(json.dumps(tags))

    monkeypatch.setattr(pretending, "train", staticmethod(tagged))
    start_study(study_file)
    runs = table_of(tmp_path / "out", "runs.csv")
    assert {(row["state"], row["largest_share"]) for row in runs} == {("finished", "")}
    assert table_of(tmp_path / "out")[1]["mean"]


def test_a_second_start_trains_only_what_is_missing_or_changed(study_file, tmp_path, pretending):
    start_study(study_file)
    assert len(pretending.started()) == 8
    before = (tmp_path / "out/table.csv").read_text()
    pretending.orders.clear()
    start_study(study_file)
    assert pretending.started() == []
    assert (tmp_path / "out/table.csv").read_text() == before
    (tmp_path / "out/runs/toy/total_16/static/seed_1/result.json").unlink()
    start_study(study_file)
    assert pretending.started() == ["toy-total_16-static-seed_1"]


def test_a_run_with_other_settings_is_not_taken_for_done(study_file, pretending):
    start_study(study_file)
    assert all(job.result() for cell in cells(load_study(study_file)) for job in cell.final_jobs)
    recorded_elsewhere = load_study(study_file, ["tracking.experiment=other", "checkpoint.keep=1"])
    assert all(job.result() for cell in cells(recorded_elsewhere) for job in cell.final_jobs)
    longer = load_study(study_file, ["optim.epochs=3"])
    assert not any(job.result() for cell in cells(longer) for job in cell.search_jobs)


def test_a_wider_grid_reuses_what_was_tried(study_file, tmp_path, pretending):
    start_study(study_file)
    pretending.orders.clear()
    (tmp_path / "head.yaml").write_text(yaml.safe_dump({**HEAD, "search": {"optim.lr": [1e-2, 3e-2, 1e-6]}}))
    start_study(study_file, ["search.budget=3"])
    assert len(pretending.started()) == 1
    assert pretending.started()[0].startswith("toy-total_16-head-search-")


def test_the_best_mean_dev_score_over_the_seeds_of_the_search_is_chosen(study_file, pretending):
    start_study(study_file, ["search.seeds=[0,1]"])
    assert len([name for name in pretending.started() if "-search-" in name]) == 8
    table = cells(load_study(study_file, ["search.seeds=[0,1]"]))
    assert [cell.chosen for cell in table] == [{"optim.lr": 0.03}, {"optim.lr": 0.01}]


def test_a_setting_that_failed_is_not_chosen_and_a_failed_run_is_tried_again(study_file, tmp_path, pretending, capsys):
    def failing(order: Order) -> str | None:
        failed = order.config.optim.lr == 0.03 or order.config.run.name == "toy-total_16-static-seed_1"
        return "ValueError: too bad" if failed else pretended(order)

    pretending.train = staticmethod(failing)
    start_study(study_file)
    rows = {row["method"]: row for row in table_of(tmp_path / "out")}
    assert rows["head"]["setting"] == "optim.lr=0.01"
    assert (rows["static"]["seeds"], rows["static"]["failed"]) == ("1", "1")
    text = (tmp_path / "out/table.md").read_text()
    assert "6 runs finished, 2 failed." in text
    assert '- toy, total_16, static, final, seed 1, {"optim.lr": 0.01}: ValueError: too bad' in text
    pretending.orders.clear()
    pretending.train = staticmethod(pretended)
    start_study(study_file)
    # with the failed setting mended, another one is chosen for `head`, whose final runs are trained anew
    assert len(pretending.started()) == 1 + 2 + 1
    rows = {row["method"]: row for row in table_of(tmp_path / "out")}
    assert [row["failed"] for row in rows.values()] == ["0", "0"]
    assert rows["head"]["setting"] == "optim.lr=0.03"
    assert float(rows["head"]["mean"]) == pytest.approx(0.5 + 0.1 / 2 + 0.03)
    assert "8 of 8" in capsys.readouterr().out


def test_a_study_of_which_nothing_finished_fails(study_file, pretending):
    pretending.train = staticmethod(lambda order: "ValueError: no")
    with pytest.raises(StudyFailed, match="No final run finished"):
        start_study(study_file)


def test_a_run_whose_process_dies_is_tried_once_more(study_file, tmp_path, pretending, monkeypatch):
    deaths = {"toy-total_16-head-seed_0": 1, "toy-total_16-static-seed_1": 2}

    def finish(self: HereWorker) -> str | None:
        message = super(HereWorker, self).finish()
        name = pretending.started()[-1]
        if deaths.get(name, 0):
            deaths[name] -= 1
            (tmp_path / "out/runs" / Path(*name.split("-")) / "result.json").unlink()
            raise WorkerDied("its process ended with code -9 in the middle of it.")
        return message

    monkeypatch.setattr(HereWorker, "finish", finish)
    start_study(study_file)
    assert len(pretending.started()) == 8 + 2
    rows = {row["method"]: row for row in table_of(tmp_path / "out")}
    assert (rows["head"]["seeds"], rows["static"]["seeds"], rows["static"]["failed"]) == ("2", "1", "1")
    assert "Twice, its process ended with code -9" in (tmp_path / "out/table.md").read_text()


def test_a_stopped_study_keeps_its_tables_and_goes_on(study_file, tmp_path, pretending):
    def interrupted(order: Order) -> str | None:
        if len(pretending.started()) == 6:
            raise KeyboardInterrupt
        return pretended(order)

    pretending.train = staticmethod(interrupted)
    with pytest.raises(KeyboardInterrupt):
        start_study(study_file)
    assert [row["state"] for row in table_of(tmp_path / "out", "runs.csv")].count("finished") == 5
    pretending.train = staticmethod(pretended)
    start_study(study_file)
    assert len(pretending.started()) == 6 + 3


def test_all_starts_of_a_study_share_one_run_in_mlflow_which_has_its_tables(study_file, tmp_path, pretending):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracked = ["tracking.enabled=true", f"tracking.uri={uri}"]
    for _ in range(2):
        start_study(study_file, tracked)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("infoprompt")
    (parent,) = client.search_runs([experiment.experiment_id])
    assert (parent.info.run_name, parent.info.status) == ("out", "FINISHED")
    kept = {entry.path for entry in client.list_artifacts(parent.info.run_id)}
    assert kept == {"plan.json", "runs.csv", "table.csv", "table.md"}


def test_two_starts_of_one_study_do_not_run_at_once(study_file, tmp_path, pretending):
    with held(inside(tmp_path / "out"), "", "a study"), pytest.raises(ConfigError, match="a study of process"):
        start_study(study_file)


def test_an_unreadable_task_stops_the_study_before_it_trains(study_file, pretending):
    with pytest.raises(ConfigError, match=r"tasks.toy at total_1000: data.few_shot.total is 1000"):
        start_study(study_file, ["sizes=[{total: 1000}]"])
    assert pretending.started() == []


def test_a_process_of_its_own_trains_and_a_killed_one_says_so(study_file, tmp_path):
    study = load_study(study_file, ["seeds=[0]", "methods={head: head.yaml}", "search.budget=1", "optim.epochs=1"])
    ended = []
    table = cells(study)
    train_study(table, parent_run_id=None, changed=lambda running, job: ended.append(job) if job else None)
    assert [job.result() is not None for job in ended] == [True]
    worker = Worker()
    try:
        config = build_config({**yaml.safe_load((tmp_path / "base.yaml").read_text()), "optim": {"epochs": 10**6}})
        worker.start(Order(config, None, {}), alone=True)
        time.sleep(0.5)
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match=r"code -9 in the middle of it. The kernel"):
            worker.finish()
    finally:
        worker.join()


def test_a_packed_study_has_the_same_runs_as_one_after_another(study_file, tmp_path, workers, monkeypatch):
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump({**HEAD, "backbone": {"frozen": False}}))
    methods = "methods={head: head.yaml, static: static.yaml, whole: whole.yaml}"  # the last can share no pass
    tables = []
    for name, pack in (("alone", 1), ("packed", 3)):
        start_study(study_file, [methods, f"pack={pack}", f"output_dir={tmp_path / name}"])
        times = ("seconds", "version", "commit")
        rows = table_of(tmp_path / name, "runs.csv")
        tables.append([{key: value for key, value in row.items() if key not in times} for row in rows])
        monkeypatch.setattr("launcher.studies.loop.Worker", Worker)  # the second in a process of its own
    assert tables[0] == tables[1]
    assert len(tables[0]) == 4 + 6


def test_a_death_costs_the_runs_of_a_pack_one_start_and_they_go_on_alone(study_file, tmp_path, monkeypatch):
    study = load_study(study_file, ["methods={head: head.yaml}", "search.budget=1", "seeds=[0,1,2]", "pack=3"])
    orders, ended = [], []
    start = Worker.start

    def noted(self, order, *, alone):
        orders.append(alone)
        place = start(self, order, alone=alone)
        if len(orders) == 3:
            self._process.kill()
        return place

    monkeypatch.setattr(Worker, "start", noted)
    train_study(cells(study), parent_run_id=None, changed=lambda running, job: ended.append(job) if job else None)
    assert orders == [False] * 3 + [True] * 3
    assert [job.result() is not None for job in ended] == [True] * 3


def test_the_command_shows_its_plan_and_trains_nothing(study_file, tmp_path, infoprompt):
    shown = infoprompt("study", study_file, "--plan", "--json", "seeds=[0,1,2]")
    assert shown.returncode == 0, shown.stderr
    plan = json.loads(shown.stdout)
    assert (plan["search_runs"], plan["final_runs"], plan["runs"]) == (4, 6, 10)
    assert plan["methods"]["static"] == {"grid_size": 2, "settings": [{"optim.lr": 0.001}, {"optim.lr": 0.01}]}
    assert "10 runs (4 of the search on seeds 0, 6 final ones" in " ".join(shown.stderr.split())
    assert not (tmp_path / "out").exists()


def test_the_command_names_what_is_wrong(study_file, infoprompt):
    shown = infoprompt("study", study_file, "baseline=haed", "--plan")
    assert shown.returncode == 2
    assert "baseline is haed, but must be one of the methods. Did you mean head?" in shown.stderr


def test_a_part_of_a_study_is_trained_and_the_rest_later(study_file, pretending):
    start_study(study_file, only={"method": ["head"]})
    first = list(pretending.started())
    assert len(first) == 4
    assert all("-head-" in name for name in first)
    start_study(study_file)
    rest = pretending.started()[len(first) :]
    assert len(rest) == 4
    assert all("-static-" in name for name in rest)
    with pytest.raises(ConfigError, match=r"--method is heat, but the study has none\. Did you mean head\?"):
        start_study(study_file, only={"method": ["heat"]})


def test_runs_of_a_search_that_end_at_once_have_their_final_runs_started_once(study_file, pretending):
    start_study(study_file, ["workers=4"])
    assert len(pretending.started()) == len(set(pretending.started())) == 8
