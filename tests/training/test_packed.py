"""Runs that share each pass come to what each comes to alone, to the bit; and leave and enter as they like."""

import json
import math
import os
import signal
from pathlib import Path

import pytest

from infoprompt.config import ConfigError, RunConfig, build_config, override_config
from infoprompt.model.member import Member
from infoprompt.model.shared import SharedModel
from infoprompt.packed import run_packed
from infoprompt.progress import TrainingStopped
from infoprompt.settings import PROMPT_KINDS
from infoprompt.stopping import Preempted
from infoprompt.train import run

NO_TERMS = {"head_weight": 0, "representation_weight": 0}
KINDS = {kind: {"prompt": {"kind": kind, "length": 3}, "objective": NO_TERMS} for kind in PROMPT_KINDS}
METHODS = {
    **KINDS,
    "paper": {"objective": {"preset": "paper", "latent_size": 8}},
    "mine": {"objective": {"head_estimator": "mine", "representation_estimator": "flo"}},
    "head": {"prompt": {"kind": "none"}, "objective": NO_TERMS},
    "label": {
        "prompt": {"kind": "static", "length": 2},
        "objective": {**NO_TERMS, "label_form": "plain", "label_weight": 1.0},
        "data": {"unlabelled_batch": 16, "few_shot": {"per_class": 8}},
        "head": {"warm_start_steps": 5, "init": "class_means"},
    },
    "dropout": {"prompt": {"kind": "ipt", "encoder": "mlp", "length": 2}, "objective": NO_TERMS},
}
FILES = ("history.json", "metrics.jsonl", "predictions.json")
TIMES = ("seconds", "time", "examples_per_second")


@pytest.fixture
def configured(toy_settings, toy_data, tmp_path):
    """A function from where, a name and changes to the config of a short run."""

    def make(where: str, name: str, *changes: str) -> RunConfig:
        settings = {**METHODS.get(name, KINDS["static"])}
        data = {**toy_settings["data"], **settings.pop("data", {})}
        if name == "label":
            data["unlabelled"] = toy_data["unlabelled"]
        config = build_config({**toy_settings, **settings, "data": data})
        folder = tmp_path / where / "-".join([name, *changes]).replace("/", "_")
        return override_config(
            config, ["optim.max_steps=6", "evaluation.every_steps=3", *changes, f"run.output_dir={folder}"]
        )

    return make


def left(folder: str) -> dict[str, object]:
    """What a run has left, but for the times."""

    def timeless(value):
        if isinstance(value, dict):
            return {k: timeless(v) for k, v in value.items() if not any(word in k for word in TIMES)}
        return [timeless(each) for each in value] if isinstance(value, list) else value

    found: dict[str, object] = {}
    for path in sorted(Path(folder).rglob("*")):
        if not path.is_file() or "artifacts" in path.parts:  # pictures
            continue
        name = path.relative_to(folder).as_posix()
        if name.endswith(".safetensors"):
            found[name] = path.read_bytes()
        elif path.name in FILES:
            found[name] = [timeless(json.loads(line)) for line in path.read_text().splitlines()]
    result = json.loads((Path(folder) / "result.json").read_text())
    for name in ("output_dir", "artifact"):
        result.pop(name)
    return {**found, "result": timeless(result)}


def check_equal(alone: RunConfig, packed: RunConfig, *, resumed: bool = False) -> None:
    one, other = left(alone.run.output_dir), left(packed.run.output_dir)
    if resumed:  # it has other states, and the records of both starts
        ends = ("artifact/", "history", "predictions", "result")
        one, other = ({name: found[name] for name in found if name.startswith(ends)} for found in (one, other))
    assert one.keys() == other.keys()
    assert any(name.endswith("prompt.safetensors") for name in one)
    for name, value in one.items():
        assert value == other[name], name


@pytest.mark.parametrize("engine", ["plain", "deepspeed"])
def test_every_method_comes_to_the_same_bits_as_alone(configured, engine):
    names = list(METHODS) if engine == "plain" else ["prefix", "instance", "mine", "label", "head", "dropout"]
    changes = [(name, f"seed={seed}", f"engine.kind={engine}") for seed, name in enumerate(names)]
    changes += [("static", "seed=30", f"engine.kind={engine}", "optim.max_steps=4", "run.final_on_all=true")]
    changes += [("prefix", "seed=31", f"engine.kind={engine}", "optim.lr=0.1", "evaluation.patience=1")]
    for each in changes:
        run(configured("alone", *each))
    results = run_packed([configured("packed", *each) for each in changes], 5)  # fewer places than runs
    assert [error for error in results if isinstance(error, Exception)] == []
    for each in changes:
        check_equal(configured("alone", *each), configured("packed", *each))


