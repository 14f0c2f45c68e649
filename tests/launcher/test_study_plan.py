import itertools
from pathlib import Path

import pytest
import yaml

from infoprompt.config import ConfigError
from launcher.studies.jobs import cells, num_planned
from launcher.studies.markdown import budget_lines
from launcher.studies.plan import grid_settings, load_study

STUDIES = sorted((Path(__file__).resolve().parents[2] / "configs/studies").glob("*.yaml"))


def write(path: Path, values: dict) -> Path:
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


@pytest.fixture
def study_file(tmp_path) -> Path:
    """A study of two methods, one with a large grid, that nobody trains."""
    write(tmp_path / "base.yaml", {"engine": {"device": "cpu"}, "optim": {"epochs": 7}})
    write(tmp_path / "wide.yaml", {"search": {"optim.lr": ["1e-3", 3e-3, 1e-2], "prompt.length": [2, 4, 8]}})
    write(tmp_path / "narrow.yaml", {"prompt": {"kind": "static"}})
    values = {
        "base": "base.yaml",
        "methods": {"wide": "wide.yaml", "narrow": {"recipe": "narrow.yaml", "overrides": ["optim.epochs=9"]}},
        "tasks": {"toy": ["data.task=sst2"]},
        "sizes": [{"total": 16}, {"per_class": 4}, {}],
        "seeds": [3, 4],
        "search": {"budget": 2},
        "baseline": "narrow",
        "output_dir": str(tmp_path / "out"),
    }
    return write(tmp_path / "study.yaml", values)


def changed(study_file: Path, **values) -> Path:
    return write(study_file, {**yaml.safe_load(study_file.read_text()), **values})


def test_a_large_grid_is_sampled_down_to_the_budget_and_always_alike():
    grid = {"optim.lr": [1, 2, 3], "prompt.length": [4, 5, 6]}
    whole = grid_settings(grid, 9)
    assert [tuple(setting.values()) for setting in whole] == list(itertools.product([1, 2, 3], [4, 5, 6]))
    sample = grid_settings(grid, 4)
    assert sample == grid_settings(grid, 4)
    assert len(sample) == 4
    assert [setting for setting in whole if setting in sample] == list(sample)
    assert grid_settings({}, 4) == ({},)


def test_no_method_tries_more_than_the_budget_and_the_plan_names_smaller_grids(study_file):
    study = load_study(study_file)
    assert [len(method.settings) for method in study.methods.values()] == [2, 1]
    assert budget_lines(study) == [
        "wide: 2 settings, a sample of the grid's 9",
        "narrow: 1 setting, the whole grid, below the budget of 2",
    ]
    assert all(isinstance(setting["optim.lr"], float) for setting in study.methods["wide"].settings)


def test_runs_are_counted_and_only_final_ones_see_the_test_rows(study_file):
    table = cells(load_study(study_file))
    assert num_planned(table) == 3 * (2 + 2) + 3 * 2
    jobs = table[0].search_jobs
    assert [job.seed for job in jobs] == [3, 3]
    assert not any(job.config.evaluation.test for job in jobs)
    assert len({job.folder for cell in table for job in (*cell.search_jobs, *cell.final_jobs)}) == 6 + 6
    final = table[1].final_jobs[0]
    assert table[1].method == "narrow"
    assert final.config.evaluation.test
    assert final.config.seed == 3


def test_settings_come_from_base_recipe_and_overrides_in_that_order(study_file):
    table = cells(load_study(study_file, ["optim.weight_decay=0.5", "seeds=[9]"]))
    wide, narrow = (cell.search_jobs[0].config if cell.search_jobs else cell.final_jobs[0].config for cell in table[:2])
    assert (wide.optim.epochs, narrow.optim.epochs) == (7, 9)
    assert (wide.prompt.kind, narrow.prompt.kind) == ("instance", "static")
    assert wide.optim.weight_decay == narrow.optim.weight_decay == 0.5
    assert wide.seed == narrow.seed == 9
    assert (wide.engine.kind, wide.engine.device, wide.checkpoint.enabled) == ("plain", "cpu", False)
    assert [cell.final_jobs[0].config.data.few_shot.model_dump() for cell in table if cell.method == "narrow"] == [
        {"total": 16, "per_class": None, "short_classes": "refuse"},
        {"total": None, "per_class": 4, "short_classes": "refuse"},
        {"total": None, "per_class": None, "short_classes": "refuse"},
    ]


def test_a_task_may_have_sizes_of_its_own(study_file):
    tasks = {"toy": ["data.task=sst2"], "small": {"overrides": ["data.task=cb"], "sizes": [{"total": 8}]}}
    table = cells(load_study(changed(study_file, tasks=tasks)))
    assert [cell.place[1] for cell in table if cell.task == "small"] == ["total_8", "total_8"]


