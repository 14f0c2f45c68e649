import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

import infoprompt.train
from infoprompt.config import load_config, override_config
from infoprompt.tracking import connect, prepare_tracking
from infoprompt.tracking.spool import LEDGER_NAME, Ledger
from launcher.comparison import Outcome, comparisons, train_all
from launcher.report import class_table, describe, next_steps, summary, tool

RESULT = {
    "test": {"macro_f1": 0.5, "accuracy": 0.75},
    "dev": {"macro_f1": 0.6, "accuracy": 0.8},
    "steps": 40,
    "best_step": 20,
    "steps_to_95": 20,
    "seconds": 12.34,
    "trained_parameters": 12345,
    "metric": "accuracy",
    "artifact": "/elsewhere/run/artifact",
    "output_dir": "/elsewhere/run",
    "run_id": None,
}


def text_of(renderable) -> str:
    screen = Console(file=io.StringIO(), width=200)
    screen.print(renderable)
    return screen.file.getvalue()


def test_a_comparison_is_the_run_with_its_overrides_in_a_folder_below(tiny_config, tmp_path):
    config = load_config(tiny_config, ["run.compare_with={plain: [optim.lr=0.5], other: [seed=7]}", "optim.lr=0.25"])
    others = comparisons(config)
    assert list(others) == ["plain", "other"]
    assert others["plain"].optim.lr == 0.5
    assert others["other"].optim.lr == 0.25
    assert others["other"].run.output_dir == str(tmp_path / "run/compare/other")
    assert others["other"].run_name == "run-other"
    assert others["other"].run.compare_with == {}
    place = [f"run.output_dir={tmp_path / 'run'}", "run.name=null"]
    assert override_config(others["plain"], [*place, "optim.lr=0.25"]) == override_config(
        config, ["run.compare_with={}"]
    )


def test_an_outcome_survives_the_way_between_processes(tmp_path):
    outcome = Outcome("run", RESULT, {"plain": RESULT}, {"wild": "not finite"})
    outcome.save(tmp_path / "outcome.json")
    assert Outcome.load(tmp_path / "outcome.json") == outcome


def test_json_is_the_main_result_with_the_others_below():
    outcome = Outcome("run", RESULT, {"plain": RESULT})
    assert outcome.as_json() == {**RESULT, "compare": {"plain": RESULT}}


def test_the_table_has_a_row_per_run_and_the_main_metric_first():
    table = summary(Outcome("run", RESULT, {"plain": RESULT}, {"wild": "not finite"}))
    headings = [str(column.header).split() for column in table.columns]
    assert headings[:4] == [["run"], ["test", "accuracy"], ["test", "macro_f1"], ["best", "dev", "accuracy"]]
    lines = text_of(table).splitlines()
    rows = [line.split() for line in lines if "12,345" in line]
    assert [row[0] for row in rows] == ["run", "plain"]
    assert rows[0][1:5] == ["0.7500", "0.5000", "0.8000", "40"]
    assert any("stopped: not finite" in line for line in lines)


def test_a_run_without_test_rows_has_no_test_columns():
    assert "test" not in text_of(summary(Outcome("run", {**RESULT, "test": {}})))


def test_next_steps_name_the_artifact_and_the_curves(tiny_config, monkeypatch):
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    config = load_config(tiny_config, ["tracking.enabled=true", "tracking.uri=sqlite:////elsewhere/mlflow.db"])
    text = next_steps(Outcome("run", RESULT), config)
    assert 'infoprompt predict /elsewhere/run/artifact "some text"' in text
    assert "mlflow ui --backend-store-uri sqlite:////elsewhere/mlflow.db\n" in text
    assert text.endswith("then open http://127.0.0.1:5000/")  # nothing is known of an experiment


def test_the_curves_are_those_of_the_experiment(tiny_config, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    Ledger(folder / LEDGER_NAME, "sqlite:////elsewhere/mlflow.db", "mine", "run", experiment_id="7").update()
    for uri, shown in (
        ("sqlite:////elsewhere/mlflow.db", "then open http://127.0.0.1:5000/#/experiments/7/runs"),
        ("http://host:5000/", "curves    http://host:5000/#/experiments/7/runs"),
    ):
        config = load_config(tiny_config, ["tracking.enabled=true", f"tracking.uri={uri}"])
        assert next_steps(Outcome("run", RESULT), config).endswith(shown)


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
def test_mlflow_shows_comparisons_below_the_run_also_after_a_resume(tiny_config, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    without_terms = ["objective.head_weight=0", "objective.representation_weight=0"]
    config = load_config(
        tiny_config,
        ["tracking.enabled=true", f"tracking.uri={uri}", f"run.compare_with={json.dumps({'plain': without_terms})}"],
    )
    prepare_tracking(config.tracking)  # tables take seconds; a run waits for its id no longer than that
    first = train_all(config)
    again = train_all(config, resume="auto")
    for outcome in (first, again):
        assert outcome.main["run_id"] == first.main["run_id"]
        assert outcome.compare["plain"]["run_id"] == first.compare["plain"]["run_id"]
    client = connect(uri)
    main, plain = (client.get_run(one["run_id"]) for one in first.results().values())
    assert plain.data.tags["mlflow.parentRunId"] == main.info.run_id
    assert "mlflow.parentRunId" not in main.data.tags
    assert (plain.data.tags["comparison"], plain.info.run_name) == ("plain", "run-plain")
    assert {main.info.status, plain.info.status} == {"FINISHED"}
    assert len(client.search_runs([main.info.experiment_id])) == 2


def test_credentials_are_not_shown(tiny_config):
    config = load_config(tiny_config, ["tracking.enabled=true", "tracking.uri=http://me:canary@host:5000"])
    assert "canary" not in next_steps(Outcome("run", RESULT), config)


def test_one_line_says_what_will_run(tiny_config):
    line = describe(load_config(tiny_config, ["run.compare_with={plain: []}"]), 2)
    assert "\n" not in line
    for part in ("instance prompt of 4 vectors", "seed 0", "plain", "2 processes", "compared with plain"):
        assert part in line


def test_commands_have_their_path_where_the_environment_is_not_active(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tool("mlflow") == ".venv/bin/mlflow"
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    assert tool("mlflow") == "mlflow"


def test_classes_are_shown_one_a_line_and_of_many_those_with_the_lowest_f1():
    def row(f1):
        return {"precision": 0.5, "recall": 0.25, "f1": f1, "support": 1200}

    text = text_of(class_table({"a\n[b]": row(0.125), "c": row(1.0)}))
    assert "a [b]" in text
    assert "0.1250" in text
    assert "1,200" in text
    many = text_of(class_table({f"class {index}": row(index / 100) for index in range(60)}))
    assert "the 20 of 60 with the lowest F1" in " ".join(many.split())
    assert "class 19 " in many
    assert "class 20 " not in many


def test_a_comparison_stands_below_a_run_whose_id_came_late(tiny_config, monkeypatch):
    parents = []

    def run(config, *, parent_run_id=None, **_):
        """A run of which the tracking server answered only after it had started."""
        folder = Path(config.run.output_dir)
        folder.mkdir(parents=True)
        Ledger(folder / LEDGER_NAME, "http://slow", "mine", config.run_name, run_id=f"id of {config.run_name}").update()
        parents.append(parent_run_id)
        return SimpleNamespace(as_json=lambda: RESULT)

    monkeypatch.setattr(infoprompt.train, "run", run)
    train_all(load_config(tiny_config, ["tracking.enabled=true", "run.compare_with={plain: []}"]))
    assert parents == [None, "id of run"]
