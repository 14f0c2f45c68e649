"""Settings that belong to a kind: refused elsewhere, left behind with it, and dropped from what was saved before."""

import json
from pathlib import Path

import pytest
import yaml

from infoprompt.config import (
    ConfigError,
    RunConfig,
    build_config,
    changed_setting,
    compose_config,
    dump_config,
    load_config,
    override_config,
    saved_values,
)
from infoprompt.setting_table import setting_reference
from infoprompt.settings import ESTIMATOR_NAMES, HEAD_KINDS, PROMPT_KINDS
from infoprompt.settings.kinds import OWN, field_of, kind_of_model, model_of_kind, sections_with_kinds
from infoprompt.settings.objective import ESTIMATOR_SETTINGS
from launcher.sweeps.plan import load_sweep
from launcher.sweeps.settings import SweepSettings

ROOT = Path(__file__).parents[2]
LPT = ROOT / "configs" / "recipes" / "lpt.yaml"
EARLIER = json.loads((ROOT / "tests" / "earlier" / "artifact" / "config.json").read_text())["config"]
NO_TERMS = {"head_weight": 0, "representation_weight": 0}
SECTIONS = sections_with_kinds(RunConfig)
GIVEN = {
    "length": 7,
    "init": "random",
    "text": "a text",
    "bottleneck": 9,
    "template": "before",
    "static_base": False,
    "source": "constant",
    "layer": 1,
    "mode": "prefix",
    "encoder": "cnn",
    "table": "a_table",
    "reparameterization": "mlp",
    "start_from": "a_folder",
}
"""A value other than the default of each setting of a shipped kind of prompt."""


def foreign(sections):
    """Every section, kind and setting that only other kinds have."""
    return [
        (section, kind_of_model(model), name)
        for section, models in sections.items()
        for model in models
        for name in sorted({name for other in models for name in other.model_fields} - model.model_fields.keys())
    ]


def a_value(models, name):
    default = field_of(models, name).get_default(call_default_factory=True)
    return default if isinstance(default, (int, float, str, dict)) else 1


@pytest.fixture
def own_kinds(monkeypatch):
    """Files of one's own beside the shipped ones."""
    monkeypatch.setattr("infoprompt.settings.prompt.PROMPT_KINDS", (*PROMPT_KINDS, "gated", "striped"))
    monkeypatch.setattr("infoprompt.settings.head.HEAD_KINDS", (*HEAD_KINDS, "cosine"))


def refused(values):
    with pytest.raises(ConfigError) as caught:
        build_config(values)
    return str(caught.value)


def names_its_kinds(message, section, models, name):
    kinds = [kind_of_model(model) for model in models if name in model.model_fields]
    assert "\n" not in message
    assert f"{section}.{name} is " in message
    assert f"{section}.kind is " in message
    assert "Leave it out, or " in message
    assert "every kind but" in message or all(kind in message.split("setting is for")[1] for kind in kinds)


@pytest.mark.parametrize(("section", "kind", "name"), foreign(SECTIONS))
def test_a_setting_of_another_kind_is_refused_by_name(section, kind, name, own_kinds):
    models = SECTIONS[section]
    kind = {"prompt": "gated", "head": "cosine"}[section] if kind == OWN else kind
    message = refused({"objective": NO_TERMS, section: {"kind": kind, name: a_value(models, name)}})
    names_its_kinds(message, section, models, name)


@pytest.mark.parametrize(("section", "kind", "name"), foreign(sections_with_kinds(SweepSettings)))
def test_a_setting_of_another_scheduler_is_refused_by_name(section, kind, name, tmp_path):
    (tmp_path / "base.yaml").write_text("evaluation: {every_steps: 8}\n")
    models = sections_with_kinds(SweepSettings)[section]
    needed = {"interval_steps": 8} if kind == "pbt" else {}
    scheduler = {"kind": kind, name: a_value(models, name), **needed}
    sweep = {"base": "base.yaml", "space": {"optim.lr": {"grid": [0.1]}}, section: scheduler}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    with pytest.raises(ConfigError) as caught:
        load_sweep(tmp_path / "sweep.yaml")
    names_its_kinds(str(caught.value), section, models, name)


@pytest.mark.parametrize(("name", "estimator"), ESTIMATOR_SETTINGS.items())
def test_a_setting_of_an_estimator_is_refused_unless_a_term_has_it(name, estimator):
    given = {name: getattr(RunConfig().objective, name), "representation_negatives": "sampled"}
    for other in set(ESTIMATOR_NAMES) - {estimator}:
        objective = {**given, "head_estimator": other, "representation_estimator": other}
        message = refused({"objective": objective})
        assert f"objective.{name} is {given[name]:g}, but is a setting of the estimator {estimator}, and" in message
        assert f"the two terms have {other} and {other}. Leave it out, or set" in message
        for term in ("head_estimator", "representation_estimator"):
            config = build_config({"objective": {**objective, term: estimator}})
            assert getattr(config.objective, name) == given[name]
            assert name in saved_values(config)["objective"]


def test_every_shipped_kind_has_a_model():
    kinds = {section: {kind_of_model(model) for model in models} for section, models in SECTIONS.items()}
    assert kinds == {"prompt": {"none", OWN, *PROMPT_KINDS}, "head": {OWN, *HEAD_KINDS}}


@pytest.mark.parametrize("kind", ["none", *PROMPT_KINDS])
def test_a_config_of_each_kind_is_saved_whole_and_loads_back(kind, tmp_path):
    config = build_config({"prompt": {"kind": kind}, "objective": NO_TERMS})
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config
    assert saved_values(config)["prompt"].keys() == model_of_kind(SECTIONS["prompt"], kind).model_fields.keys()