def test_environment_variables_in_tasks_are_filled_in(study_file, monkeypatch):
    path = changed(study_file, tasks={"toy": ["data.train=${TOY_ROWS}/train.jsonl"]})
    with pytest.raises(ConfigError, match=r"tasks.toy reads the environment variable TOY_ROWS, which is not set"):
        load_study(path)
    monkeypatch.setenv("TOY_ROWS", "/rows")
    assert cells(load_study(path))[0].search_jobs[0].config.data.train == "/rows/train.jsonl"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"baseline": "narow"}, "baseline is narow, but must be one of the methods. Did you mean narrow"),
        ({"search": {"budget": 0}}, "search.budget is 0, but must be greater than 0"),
        ({"search": {"bugdet": 1}}, "search.bugdet is not a known setting. Did you mean budget"),
        ({"methods": {}}, "methods is {}, but"),
        ({"methods": {"narrow": "none.yaml"}}, "methods.narrow.recipe is none.yaml: There is no config file"),
        ({"methods": {"narrow": {"recipe": "narrow.yaml", "over": []}}}, "methods.narrow.over is not a known setting"),
        ({"methods": {"a/b": "wide.yaml", "narrow": "narrow.yaml"}}, "methods names 'a/b', but the name becomes a fol"),
        ({"seeds": [1, 1]}, r"seeds is \[1, 1\], but must be different numbers"),
        ({"sizes": [{"total": 4}, {"total": 4}]}, "sizes is total_4, total_4, but each must be named once"),
        ({"sizes": [{"total": 4, "per_class": 4}]}, "only one of them"),
        ({"tasks": {"toy": ["seed=3"]}}, "tasks.toy sets seed, but a study decides that itself. Use `seeds`"),
        ({"overrides": ["evaluation.test=true"]}, "overrides sets evaluation.test, .* Only final runs see the test"),
        ({"overrides": ["optim.learning_rate=1"]}, "methods.wide on toy, total_16.*Did you mean optim.lr"),
        ({"base": "nothing.yaml"}, "There is no config file .*nothing.yaml"),
    ],
)
def test_errors_name_the_culprit(study_file, values, message):
    with pytest.raises(ConfigError, match=message):
        load_study(changed(study_file, **values))


def test_a_method_named_twice_is_refused(study_file):
    text = study_file.read_text().replace("  wide: wide.yaml\n", "  wide: wide.yaml\n  wide: narrow.yaml\n")
    study_file.write_text(text)
    with pytest.raises(ConfigError, match="wide is given twice"):
        load_study(study_file)


def test_a_part_of_what_is_no_mapping_is_refused(study_file):
    with pytest.raises(ConfigError, match=r"search.budget is a part of search, but that is '3'"):
        load_study(study_file, ["search=3", "search.budget=1"])
    with pytest.raises(ConfigError, match=r"methods.wide.overrides is a part of wide, but that is 'wide.yaml'"):
        load_study(study_file, ["methods.wide.overrides=[seed=1]"])


def test_a_recipe_with_an_empty_list_is_refused(study_file, tmp_path):
    write(tmp_path / "wide.yaml", {"search": {"optim.lr": []}})
    with pytest.raises(ConfigError, match=r"search.optim.lr of wide.yaml is empty"):
        load_study(study_file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="There is no study file"):
        load_study(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_shipped_studies_are_valid_and_give_each_method_the_same_budget(path):
    study = load_study(path)
    for name, method in study.methods.items():
        task = next(iter(study.config.tasks))
        config = study.run_config(name, task, study.config.sizes_of(task)[0], method.settings[0], 0, {})
        # what makes no update has no rate to choose; the label's term is two choices beside the rates
        terms = 2 if path.name in ("label_information.yaml", "prompts.yaml") else 0
        rates = study.config.search.budget - terms
        expected = rates + terms if name.startswith("label_") else rates
        assert len(method.settings) == (expected if config.updates else 1), name


def test_some_studies_are_shipped():
    assert {path.name for path in STUDIES} >= {"core.yaml", "whole.yaml", "sst2_64.yaml"}


def test_settings_that_go_together_are_points_of_a_grid(study_file, tmp_path):
    points = [{"optim.lr": 0.1, "seed": 3}, {"optim.lr": 0.2}]
    assert grid_settings({"points": points, "prompt.length": [2, 4]}, 4) == (
        {"optim.lr": 0.1, "seed": 3, "prompt.length": 2},
        {"optim.lr": 0.1, "seed": 3, "prompt.length": 4},
        {"optim.lr": 0.2, "prompt.length": 2},
        {"optim.lr": 0.2, "prompt.length": 4},
    )
    write(tmp_path / "wide.yaml", {"search": {"points": [0.1]}})
    with pytest.raises(ConfigError, match=r"search.points of wide.yaml is \[0.1\], but each point must name settings"):
        load_study(study_file)


def test_each_run_of_a_study_has_a_place_of_its_own_in_the_mirror(study_file, tmp_path):
    study = load_study(study_file, ["run.mirror=s3://bucket/study"])
    jobs = [job for cell in cells(study) for job in [*cell.search_jobs, *cell.final_jobs]]
    mirrors = [job.config.run.mirror for job in jobs]
    assert len({*mirrors}) == len(jobs) > 9
    for job, mirror in zip(jobs, mirrors, strict=True):
        assert mirror == f"s3://bucket/study/{job.folder.relative_to(tmp_path / 'out')}"
