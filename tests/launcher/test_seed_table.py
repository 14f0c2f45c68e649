"""Runs over seeds, side by side."""

import json

import pytest

from infoprompt.config import ConfigError
from launcher.results import collect, markdown


def write(folder, score, name=None, state="finished", metric="accuracy"):
    folder.mkdir(parents=True)
    result = {"state": state, "metric": metric, "test": {metric: score}, "dev": {metric: score + 0.1}}
    (folder / "result.json").write_text(json.dumps({**result, "steps_to_95": 7, "seconds": 2, "trained_parameters": 1}))
    (folder / "config.yaml").write_text(f"run: {{name: {name or 'null'}}}")


def test_runs_of_one_kind_stand_in_one_row_with_mean_and_sample_deviation(tmp_path):
    for seed, score in enumerate((0.5, 0.7)):
        write(tmp_path / str(seed), score, name="ours")
        write(tmp_path / str(seed) / "compare" / "plain", score - 0.4)
    lines = markdown(collect([tmp_path])).splitlines()
    assert "| ours | 2 | 0.6000 ± 0.1414 | 0.7000 ± 0.1414 | 7 ± 0 | 2 | 1 |" in lines
    assert any(line.startswith("| plain | 2 | 0.2000 ± 0.1414") for line in lines)


def test_a_run_that_did_not_finish_does_not_count(tmp_path):
    write(tmp_path / "0", 0.5)
    write(tmp_path / "1", 0.9, state="running")
    assert [len(runs) for runs in collect([tmp_path]).values()] == [1]


def test_nothing_and_different_tasks_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no finished run"):
        collect([tmp_path])
    write(tmp_path / "0", 0.5)
    write(tmp_path / "1", 0.5, metric="macro_f1")
    with pytest.raises(ConfigError, match="accuracy and macro_f1"):
        collect([tmp_path])


def test_bars_and_line_ends_in_a_name_do_not_break_the_table(tmp_path):
    write(tmp_path / "0", 0.5, name='"a|b\\n c\\\\"')
    lines = markdown(collect([tmp_path])).splitlines()
    assert len(lines) == 3
    assert lines[2].startswith(r"| a\|b c\\ | 1 | 0.5000")
