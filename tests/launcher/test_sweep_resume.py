"""A sweep's trials are all of one base, also after a resume."""

from pathlib import Path

import pytest

from infoprompt.config import ConfigError, build_config, changed_setting, dump_config, override_config
from launcher.sweeps.journal import RunState, TrialState, save_trial
from launcher.sweeps.plan import Sweep, load_sweep
from launcher.sweeps.resume import earlier_trials

BASE = "data: {train: rows.jsonl}\noptim: {epochs: 3}\n"


@pytest.fixture
def file(tmp_path) -> Path:
    """A sweep over two rates, in a folder of its own."""
    (tmp_path / "below.yaml").write_text("seed: 5\n")
    (tmp_path / "base.yaml").write_text(f"base: below.yaml\n{BASE}")
    path = tmp_path / "sweep.yaml"
    path.write_text(f"base: base.yaml\nspace: {{optim.lr: {{grid: [0.1, 0.2]}}}}\noutput_dir: {tmp_path}/out\n")
    return path


def begin(sweep: Sweep, *numbers: int, config: bool = True) -> None:
    """Leave what a sweep that was stopped leaves of these trials."""
    for number in numbers:
        run = RunState(sweep.seeds[0])
        trial = TrialState(number, sweep.points[number], [run])
        save_trial(Path(sweep.settings.output_dir), trial)
        folder = Path(sweep.settings.output_dir) / "trials" / trial.run_name(run)
        folder.mkdir(parents=True)
        if config:
            settings = sweep.config(trial.values, seed=run.seed, name=trial.run_name(run))
            (folder / "config.yaml").write_text(dump_config(settings))


def test_a_base_that_changes_on_the_way_changes_no_trial(file, tmp_path):
    sweep = load_sweep(file)
    (tmp_path / "base.yaml").write_text(BASE.replace("3", "9"))
    (tmp_path / "below.yaml").unlink()
    assert {sweep.config(values).optim.epochs for values in sweep.points} == {3}
    assert sweep.config(sweep.points[1]).seed == 5


@pytest.mark.parametrize(
    ("changed", "overrides", "message"),
    [
        ("base.yaml", [], r"optim.epochs is 9, but trial 0 .* was started with 3\. Put `base` and the overrides back"),
        ("below.yaml", [], r"data.few_shot.total is 8, but trial 0 .* was started with None"),
        (None, ["optim.eps=1e-4"], r"optim.eps is 0.0001, but trial 0 .* was started with 1e-08"),
    ],
)
def test_a_sweep_does_not_go_on_with_other_settings(file, tmp_path, changed, overrides, message):
    begin(load_sweep(file), 0)
    if changed == "base.yaml":
        (tmp_path / changed).write_text(f"base: below.yaml\n{BASE.replace('3', '9')}")
    elif changed:
        (tmp_path / changed).write_text("seed: 5\ndata: {few_shot: {total: 8}}\n")
    with pytest.raises(ConfigError, match=message):
        earlier_trials(load_sweep(file, overrides), resume=True)


def test_a_sweep_goes_on_where_only_what_may_change_has(file):
    begin(load_sweep(file), 0, 1)
    more = ["engine.kind=plain", "tracking.enabled=false", "checkpoint.keep=5", "evaluation.test=false"]
    assert len(earlier_trials(load_sweep(file, more), resume=True)) == 2


def test_trials_without_a_config_of_their_own_are_gone_on_with(file, tmp_path):
    begin(load_sweep(file), 0, config=False)
    begin(load_sweep(file), 1)
    (tmp_path / "out/trials/0001/seed_5/config.yaml").write_text("optim: {of_another_version: 3}\n")
    assert len(earlier_trials(load_sweep(file), resume=True)) == 2


def test_what_may_change_while_something_goes_on_is_said_once():
    one = build_config({"optim": {"lr": 0.5}})
    free = ["run.name=x", "engine.kind=plain", "tracking.every_steps=3", "checkpoint.keep=9", "search={optim.lr: [1]}"]
    assert changed_setting(override_config(one, free), one) is None
    assert changed_setting(override_config(one, ["optim.lr=1"]), one) == ("optim.lr", "1.0", "0.5")
    assert changed_setting(override_config(one, ["optim.lr=1"]), one, free=["optim.lr"]) is None
