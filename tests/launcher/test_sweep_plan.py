import os
import time
from pathlib import Path

import pytest
import yaml

from infoprompt.config import ConfigError, build_config
from launcher.ray_job import check_sent, in_job, job_home
from launcher.studies.plan import load_study
from launcher.sweeps.journal import TrialState
from launcher.sweeps.plan import SweepSettings, load_sweep

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SHIPPED = sorted((CONFIGS / "sweeps").glob("*.yaml"))


@pytest.fixture
def file(tmp_path) -> Path:
    """A sweep over two seeds of a config that is only read, never run."""
    (tmp_path / "base.yaml").write_text("data: {train: rows.jsonl}\nevaluation: {every_steps: 8}\n")
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({"base": "base.yaml", "space": {"seed": {"grid": [0, 1]}}, "output_dir": "out"}))
    return path


def sweep(**settings) -> SweepSettings:
    return SweepSettings.model_validate({"base": "base.yaml", "space": {"seed": {"grid": [0, 1]}}, **settings})


def test_a_file_becomes_checked_configs(file, tmp_path):
    plan = load_sweep(file, ["optim.lr=0.5", f"output_dir={tmp_path / 'else'}", "workers_per_trial=3"])
    assert plan.points == ({"seed": 0}, {"seed": 1})
    assert plan.num_trials == 2
    assert [plan.config(values).seed for values in plan.points] == [0, 1]
    assert {plan.config(values).optim.lr for values in plan.points} == {0.5}
    assert plan.settings.workers_per_trial == 3
    assert plan.settings.output_dir == str(tmp_path / "else")
    assert plan.settings.sweep_name == "else"
    assert (plan.first.seed, plan.seeds) == (0, [0])


@pytest.mark.parametrize(
    ("scheduler", "steps"),
    [
        ("{kind: none}", [None, None, None]),
        ("{kind: asha, reduction_factor: 2}", [8, 16, 32]),  # the base evaluates every 8 updates
        ("{kind: median, grace_steps: 3}", [3, 6, 9]),
        ("{kind: pbt, interval_steps: 5}", [5, 10, 15]),
    ],
)
def test_each_scheduler_compares_at_its_own_steps(file, scheduler, steps):
    plan = load_sweep(file, [f"scheduler={scheduler}", "space={optim.lr: {grid: [0.1]}}"])
    assert [plan.scheduler.next_comparison(TrialState(0, {}, [], stage=stage)) for stage in range(3)] == steps


def test_a_run_has_a_folder_and_name_of_its_own_and_the_device_that_it_is_given(file, tmp_path):
    plan = load_sweep(file, ["name=mine"], tmp_path)
    config = plan.config({"optim.lr": 0.25}, seed=7, name="0003/seed_7")
    assert config.run.output_dir == str(tmp_path / "out/trials/0003/seed_7")
    assert config.run_name == "mine-0003-seed_7"
    assert (config.seed, config.optim.lr, config.engine.device) == (7, 0.25, "cpu")
    assert load_sweep(file, ["gpus_per_worker=1"]).config({}).engine.device == "auto"


def test_seeds_make_one_trial_of_each_point_unless_the_space_varies_them(file):
    plan = load_sweep(file, ["space={optim.lr: {grid: [0.1, 0.2]}}", "seeds=[4, 5]"])
    assert [plan.seeds_of(values) for values in plan.points] == [[4, 5], [4, 5]]
    assert [load_sweep(file).seeds_of({"seed": 1})] == [[1]]


def test_the_base_may_vary_over_recipes(file):
    names = sorted(path.name for path in (CONFIGS / "recipes").glob("*.yaml"))
    bases = [str(CONFIGS / "recipes" / name) for name in names]
    plan = load_sweep(file, [f"space={{base: {{grid: {bases}}}}}", "data.train=rows.jsonl"])
    assert plan.num_trials == len(names) > 20
    kinds = {name: plan.config(values).prompt.kind for name, values in zip(names, plan.points, strict=True)}
    assert kinds["lpt.yaml"] != kinds["prefix.yaml"] != kinds["head_only.yaml"]


def test_a_base_that_is_not_there_is_named_with_its_trial(file):
    with pytest.raises(ConfigError, match=r"Trial 1 \(base=none.yaml\): .*none.yaml"):
        load_sweep(file, ["space={base: {grid: [base.yaml, none.yaml]}}"])


