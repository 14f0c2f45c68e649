"""Runs with texts without labels: what they share a pass with, how they go on, and what a skewed pool does."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from infoprompt.artifact import Artifact
from infoprompt.build_setup import build_setup
from infoprompt.config import ConfigError, build_config, override_config
from infoprompt.engine.ranks import start_ranks
from infoprompt.objective.total import information_objective
from infoprompt.progress import LeftOff, Progress
from infoprompt.train import run

TERM = [
    "objective.label_form=plain",
    "data.unlabelled_batch=16",
    "optim.epochs=40",
    "optim.max_steps=10",
    "data.few_shot.per_class=8",
]
HEAD = ["prompt.kind=none", "objective.head_weight=0", "objective.representation_weight=0"]


@pytest.fixture
def config(toy_settings, toy_data):
    return override_config(build_config(toy_settings), [*TERM, f"data.unlabelled={toy_data['unlabelled']}"])


def history(result):
    return json.loads((Path(result.output_dir) / "history.json").read_text())


@pytest.mark.parametrize("changes", [HEAD, [], ["objective.preset=paper"], ["prompt.kind=lpt", *HEAD[1:]]])
@pytest.mark.parametrize("form", ["plain", "guarded"])
def test_a_run_that_was_paused_goes_on_to_the_same_bits(config, tmp_path, changes, form):
    changes = [*changes, f"objective.label_form={form}", "evaluation.every_steps=2"]
    whole, paused = (override_config(config, [*changes, f"run.output_dir={tmp_path / name}"]) for name in "ab")
    result = run(whole)
    for step in (2, 6):  # before and behind the start of the guarded form
        with pytest.raises(LeftOff):
            run(paused, resume="auto", report=lambda at, scores, step=step: "pause" if at.step == step else "go")
    run(paused, resume="auto")
    for file in ("history.json", "artifact/prompt.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    rows = [row for row in history(result) if "train/loss" in row]
    has_term = ["train/mi_label_infonce_bound" in row for row in rows]
    assert has_term == [form == "plain" or row["step"] > 3 for row in rows]
    assert ("train/start_anchor" in rows[0]) == (form == "guarded")
    assert rows[-1]["train/mi_label_infonce_bound"] <= rows[-1]["train/mi_label_infonce_ceiling"] + 1e-6


def test_labelled_rows_are_as_they_would_be_alone(config):
    """The pass is shared with the texts without labels, and changes nothing of the others' terms."""
    config = override_config(config, ["objective.preset=paper"])
    setup = build_setup(config, start_ranks(config.engine))
    (batch,) = setup.train.micro_batches(3)
    assert (len(batch), batch.num_unlabelled) == (24, 16)
    assert batch.label_B[8:].eq(-1).all()
    setup.member.train()
    both, alone = setup.member(batch), setup.member(batch.labelled())
    torch.testing.assert_close(both.logits_BC, alone.logits_BC, rtol=1e-5, atol=1e-6)
    progress = Progress(4, 10)
    whole, part = (
        information_objective(e, b, config.objective, progress) for e, b in ((both, batch), (alone, batch.labelled()))
    )
    for name in ("task", "head", "representation"):
        ours, theirs = (getattr(terms, name) for terms in (whole, part))
        ours, theirs = (getattr(term, "loss", term) for term in (ours, theirs))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert part.label is None
    torch.testing.assert_close(whole.total - part.total, 3 * whole.label.loss, rtol=1e-4, atol=1e-5)


