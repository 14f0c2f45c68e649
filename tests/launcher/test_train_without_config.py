"""`infoprompt train data.train=FILE`: the rule, what it says, and that explicit settings win."""

import json
import random
from pathlib import Path

import pytest

from infoprompt.config import ConfigError, compose_config, load_config, read_settings
from infoprompt.data.splits import load_splits
from launcher.choosing.methods import METHODS
from launcher.choosing.recommended import choose, recommend
from launcher.choosing.rows import Facts, facts_of
from launcher.choosing.schedule import schedule, updates, validation_share
from launcher.cli import app
from launcher.overrides import config_of

REPOSITORY = Path(__file__).resolve().parents[2]


def facts(**changes) -> Facts:
    known = {
        "name": "toy",
        "kind": "single",
        "metric": "accuracy",
        "num_rows": 64,
        "num_held_out": 0,
        "num_test": 0,
        "num_classes": 4,
        "largest_class": "a",
        "largest_share": 0.25,
        "smallest_count": 16,
    }
    return Facts(**{**known, **changes})


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"data.train={path}"


def single(path: Path, count: int) -> str:
    picks = random.Random(0)
    words = ["film", "movie", "car", "tree", "bank"]
    rows = [
        {"text": f"{picks.choice(words)} {index} {word}", "label": word}
        for index in range(count // 2)
        for word in ("good", "bad")
    ]
    return write(path, rows)


@pytest.mark.parametrize("name", METHODS)
def test_each_method_is_the_recipe_of_its_name(name):
    method = METHODS[name]
    recipe = read_settings(REPOSITORY / "configs" / "recipes" / f"{name}.yaml")
    assert recipe.pop("search", {}) == method.grid
    assert recipe == method.settings


def test_fewer_tries_are_the_middle_of_the_grid():
    assert METHODS["prefix"].tries(1, 2) == [{"optim.lr": 3e-3}]
    assert METHODS["lora"].tries(1, 6) == [{"optim.lr": 1e-3}]
    assert METHODS["lora"].tries(1, 19) == [{"optim.lr": 2e-3}]
    assert METHODS["lora"].tries(3, 2) == [{"optim.lr": rate} for rate in (5e-4, 1e-3, 2e-3)]
    assert METHODS["label_information"].default(4) == {"objective.label_form": "plain", "optim.lr": 1e-2}
    assert METHODS["majority"].tries(3, 2) == [{}]


@pytest.mark.parametrize(
    ("changes", "method"),
    [
        ({}, "adaption_prompt"),
        ({"num_unlabelled": 2000}, "label_information"),
        ({"num_unlabelled": 300}, "adaption_prompt"),
        ({"num_unlabelled": 2000, "num_classes": 2, "largest_share": 0.5}, "adaption_prompt"),
        ({"num_unlabelled": 2000, "largest_share": 0.7}, "adaption_prompt"),
        ({"num_unlabelled": 2000, "num_rows": 4000}, "adaption_prompt"),
        ({"kind": "relation", "num_unlabelled": 2000}, "full_fine_tuning"),
        ({"kind": "regression", "num_classes": 0}, "full_fine_tuning"),
        ({"num_classes": 77, "num_rows": 308}, "head_only"),
        ({"num_classes": 77, "num_rows": 77 * 16}, "logistic_regression"),
    ],
)
def test_the_rule_takes_what_the_evidence_supports(changes, method):
    advice = recommend(facts(**changes), "minilm")
    assert advice.method.name == method
    assert "EXPERIMENTS 2026-11-" in advice.reason


def test_the_rate_of_all_weights_follows_the_number_of_classes():
    rates = [recommend(facts(kind="pair", num_classes=count), "minilm").changes["optim.lr"] for count in (2, 6, 19)]
    assert rates == [2e-5, 5e-5, 1e-4]


def test_a_large_backbone_is_changed_by_lora():
    assert recommend(facts(kind="pair"), "roberta-large").method.name == "lora"


def test_rate_epochs_batch_and_patience_come_from_the_number_of_rows(tmp_path):
    few, many = (choose([single(tmp_path / f"{count}.jsonl", count)]) for count in (64, 800))
    assert (few.config.data.batch_size, few.config.optim.max_steps, few.config.evaluation.state) == (8, 160, "last")
    assert few.config.evaluation.patience is None
    assert (len(few.splits.train), len(few.splits.validation)) == (48, 16)
    assert many.config.evaluation.patience == 5
    assert many.config.data.batch_size == 16
    assert many.config.optim.lr == 5e-3
    assert "patience 5 of up to 20 evaluations" in many.lines[1]
    assert "16 held-out rows" in few.lines[1]
    assert few.config.run.final_on_all
    assert few.name == "adaption_prompt"


def test_explicit_settings_win(tmp_path):
    data = single(tmp_path / "rows.jsonl", 64)
    taken = choose([data, "optim.lr=0.5", "optim.epochs=2", "data.validation_share=0.5", "evaluation.patience=2"])
    config = taken.config
    assert (config.optim.lr, config.optim.epochs, config.optim.max_steps) == (0.5, 2, None)
    assert len(taken.splits.validation) == 32
    assert (config.evaluation.patience, config.evaluation.state) == (2, "best")
    assert choose([data, "optim.max_steps=7"]).config.optim.total_steps(6) == 7


def test_a_method_of_ones_own_is_left_as_it_is(tmp_path):
    taken = choose([single(tmp_path / "rows.jsonl", 64), "prompt.kind=prefix", "prompt.length=3"])
    assert (taken.config.prompt.kind, taken.config.prompt.length) == ("prefix", 3)
    assert taken.config.backbone.frozen
    assert taken.lines[0] == "your own method: prompt.kind, prompt.length say what is trained"


def test_relations_are_read_at_both_entities(tmp_path):
    rows = [
        {
            "text": f"the fire and the cable {index}",
            "head": {"start": 4, "end": 8},
            "tail": {"start": 17, "end": 22},
            "label": f"r{index % 2}",
        }
        for index in range(16)
    ]
    config = choose([write(tmp_path / "rows.jsonl", rows)]).config
    assert config.head.pooling == "entities"
    assert not config.backbone.frozen


def test_no_rows_are_refused_with_the_way_out():
    with pytest.raises(ConfigError, match=r"Name a config, such as .*, or the rows, as data\.train=train\.csv"):
        choose(["optim.lr=0.1"])


def test_the_first_word_is_a_config_or_an_override(tmp_path):
    assert config_of(Path("a.yaml"), ["b=1"]) == (Path("a.yaml"), ["b=1"])
    assert config_of(Path("data.train=x.csv"), ["b=1"]) == (None, ["data.train=x.csv", "b=1"])
    assert config_of(None, ["b=1"]) == (None, ["b=1"])
    strange = tmp_path / "a=b.yaml"
    strange.write_text("{}")
    assert config_of(strange, []) == (strange, [])


def test_shares_and_updates_follow_the_size():
    assert validation_share(64) == 0.25
    assert validation_share(100_000) == 0.02
    assert updates(METHODS["majority"], 64) == 0
    assert updates(METHODS["head_only"], 64) == 300
    assert updates(METHODS["contrastive"], 64) == 160
    assert updates(METHODS["lora"], 10_000) == 4 * 313
    for name in METHODS:
        config = compose_config([METHODS[name].settings, schedule(METHODS[name], 500)])
        per_epoch = -(-500 // config.data.batch_size)
        if config.updates:
            assert config.optim.total_steps(per_epoch) == updates(METHODS[name], 500)


def test_facts_tell_skewed_rows_from_balanced_ones(tmp_path):
    rows = [{"text": f"text {index}", "label": "rare" if index % 10 == 0 else "common"} for index in range(50)]
    settings = compose_config([], [write(tmp_path / "rows.jsonl", rows)]).data
    found = facts_of(load_splits(settings, 0), settings)
    assert (found.num_rows, found.largest_class, found.largest_share, found.smallest_count) == (50, "common", 0.9, 5)
    assert found.skewed
    assert found.metric == "macro_f1"
    assert found.lines()[1] == "most rows are common (90%); the rarest class has 5; skewed"
    assert not facts().skewed


def test_it_says_what_it_takes_how_long_it_takes_and_trains_it(tmp_path, tiny_bert, infoprompt):
    data = single(tmp_path / "rows.jsonl", 40)
    words = [f"backbone.name={tiny_bert}", "engine.kind=plain", "tracking.enabled=false", "optim.max_steps=4"]
    done = infoprompt("train", data, *words, f"run.output_dir={tmp_path / 'run'}", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["steps"], result["rows"]["train"]) == (4, 30)
    assert "adaption_prompt: keys and values at every layer" in done.stderr
    assert "about " in done.stderr
    saved = load_config(tmp_path / "run" / "config.yaml")
    assert (saved.prompt.kind, saved.optim.lr) == ("adaption_prompt", 5e-3)


def test_help_tells_of_it():
    from typer.testing import CliRunner

    shown = CliRunner().invoke(app, ["train", "--help"]).output
    assert "Without a YAML file" in " ".join(shown.split())