def test_one_dimension_or_one_setting_of_a_section_is_changed_from_the_command_line(file):
    plan = load_sweep(file, ["space.optim.lr={grid: [1e-3, 2e-3, 3e-3]}", "budget.hours=2", "scheduler.kind=median"])
    assert plan.num_trials == 6
    assert plan.settings.budget.hours == 2
    assert plan.settings.scheduler.kind == "median"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["workers_per_trail=2"], "Trial 0 .*workers_per_trail is not a known setting"),
        (
            ["workers_per_trial=0"],
            "workers_per_trial is 0, but must be greater than 0. Change it in the file or by workers_per_trial=VALUE",
        ),
        (["budget.hour=2"], "budget.hour is not a known setting. Did you mean hours"),
        (["budget.hours=0"], "budget.hours is 0, but must be greater than 0.* by budget.hours=VALUE"),
        (["scheduler.kind=hyperband"], "scheduler.kind is 'hyperband', but must be 'none', 'asha', 'median' or 'pbt'"),
        (["scheduler={knd: asha}"], "scheduler.knd is not a known setting. Did you mean kind"),
        (
            ["scheduler={kind: asha, reduction_factor: 1}"],
            "scheduler.reduction_factor is 1, but must be greater than or equal to 2",
        ),
        (
            ["scheduler={kind: pbt, interval_steps: 4, quantile: 0.7}"],
            "scheduler.quantile is 0.7, but must be less than or equal to 0.5",
        ),
        (["scheduler.kind=pbt"], "scheduler.interval_steps is missing. Give it by scheduler.interval_steps=VALUE"),
        (["scheduler.quantile=0.3"], "scheduler.quantile is 0.3, but scheduler.kind is none, .* is for pbt. Leave it"),
        (
            ["scheduler={kind: pbt, interval_steps: 4}"],
            r"pbt, but space varies seed, which cannot change .*Only optim.\* and objective.\* may vary; use asha",
        ),
        (
            ["scheduler={kind: pbt, interval_steps: 4}", "space={optim.lr: {grid: [1]}}", "searcher=optuna"],
            "scheduler.kind is pbt and searcher optuna, but both choose the settings. Use random",
        ),
        (
            ["scheduler.kind=asha", "evaluation.every_steps=null"],
            "scheduler.kind is asha, but neither scheduler.grace_steps nor evaluation.every_steps .* Give one of them",
        ),
        (["searcher=grid", "space={optim.lr: {choice: [1]}}"], "searcher is grid, but space.optim.lr is no grid. Give"),
        (["metric=test/accuracy"], "metric is test/accuracy, but must begin with dev/.* Use dev/score"),
        (["seeds=[0]"], "seeds is given, and space varies seed too; keep one"),
        (["seeds=[1, 1]", "space={optim.lr: {grid: [1]}}"], r"seeds is \[1, 1\], but each may come once"),
        (["seeds=[-1]"], "seeds.0 is -1, but must be greater than or equal to 0"),
        (["direction=up"], "direction is 'up', but must be 'max' or 'min'"),
        (["num_samples=2"], "num_samples is 2, but space has only grids.* Leave it out"),
        (["num_samples={"], "num_samples is '{', but must be a valid integer"),
        (["seeds=["], r"seeds is '\[', which is not valid YAML. Quote it, or close its brackets"),
        (["num_samples=1000000000", "space={optim.lr: {uniform: [0.1, 0.2]}}"], "at most 10000 can be planned. Give"),
        (["space={}"], "space is {}, but .*at least 1 item.* Change it in the file"),
        (["space=3"], "space is 3, but must be a valid dictionary"),
        (["space={optim.lr: [1, 2]}"], r"space.optim.lr is \[1, 2\], but must say how it varies. Write \{grid: "),
        (["space={optim.learning_rate: {grid: [1]}}"], "Trial 0 .*Did you mean optim.lr"),
        (["space={optim.lr: {grid: [1], choice: [2]}}"], "space.optim.lr gives grid and choice"),
        (["space={optim.lr: {gird: [1]}}"], "space.optim.lr.gird is not a known setting. Did you mean grid"),
        (["space={optim.lr: {uniform: [2, 1]}}"], "space.optim.lr is uniform from 2.0 to 1.0, but the first must be"),
        (["space={optim.lr: {uniform: [2]}}"], r"space.optim.lr.uniform is \[2\], but must be two numbers"),
        (["space={optim.lr: {integer: [1, 2, 3]}}"], r"space.optim.lr.integer is \[1, 2, 3\], but must be two numbers"),
        (["space={optim.lr: {log_uniform: [0, 1]}}"], "space.optim.lr.log_uniform.0 is 0, but must be greater than 0"),
        (["space={optim.lr: {grid: [1], when: 3}}"], "space.optim.lr.when is 3, but must be a valid dictionary"),
        (["space={optim.lr: {grid: [1], when: {seed: [0]}}}"], "space.optim.lr.when names seed, which is no dimension"),
        (["space={optim.lr: {grid: [1, -1]}}"], r"Trial 1 \(optim.lr=-1\): optim.lr is -1"),
        (["overrides=optim.lr=3"], "overrides is 'optim.lr=3', but must be a valid list"),
    ],
)
def test_errors_name_the_culprit_and_the_way_out(file, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_sweep(file, overrides)


def test_a_missing_file_a_missing_setting_and_no_yaml_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"There is no sweep file .*configs/sweeps"):
        load_sweep(tmp_path / "none.yaml")
    path = tmp_path / "sweep.yaml"
    for text, message in (
        ("space: {seed: {grid: [0]}}\n", "base is missing. Give it"),
        ("[1, 2]", "holds a list, but must hold `base`, `space`"),
        ("base: [", "is not valid YAML"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            load_sweep(path)


@pytest.mark.parametrize(
    "settings",
    [
        ["searcher=optuna", "num_samples=2"],  # proposes what it likes
        ["scheduler={kind: pbt, interval_steps: 8}"],  # wanders
    ],
)
@pytest.mark.parametrize("ends", ["[-0.001, 100]", "[0.001, .inf]"])
def test_both_ends_of_a_range_are_checked_where_a_sweep_may_come_to_them(file, settings, ends):
    space = f"space={{optim.lr: {{uniform: [0.001, 0.002]}}, optim.weight_decay: {{uniform: {ends}}}}}"
    bad = r"weight_decay is -0.001" if "inf" not in ends else "weight_decay.uniform.1 is inf, but must be a finite"
    with pytest.raises(ConfigError, match=bad) as refused:
        load_sweep(file, [space, *settings])
    if "inf" not in ends:
        assert str(refused.value).startswith("A corner of the space (optim.lr=0.001, optim.weight_decay=-0.001): ")
        load_sweep(file, [space])  # a plain draw is where it is


def test_a_setting_whose_condition_is_not_met_stays_as_the_base_has_it(file):
    space = "{prompt.kind: {grid: [static, prefix]}, prompt.length: {grid: [2, 6], when: {prompt.kind: prefix}}}"
    plan = load_sweep(file, [f"space={space}", "objective.head_weight=0", "objective.representation_weight=0"])
    prompts = [plan.config(values).prompt for values in plan.points]
    assert [(prompt.kind, prompt.length) for prompt in prompts] == [("static", 4), ("prefix", 2), ("prefix", 6)]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_sweeps_are_valid(path):
    plan = load_sweep(path)
    assert plan.num_trials > 1
    assert plan.first.optim.lr > 0


def test_the_quickstart_sweep_is_two_rates_with_two_seeds_on_two_workers():
    plan = load_sweep(CONFIGS / "sweeps/quickstart.yaml")
    assert plan.settings.workers_per_trial == 2
    assert plan.points == ({"optim.lr": 1e-3}, {"optim.lr": 3e-3})
    assert plan.seeds == [0, 1]


# ---- the cluster


@pytest.mark.parametrize(
    ("settings", "cluster", "trials"),
    [
        ({}, {"CPU": 5}, 5),
        ({"workers_per_trial": 2}, {"CPU": 5}, 2),
        ({"workers_per_trial": 2, "max_concurrent": 1}, {"CPU": 5}, 1),
        ({"max_concurrent": 9}, {"CPU": 5}, 5),
        ({"workers_per_trial": 2, "gpus_per_worker": 1}, {"CPU": 32, "GPU": 8}, 4),
        ({"gpus_per_worker": 0.5}, {"CPU": 32, "GPU": 2}, 4),
    ],
)
def test_as_many_trials_run_as_fit(settings, cluster, trials):
    assert sweep(**settings).needs.groups_that_fit(cluster, cluster) == trials


@pytest.mark.parametrize(
    ("settings", "total", "largest", "message"),
    [
        ({"workers_per_trial": 3}, {"CPU": 2}, {"CPU": 2}, "a trial needs 3 CPUs, but the cluster has 2. Lower one"),
        ({"gpus_per_worker": 1}, {"CPU": 2}, {"CPU": 2}, "a trial needs 1 GPUs, but the cluster has 0"),
        ({"cpus_per_worker": 6}, {"CPU": 8}, {"CPU": 4}, "cpus_per_worker is 6, but the largest node has 4 CPUs"),
        (
            {"workers_per_trial": 4, "placement": "STRICT_PACK"},
            {"CPU": 8},
            {"CPU": 2},
            "placement is STRICT_PACK and a trial needs 4 CPUs on one node, but the largest has 2. Use PACK",
        ),
    ],
)
def test_a_trial_that_cannot_fit_is_refused_with_numbers(settings, total, largest, message):
    with pytest.raises(ConfigError, match=message):
        sweep(**settings).needs.groups_that_fit(total, largest)


def test_a_cluster_that_grows_is_asked_for_all_groups_whatever_it_has_now():
    needs = sweep(autoscaling=True, max_concurrent=3, workers_per_trial=2).needs
    assert needs.groups_that_fit({}, {}) == needs.groups_that_fit({"CPU": 64}, {"CPU": 8}) == 3
    with pytest.raises(ValueError, match=r"autoscaling is true, but max_concurrent is not given.*Set max"):
        sweep(autoscaling=True)


def test_a_job_of_ray_writes_to_a_folder_that_lasts(tmp_path, monkeypatch):
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.setenv("INFOPROMPT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("INFOPROMPT_DATA", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    assert job_home(said.append) is None
    assert (said, in_job(), "MLFLOW_TRACKING_URI" in os.environ) == ([], False, False)
    monkeypatch.chdir(copy)
    home = job_home(said.append)
    assert (home, in_job()) == (tmp_path / "home", True)
    assert said == [f"what this job writes goes to {home} (INFOPROMPT_HOME)"]
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{home}/mlflow.db"
    plan = load_sweep(CONFIGS / "sweeps/quickstart.yaml", [], home)
    assert plan.settings.output_dir == str(tmp_path / "home/runs/sweeps/quickstart")
    assert load_study(CONFIGS / "studies/core.yaml", [], home).folder == tmp_path / "home/runs/studies/core"


def test_a_file_that_a_job_was_not_sent_is_named_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.csv").touch()
    given = {"train": "there.csv", "validation": "owner/name:split", "test": str(tmp_path.parent / "elsewhere.csv")}
    check_sent(build_config({"data": given}), tmp_path)
    with pytest.raises(
        ConfigError, match=r"data\.test is data/rows\.csv, which is not in the copy .* \.rayignore names"
    ):
        check_sent(build_config({"data": {**given, "test": ["there.csv", "data/rows.csv"]}}), tmp_path)
    with pytest.raises(ConfigError, match=r"data\.unlabelled is texts\.txt, which is not in the copy"):
        check_sent(build_config({"data": {**given, "unlabelled": "texts.txt"}}), tmp_path)
    (tmp_path / "texts.txt").touch()
    check_sent(build_config({"data": {**given, "unlabelled": "texts.txt"}}), tmp_path)


def test_ten_thousand_trials_are_checked_in_ten_seconds_of_computing(file):
    recipes = [str(CONFIGS / "recipes" / f"{name}.yaml") for name in ("head_only", "prefix", "infoprompt_paper")]
    settings = yaml.safe_load(file.read_text()) | {
        "overrides": ["data.train=rows.jsonl"],
        "space": {
            "base": {"choice": recipes},
            "optim.lr": {"log_uniform": [1e-4, 1e-1]},
            "data.batch_size": {"choice": [8, 16, 32]},
        },
        "num_samples": 1000,  # a tenth of the most that can be planned
    }
    file.write_text(yaml.safe_dump(settings | {"num_samples": 1}))
    load_sweep(file)  # what is made once
    file.write_text(yaml.safe_dump(settings))
    before = time.process_time()
    assert load_sweep(file).num_trials == 1000
    assert time.process_time() - before < 1.0
