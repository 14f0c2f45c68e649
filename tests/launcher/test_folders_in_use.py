"""Every command that writes to a folder refuses one that another process is writing to."""

import pytest
import yaml

from infoprompt.artifact import Artifact
from infoprompt.config import ConfigError, build_config
from infoprompt.folder_lock import beside, held, inside
from infoprompt.peft.export import export_to_peft
from infoprompt.pretraining.pretrain import pretrain
from launcher.comparison import train_all
from launcher.sweep import start_sweep

IN_USE = r"but .* of process \d+ on .* has been writing there since .* Wait for its end"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("infoprompt.folder_lock.DYING_SECONDS", 0.02)


def test_a_comparison_in_use_keeps_the_run_around_it_from_being_moved_or_gone_on_with(toy_settings, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("an earlier run's")
    config = build_config({**toy_settings, "run": {**toy_settings["run"], "compare_with": {"other": ["seed=1"]}}})
    with held(inside(tmp_path / "run/compare/other"), "x is y"):
        for resume in ("never", "auto"):
            with pytest.raises(ConfigError, match=r"run\.output_dir is .*/run, " + IN_USE):
                train_all(config, resume=resume)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert (tmp_path / "run/config.yaml").read_text() == "an earlier run's"


def test_a_sweep_in_use_is_not_started_again(toy_settings, tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(toy_settings))
    sweep = {"base": "base.yaml", "space": {"optim.lr": {"choice": [0.1]}}, "output_dir": str(tmp_path / "sweep")}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**sweep, "num_samples": 1}))
    with held(inside(tmp_path / "sweep"), "x is y", "a sweep"):
        for resume in (False, True):
            with pytest.raises(ConfigError, match=r"output_dir is .*/sweep, " + IN_USE):
                start_sweep(tmp_path / "sweep.yaml", [], resume=resume, quiet=True)
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == []


def test_a_table_in_use_is_not_written(toy_settings, tmp_path):
    table = tmp_path / "table"
    prompt = {"kind": "ipt", "table": str(table), "encoder": "mlp"}
    config = build_config(
        {**toy_settings, "prompt": prompt, "objective": {"head_weight": 0, "representation_weight": 0}}
    )
    with held(beside(table), "x is y"), pytest.raises(ConfigError, match=r"prompt\.table is .*/table, " + IN_USE):
        pretrain(config)
    assert not table.exists()


def test_an_export_in_use_is_not_written(toy_settings, tmp_path):
    settings = {"prompt": {"kind": "static", "template": "before"}, "optim": {"max_steps": 1}}
    settings["objective"] = {"head_weight": 0, "representation_weight": 0}
    made = train_all(build_config({**toy_settings, **settings}))
    artifact = Artifact.from_pretrained(made.main["artifact"])
    with held(beside(tmp_path / "peft"), "x is y"), pytest.raises(ConfigError, match=r"/peft, " + IN_USE):
        export_to_peft(artifact, tmp_path / "peft")
    assert not (tmp_path / "peft").exists()
    export_to_peft(artifact, tmp_path / "peft")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["peft", "run"]
