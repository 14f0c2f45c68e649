import math
from pathlib import Path

import pytest

from infoprompt.config import ConfigError
from launcher.sweep import job_home
from launcher.sweep_plan import Dimension, SweepSettings, concurrent_trials, expand, load_sweep

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

LR = Dimension(grid=[1e-3, 3e-3])
SEED = Dimension(grid=[0, 1])


def sweep(**settings) -> SweepSettings:
    return SweepSettings(base="base.yaml", space={"seed": SEED}, **settings)


def test_grids_are_combined_and_the_last_runs_fastest():
    assert expand({"optim.lr": LR, "seed": SEED}) == [
        {"optim.lr": 1e-3, "seed": 0},
        {"optim.lr": 1e-3, "seed": 1},
        {"optim.lr": 3e-3, "seed": 0},
        {"optim.lr": 3e-3, "seed": 1},
    ]


def test_each_draw_is_combined_with_every_point_of_the_grids():
    space = {"optim.lr": Dimension(log_uniform=(1e-4, 1e-2)), "seed": SEED}
    points = expand(space, num_samples=3)
    assert len(points) == 6
    assert [point["seed"] for point in points] == [0, 1] * 3
    assert len({point["optim.lr"] for point in points}) == 3
    assert all(1e-4 <= point["optim.lr"] <= 1e-2 for point in points)
    assert list(points[0]) == list(space)


def test_draws_repeat_with_their_seed_and_do_not_depend_on_each_other():
    space = {"optim.lr": Dimension(uniform=(0, 1)), "prompt.length": Dimension(choice=[2, 4, 8])}
    assert expand(space, 5, seed=1) == expand(space, 5, seed=1)
    assert expand(space, 5, seed=1) != expand(space, 5, seed=2)
    alone = expand({"optim.lr": space["optim.lr"]}, 5, seed=1)
    assert [point["optim.lr"] for point in alone] == [point["optim.lr"] for point in expand(space, 5, seed=1)]


def test_log_uniform_is_even_in_the_logarithm():
    points = expand({"optim.lr": Dimension(log_uniform=(1e-4, 1e-2))}, 400)
    below = sum(math.log10(point["optim.lr"]) < -3 for point in points)
    assert 160 < below < 240  # binomial: 200 expected, deviation 10


def test_repeating_a_grid_without_draws_is_refused():
    with pytest.raises(ConfigError, match=r"seed: \{grid"):
        expand({"optim.lr": LR}, num_samples=2)


def test_yaml_numbers_without_a_point_are_numbers():
    assert Dimension(grid=["1e-3", "3E-3", "text"]).grid == [1e-3, 3e-3, "text"]


def test_a_file_becomes_checked_configs(tiny_sweep, tmp_path):
    settings, trials = load_sweep(tiny_sweep, ["optim.lr=0.5", f"output_dir={tmp_path / 'else'}"])
    assert [trial.config.seed for trial in trials] == [0, 1]
    assert {trial.config.optim.lr for trial in trials} == {0.5}
    assert settings.output_dir == str(tmp_path / "else")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["workers_per_trail=2"], "Trial 0 .*workers_per_trail is not a known setting"),
        (["workers_per_trial=0"], "workers_per_trial is 0, but must be greater than 0"),
        (["metric=test/accuracy"], "metric is test/accuracy, but must begin with dev/"),
        (["space={optim.learning_rate: {grid: [1]}}"], "Trial 0 .*Did you mean optim.lr"),
        (["space={optim.lr: {grid: [1], choice: [2]}}"], "space.optim.lr gives grid and choice"),
        (["space={optim.lr: {gird: [1]}}"], "space.optim.lr.gird is not a known setting. Did you mean grid"),
        (["space={optim.lr: {uniform: [2, 1]}}"], "the first must be the lower one"),
        (["space={optim.lr: {grid: [1, -1]}}"], r"Trial 1 \(optim.lr=-1\): optim.lr is -1"),
        (["space={}"], "space is {}"),
        (["direction=up"], "direction is 'up', but must be 'max' or 'min'"),
    ],
)
def test_errors_name_the_culprit(tiny_sweep, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_sweep(tiny_sweep, overrides)


def test_a_missing_file_and_a_missing_setting_are_named(tmp_path):
    with pytest.raises(ConfigError, match="There is no sweep file"):
        load_sweep(tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").write_text("space: {seed: {grid: [0]}}\n")
    with pytest.raises(ConfigError, match="base is missing"):
        load_sweep(tmp_path / "empty.yaml")


@pytest.mark.parametrize("path", sorted((CONFIGS / "sweeps").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_sweeps_are_valid(path):
    assert len(load_sweep(path)[1]) > 1


def test_the_quickstart_sweep_is_two_rates_by_two_seeds_on_two_workers():
    settings, trials = load_sweep(CONFIGS / "sweeps/quickstart.yaml")
    assert settings.workers_per_trial == 2
    assert [(trial.config.optim.lr, trial.config.seed) for trial in trials] == [
        (lr, seed) for lr in (1e-3, 3e-3) for seed in (0, 1)
    ]


@pytest.mark.parametrize(
    ("settings", "cluster", "trials"),
    [
        ({}, {"CPU": 5}, 5),
        ({"workers_per_trial": 2}, {"CPU": 5}, 2),
        ({"workers_per_trial": 2, "max_concurrent": 1}, {"CPU": 5}, 1),
        ({"workers_per_trial": 2, "gpus_per_worker": 1}, {"CPU": 32, "GPU": 8}, 4),
        ({"gpus_per_worker": 0.5}, {"CPU": 32, "GPU": 2}, 4),
    ],
)
def test_as_many_trials_run_as_fit(settings, cluster, trials):
    assert concurrent_trials(sweep(**settings), cluster, cluster) == trials


def test_a_trial_that_cannot_fit_is_refused_with_numbers():
    with pytest.raises(ConfigError, match="a trial needs 3 CPUs, but the cluster has 2"):
        concurrent_trials(sweep(workers_per_trial=3), {"CPU": 2}, {"CPU": 2})
    with pytest.raises(ConfigError, match="a trial needs 1 GPUs, but the cluster has 0"):
        concurrent_trials(sweep(gpus_per_worker=1), {"CPU": 2}, {"CPU": 2})
    with pytest.raises(ConfigError, match="the largest node has 4 CPUs"):
        concurrent_trials(sweep(cpus_per_worker=6), {"CPU": 8}, {"CPU": 4})


def test_a_job_of_ray_writes_to_a_folder_that_lasts(tmp_path, monkeypatch):
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.setenv("INFOPROMPT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert job_home() is None
    monkeypatch.chdir(copy)
    assert job_home() == tmp_path / "home"
    settings, trials = load_sweep(CONFIGS / "sweeps/quickstart.yaml", [], job_home())
    assert settings.output_dir == str(tmp_path / "home/runs/sweeps/quickstart")
    assert len(trials) == 4