def test_each_text_is_read_once_before_any_is_read_again(config):
    pool = build_setup(override_config(config, HEAD), start_ranks(config.engine)).train.pool
    count = len(pool.kept)
    rows = np.concatenate([pool.rows_of(0, step) for step in range(-(-2 * count // 16))])
    assert sorted(rows[:count]) == sorted(rows[count : 2 * count]) == sorted(pool.kept)
    assert list(rows[:count]) != list(rows[count : 2 * count])


def test_strangers_are_left_out(toy_settings, toy_data, tmp_path):
    strangers = [f"{i} quarks and gluons 2 4 8 {i} + {i}" for i in range(120)]
    mixed = tmp_path / "mixed.txt"
    mixed.write_text(Path(toy_data["unlabelled"]).read_text() + "\n" + "\n".join(strangers))
    changes = [*TERM, *HEAD, f"data.unlabelled={mixed}", "data.validation_share=0.3", "backbone.name=minilm"]
    config = override_config(build_config(toy_settings), changes)
    setup = build_setup(config, start_ranks(config.engine))
    kept = setup.train.pool.kept
    ours = len({*Path(toy_data["unlabelled"]).read_text().splitlines()})
    assert (kept >= ours).sum() < 12 < 0.8 * ours < (kept < ours).sum()
    assert setup.tags()["rows.unlabelled"] == str(len(kept))


def test_a_warm_start_trains_the_head_as_a_run_of_the_head_alone_does(config, tmp_path):
    head = [*HEAD, "optim.lr=1e-2", "evaluation.state=last", f"run.output_dir={tmp_path / 'head'}"]
    alone = Artifact.from_pretrained(run(override_config(config, head)).artifact)
    settings = override_config(config, ["prompt.kind=static", "head.warm_start_steps=10"])
    started = build_setup(settings, start_ranks(config.engine)).engine.trained_state()
    for name in ("weight", "bias"):
        torch.testing.assert_close(started[f"head.linear.{name}"], alone.model.head.linear.get_parameter(name).detach())


def test_class_means_start_nearer_to_the_classes(toy_settings, tmp_path):
    loss = {}
    for init in ("labels", "class_means"):
        changes = [*HEAD, "backbone.name=minilm", f"head.init={init}", "optim.max_steps=1", "optim.lr=1e-9"]
        result = run(override_config(build_config(toy_settings), [*changes, f"run.output_dir={tmp_path / init}"]))
        loss[init] = history(result)[0]["train/cross_entropy"]
    assert loss["class_means"] < loss["labels"]


def test_the_last_state_is_kept_where_it_is_asked_for(config):
    result = run(override_config(config, [*HEAD, "evaluation.state=last", "evaluation.every_steps=3", "optim.lr=0.5"]))
    assert result.best_step == result.steps == 10
    with pytest.raises(ConfigError, match=r"evaluation\.patience is 2"):
        override_config(config, ["evaluation.state=last", "evaluation.patience=2"])


def test_the_final_run_trains_on_all_rows_for_as_many_updates(config, tmp_path):
    changes = [*HEAD, "evaluation.state=last", "run.final_on_all=true"]
    result = run(override_config(config, changes))
    once = run(override_config(config, [*changes, "run.final_on_all=false", f"run.output_dir={tmp_path / 'once'}"]))
    assert result.dev == once.dev
    given = override_config(config, [*changes[:-1], "data.few_shot.per_class=16"])
    assert history(result) == history(once)
    both = [Artifact.from_pretrained(each.artifact).model.head.linear.weight for each in (result, once)]
    assert not torch.equal(*both)
    assert given.data.few_shot.per_class == 16


def test_a_skewed_pool_is_told_and_followed_by_the_guarded_form(config, tmp_path, caplog):
    """Nine of ten texts are good."""
    texts = [f"the film was {'awful' if i % 10 == 0 else 'great'} and it {i}" for i in range(400)]
    (tmp_path / "skewed.txt").write_text("\n".join(texts))
    changes = [*HEAD, f"data.unlabelled={tmp_path / 'skewed.txt'}", "backbone.name=minilm", "optim.max_steps=60"]
    scores = {}
    for form in ("plain", "guarded"):
        settings = override_config(
            config, [*changes, f"objective.label_form={form}", f"run.output_dir={tmp_path / form}"]
        )
        result = run(settings)
        scores[form] = result.dev["accuracy"]
    assert scores["guarded"] >= scores["plain"]
    (said,) = [line.message for line in caplog.records if "look uneven" in line.message]
    assert "% are of the class good" in said


def test_a_term_without_texts_and_a_share_that_does_not_fit_are_refused(toy_settings, config):
    with pytest.raises(ConfigError, match=r"data\.unlabelled names no texts"):
        override_config(build_config(toy_settings), ["objective.label_form=plain"])
    odd = override_config(config, ["data.unlabelled_batch=15", "data.micro_batch_size=4"])
    with pytest.raises(ConfigError, match=r"data\.unlabelled_batch is 15"):
        run(odd)


def test_a_result_says_where_the_texts_came_from(config, toy_data, tmp_path):
    rows = [json.dumps({"text": f"{line} {i}", "label": "good"}) for i, line in enumerate(_texts(toy_data))]
    (tmp_path / "test.jsonl").write_text("\n".join(rows))
    changes = [*HEAD, "data.unlabelled=transductive", f"data.test={tmp_path / 'test.jsonl'}", "optim.max_steps=1"]
    assert run(override_config(config, changes)).unlabelled == "transductive"


def _texts(toy_data):
    return Path(toy_data["unlabelled"]).read_text().splitlines()
