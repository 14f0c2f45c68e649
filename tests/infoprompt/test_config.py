"""Settings: precedence, presets, errors, and the files shipped."""

import subprocess
import sys
from pathlib import Path

import pytest

from infoprompt.config import PRESETS, ConfigError, build_config, dump_config, flatten, load_config, override_config
from infoprompt.setting_table import setting_keys, setting_reference
from infoprompt.settings import ESTIMATOR_NAMES, HEAD_KINDS, PROMPT_KINDS

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if not {"sweeps", "studies"} & set(path.parts))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shipped_config_loads_and_dumps_to_an_equal_one(path, tmp_path):
    config = load_config(path)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config


def test_overrides_win_over_the_file_which_wins_over_its_base(tmp_path):
    (tmp_path / "base.yaml").write_text("optim: {lr: 1.0e-2, epochs: 5, eps: 1.0e-6}\n")
    (tmp_path / "file.yaml").write_text("base: base.yaml\noptim: {lr: 2.0e-2, epochs: 6}\n")
    config = load_config(tmp_path / "file.yaml", ["optim.lr=3e-2"])
    assert (config.optim.lr, config.optim.epochs, config.optim.eps) == (3e-2, 6, 1e-6)


def test_overrides_of_one_map_add_up():
    config = override_config(build_config({}), ["data.columns.text=sentence", "data.columns.label=target"])
    assert config.data.columns == {"text": "sentence", "label": "target"}


def test_a_setting_beats_its_preset_and_a_later_preset_beats_an_earlier_files_settings(tmp_path):
    (tmp_path / "file.yaml").write_text("objective: {preset: release, head_weight: 0.7}\n")
    assert load_config(tmp_path / "file.yaml").objective.head_weight == 0.7
    assert load_config(tmp_path / "file.yaml", ["objective.preset=paper"]).objective.head_weight == 0.05
    resolved = load_config(tmp_path / "file.yaml")
    assert override_config(resolved, ["objective.preset=analytic"]).head.kind == "linear"


def test_a_preset_can_be_undone_by_null():
    config = build_config({"objective": {"preset": "release", "head_loss_cap": None}})
    assert config.objective.head_loss_cap is None
    assert config.objective.representation_loss_cap == 2.0


def test_the_one_cap_of_earlier_files_stands_for_both_that_are_not_given():
    objective = build_config({"objective": {"loss_cap": 3.0, "head_loss_cap": None}}).objective
    assert (objective.head_loss_cap, objective.representation_loss_cap) == (None, 3.0)


def test_release_draws_four_negatives_per_example_of_the_batch():
    config = build_config({"objective": {"preset": "release"}, "data": {"batch_size": 16}})
    assert config.objective.negatives == 64


def test_presets_govern_the_same_settings():
    assert len({frozenset(preset) for preset in PRESETS.values()}) == 1
    assert set(PRESETS["paper"]) <= set(setting_keys())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prompt.lenght=3", "Did you mean prompt.length"),
        ("optim.learning_rate=3", "Did you mean optim.lr"),
        ("learning_rate=3", "Did you mean optim.lr"),
        ("promt.length=3", "promt.length is not a known setting. Did you mean prompt.length"),
        ("nonsense_of_some_kind=3", "not a known setting"),
        ("prompt.length=0", "prompt.length is 0, but must be greater than 0"),
        ("prompt.length=two", "prompt.length is 'two'"),
        ("optim.lr=-1", "optim.lr is -1"),
        ("prompt.kind=soft", "prompt.kind is soft, but kinds are none, "),
        ("prompt.kind=none", "objective.head_weight is 0.05, but prompt.kind is none"),
        ("prompt.init=text", "prompt.text is empty"),
        ("data.micro_batch_size=3", "data.batch_size is 8, but data.micro_batch_size 3"),
        ("optim.warmup_percent=50", "together they must not pass 100"),
        ("objective.representation_estimator=smile", "Set objective.representation_negatives to sampled"),
        ("objective.head_estimator=club", "objective.head_estimator is 'club'"),
        ("objective.mine_rate=0", "objective.mine_rate is 0"),
        ("objective.interpolation=2", "objective.interpolation is 2"),
        ("objective.preset=papre", "objective.preset is 'papre'"),
        ("seed=-1", "seed is -1"),
        ("engine.zero_stage=4", "engine.zero_stage is 4"),
        ("justakey", "not of the form"),
    ],
)
def test_errors_name_setting_value_rule_and_way_out(override, message):
    with pytest.raises(ConfigError) as caught:
        override_config(build_config({}), [override])
    assert message in str(caught.value)


@pytest.mark.parametrize("term", ["head", "representation"])
def test_a_cap_is_refused_beside_an_estimator_without_a_scale(term):
    with pytest.raises(ConfigError, match=f"objective.{term}_loss_cap is 2, but objective.{term}_estimator is nwj"):
        build_config({"objective": {"preset": "release", f"{term}_estimator": "nwj"}})


def test_a_file_that_is_missing_broken_or_its_own_base_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no config file"):
        load_config(tmp_path / "absent.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(tmp_path / "broken.yaml")
    (tmp_path / "loop.yaml").write_text("base: loop.yaml")
    with pytest.raises(ConfigError, match="names itself"):
        load_config(tmp_path / "loop.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match="holds a list"):
        load_config(tmp_path / "list.yaml")


def test_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = build_config({"data": {"train": "rows.jsonl"}, "tracking": {"uri": "sqlite:///runs.db"}})
    assert config.run.output_dir == str(tmp_path / "runs/infoprompt")
    assert config.data.train == str(tmp_path / "rows.jsonl")
    assert config.tracking.uri == f"sqlite:///{tmp_path}/runs.db"
    assert build_config({"data": {"train": "owner/name:train"}}).data.train == "owner/name:train"


def test_every_setting_has_a_text_and_the_reference_is_up_to_date():
    reference = setting_reference()
    assert all(line.rsplit("|", 2)[1].strip() for line in reference.splitlines())
    assert all(f"`{key}`" in reference for key in setting_keys())
    assert (ROOT / "configs" / "REFERENCE.md").read_text().endswith(reference), (
        "configs/REFERENCE.md is old: infoprompt show --settings"
    )
    without_terms = {"head_weight": 0, "representation_weight": 0}
    in_words = {"data": {"template": "task"}, "prompt": {"kind": "none"}}
    configs = [
        build_config(
            {"objective": without_terms, **(in_words if kind == "choice_text" else {}), section: {"kind": kind}}
        )
        for section, kinds in (("prompt", PROMPT_KINDS), ("head", HEAD_KINDS))
        for kind in kinds
    ]
    configs += [build_config({"objective": {"head_estimator": name}}) for name in ESTIMATOR_NAMES]
    assert set().union(*map(flatten, configs)) == set(setting_keys()) - {"prompt.options"}


def test_the_config_imports_no_torch():
    code = "import sys, infoprompt.config; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_another_form_of_the_label_term_brings_its_own_settings():
    guarded = build_config(
        {"data": {"unlabelled": "rest"}, "objective": {"label_form": "guarded", "label_weight": 2.0}}
    )
    assert guarded.objective.start_anchor == 8
    plain = override_config(guarded, ["objective.label_form=plain"])
    assert (plain.objective.start_anchor, plain.objective.label_marginal, plain.objective.label_weight) == (
        0,
        "uniform",
        2,
    )
    assert override_config(guarded, ["optim.lr=0.1"]).objective == guarded.objective