@pytest.mark.parametrize("family", ["llama", "t5", "modernbert"])
def test_other_families_do_too_also_those_that_keep_padding(configured, tiny_backbones, family):
    own = (f"backbone.name={tiny_backbones[family]}", "data.micro_batch_size=4")
    changes = [(name, *own) for name in ("paper", "head", "static")]
    changes += [(*changes[0], "seed=7")]
    for each in changes:
        run(configured("alone", *each))
    run_packed([configured("packed", *each) for each in changes], 4)
    for each in changes:
        check_equal(configured("alone", *each), configured("packed", *each))


def test_a_run_that_goes_astray_ends_and_the_others_do_not_notice(configured):
    whole = configured("alone", "static")
    run(whole)
    good = configured("packed", "static")
    bad = configured("packed", "static", "optim.lr=1e30")
    unreadable = configured("packed", "static", "data.train=nowhere.csv")
    first, second, third = run_packed([bad, good, unreadable], 3)
    assert isinstance(first, TrainingStopped)
    assert isinstance(third, ConfigError)
    assert math.isfinite(second.dev["accuracy"])
    check_equal(whole, good)


@pytest.mark.parametrize("batch_size", [64, 9])
def test_evaluations_share_passes_of_at_most_as_many_rows_as_one_may_have(configured, monkeypatch, batch_size):
    changes = [("static", f"seed={seed}", f"evaluation.batch_size={batch_size}") for seed in range(3)]
    for each in changes:
        run(configured("alone", *each))
    passes, forward = [], SharedModel.forward

    def counted(self, places, batches):
        if not self.training and not any(batch.unprompted for batch in batches):
            passes.append([len(batch) for batch in batches])
        return forward(self, places, batches)

    monkeypatch.setattr(SharedModel, "forward", counted)
    run_packed([configured("packed", *each) for each in changes], 3)
    assert max(map(len, passes)) > 1  # with 9 rows the last ones of each run
    assert max(map(sum, passes)) <= batch_size
    for each in changes:
        check_equal(configured("alone", *each), configured("packed", *each))


@pytest.mark.parametrize("trains", [True, False])
def test_a_pass_that_fails_for_one_fails_for_that_one_alone(configured, monkeypatch, trains):
    whole = configured("alone", "static")
    run(whole)
    made = Member.make_prompt

    def fails(self, batch):
        if self.training is trains and self.prompt is not None and len(self.prompt.state_dict()) > 1:
            raise RuntimeError("out of memory")
        return made(self, batch)

    monkeypatch.setattr(Member, "make_prompt", fails)
    first, second = run_packed([configured("packed", "static"), configured("packed", "p_tuning")], 2)
    assert not isinstance(first, Exception)
    assert "out of memory" in str(second)
    check_equal(whole, configured("packed", "static"))


def test_a_pack_that_is_told_to_end_gives_back_all_its_runs(configured, monkeypatch):
    names = ("static", "prefix", "paper")
    for name in names:
        run(configured("alone", name))
    from infoprompt.engine.pack import Pack

    update, count = Pack.update, []

    def told(self):
        count.append(1)
        if len(count) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self)

    from launcher.exits import signals_heard

    monkeypatch.setattr(Pack, "update", told)
    with signals_heard(), pytest.raises(Preempted, match="15"):
        run_packed([configured("packed", name) for name in names], 3)
    from infoprompt.stopping import forget

    forget()
    folders = [Path(configured("packed", name).run.output_dir) for name in names]
    assert all(list((folder / "checkpoints").iterdir()) for folder in folders)
    assert not any((folder / "result.json").exists() for folder in folders)
    run(configured("packed", "static"), resume="auto")  # one goes on alone, the others in a pack
    run_packed([configured("packed", name) for name in names[1:]], 2, resume="auto")
    for name in names:
        check_equal(configured("alone", name), configured("packed", name), resumed=True)


def test_a_run_that_was_alone_goes_on_in_a_pack(configured):
    run(configured("alone", "static"))

    class Killed(BaseException):
        pass

    def kill(progress, scores):
        if progress.step >= 3:
            raise Killed

    with pytest.raises(Killed):
        run(configured("packed", "static"), report=kill)
    run_packed([configured("packed", name) for name in ("static", "prefix")], 2, resume="auto")
    check_equal(configured("alone", "static"), configured("packed", "static"), resumed=True)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("backbone.frozen=false", "backbone.frozen is false"),
        ("backbone.max_length=64", "its backbone, engine or parts of a batch are not those of the first run"),
        ("data.micro_batch_size=4", "its backbone, engine or parts of a batch are not those of the first run"),
        ("head.kind=label_words", "its backbone, engine or parts of a batch are not those of the first run"),
    ],
)
def test_what_cannot_be_packed_is_refused_by_name(configured, change, why):
    runs = [configured("packed", "static"), configured("packed", "static", change, "run.name=other")]
    with pytest.raises(ConfigError, match=f"other cannot be packed: {why}"):
        run_packed(runs, 2)
    assert not Path(runs[0].run.output_dir).exists()