def test_a_kind_changed_above_leaves_its_own_settings_behind(tmp_path):
    (tmp_path / "deep.yaml").write_text(f"base: {LPT}\nprompt: {{layer: 1}}\n")
    (tmp_path / "file.yaml").write_text("base: deep.yaml\nprompt: {kind: ipt, mode: prefix, init: random}\n")
    assert load_config(tmp_path / "deep.yaml").prompt.layer == 1
    changed = load_config(tmp_path / "file.yaml").prompt
    assert (changed.length, changed.template, changed.mode) == (5, "front", "prefix")  # what both kinds have stays
    static = load_config(tmp_path / "file.yaml", ["prompt.kind=static"]).prompt
    assert (static.kind, static.length, static.init) == ("static", 5, "random")
    assert load_config(tmp_path / "file.yaml", ["prompt.kind=lpt", "prompt.layer=2"]).prompt.layer == 2
    assert load_config(tmp_path / "file.yaml", ["prompt.layer=2", "prompt.kind=lpt"]).prompt.layer == 2


@pytest.mark.parametrize(
    "overrides",
    [
        ["prompt.layer=1", "prompt.kind=static"],
        ["prompt.kind=static", "prompt.layer=1"],
        ["prompt={kind: static, layer: 1}"],
        ["prompt.mode=prefix"],
        ["prompt.kind=lpt", "prompt.mode=prefix"],
    ],
)
def test_a_setting_given_beside_or_above_the_kind_is_refused(overrides):
    with pytest.raises(ConfigError, match=r"^prompt\.(layer|mode) is .* that setting is for (lpt|ipt)\. Leave it out"):
        load_config(LPT, overrides)


def test_what_a_sweep_or_a_study_decides_stands_above_overrides():
    layers, changes = [{"objective": NO_TERMS, "prompt": {"kind": "lpt"}}], ["prompt.layer=1"]
    assert compose_config(layers, changes).prompt.layer == 1
    assert compose_config(layers, changes, {"prompt.kind": "static"}).prompt.kind == "static"
    with pytest.raises(ConfigError, match="that setting is for lpt"):
        compose_config(layers, changes, {"prompt.kind": "static", "prompt.layer": 1})


def test_an_estimator_changed_above_leaves_its_own_settings_behind():
    mine = build_config({"objective": {"head_estimator": "mine", "mine_rate": 0.5}})
    assert override_config(mine, ["objective.representation_estimator=dv"]).objective.mine_rate == 0.5
    assert override_config(mine, ["objective.head_estimator=infonce"]).objective.estimators == ("infonce", "infonce")
    moved = ["objective.head_estimator=infonce", "objective.representation_estimator=mine"]
    assert override_config(mine, moved).objective.mine_rate == 0.5
    with pytest.raises(ConfigError, match=r"objective\.mine_rate is 0\.1, but is a setting of the estimator mine"):
        override_config(mine, ["objective.head_estimator=infonce", "objective.mine_rate=0.1"])


def test_options_are_those_of_one_kind_of_ones_own(own_kinds):
    config = build_config({"objective": NO_TERMS, "prompt": {"kind": "gated", "options": {"a": 1}}})
    assert build_config(saved_values(config)) == config
    assert override_config(config, ["prompt.options={b: 2}"]).prompt.options == {"a": 1, "b": 2}
    assert override_config(config, ["prompt.kind=striped"]).prompt.options == {}


@pytest.mark.parametrize("kind", ["none", *PROMPT_KINDS])
def test_what_an_earlier_version_saved_loads_without_the_settings_of_other_kinds(kind, tmp_path):
    prompt = {**EARLIER["prompt"], "kind": kind, **GIVEN}
    objective = {**EARLIER["objective"], "smile_tau": 3.0}
    earlier = {**EARLIER, "prompt": prompt, "head": {**EARLIER["head"], "kind": "text"}, "objective": objective}
    own = {name: prompt[name] for name in model_of_kind(SECTIONS["prompt"], kind).model_fields}
    now = build_config({**EARLIER, "prompt": own, "head": {"kind": "text"}, "objective": NO_TERMS})
    before = build_config(earlier)
    assert before.prompt == now.prompt
    assert changed_setting(now, before) is changed_setting(before, now) is None
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(earlier))
    assert changed_setting(load_config(tmp_path / "config.yaml"), now) is None
    if kind != "lpt":
        with pytest.raises(ConfigError, match="that setting is for lpt"):
            load_config(tmp_path / "config.yaml", ["prompt.layer=1"])


def test_the_record_of_an_earlier_sweep_loads(tmp_path):
    (tmp_path / "base.yaml").write_text("evaluation: {every_steps: 8}\n")
    scheduler = {"kind": "asha", "reduction_factor": 2, "startup_trials": 4, "quantile": 0.25, "resample": 0.25}
    sweep = {"base": "base.yaml", "space": {"optim.lr": {"grid": [0.1]}}, "scheduler": scheduler}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    assert load_sweep(tmp_path / "sweep.yaml").settings.scheduler.reduction_factor == 2
    assert load_sweep(tmp_path / "sweep.yaml", ["scheduler.kind=median"]).settings.scheduler.startup_trials == 4


def test_the_reference_says_for_which_kinds_a_setting_is():
    lines = {line.split("|")[1].strip(): line for line in setting_reference().splitlines()}
    assert "| For lpt: " in lines["`prompt.layer`"]
    assert "| For static and prefix: " in lines["`prompt.start_from`"]
    assert "| For every kind but none: " in lines["`prompt.length`"]
    assert "For " not in lines["`head.pooling`"].split("|")[3][:5]
