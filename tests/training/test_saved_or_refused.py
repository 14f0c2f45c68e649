"""What a run finds in its folder is used whole or refused, and a disk that is full costs no more than it must."""

import contextlib
import json
import logging
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from infoprompt import training_state
from infoprompt.artifact import Artifact
from infoprompt.cache_folder import cache_dir
from infoprompt.checkpoint import write_manifest
from infoprompt.config import ConfigError, build_config, override_config
from infoprompt.progress import LeftOff, TrainingStopped
from infoprompt.tracking.spool import Ledger, Record, Spool
from infoprompt.train import run


@contextlib.contextmanager
def full_disk(file_bytes: int):
    """Within, no file can grow beyond so many bytes, as on a disk that is full or a quota that is used up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def config(toy_settings):
    return override_config(build_config(toy_settings), ["optim.max_steps=4", "evaluation.every_steps=2"])


@pytest.fixture
def paused(config):
    """A run that has left states of updates 1 to 3."""
    every = override_config(config, ["checkpoint.every_steps=1", "checkpoint.keep=5", "evaluation.every_steps=1"])
    with pytest.raises(LeftOff):
        run(every, report=lambda progress, scores: "pause" if progress.step == 3 else "go")
    return every


def states(config) -> list[Path]:
    return sorted((Path(config.run.output_dir) / "checkpoints").glob("step-*"))


def change_values(folder: Path, change) -> None:
    values = json.loads((folder / "state.json").read_text())
    change(values)
    (folder / "state.json").write_text(json.dumps(values))
    write_manifest(folder)


def change_tensors(folder: Path, group: str, change) -> None:
    path = folder / f"{group}.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file({name: tensor.contiguous() for name, tensor in change(tensors).items()}, path)
    write_manifest(folder)


def stretched(tensors):
    return {name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()}


DAMAGES = {
    "cut": lambda folder: (folder / "trained.safetensors").write_bytes(b"x" * 50),
    "a manifest that is a list": lambda folder: (folder / "manifest.json").write_text("[]"),
    "an empty manifest": lambda folder: (folder / "manifest.json").write_text("{}"),
    "a manifest of numbers": lambda folder: (folder / "manifest.json").write_text('{"state.json": 1}'),
    "a file elsewhere": lambda folder: (folder / "manifest.json").write_text(
        json.dumps(
            {**json.loads((folder / "manifest.json").read_text()), "../x.safetensors": {"bytes": 1, "sha256": ""}}
        )
    ),
    "no step": lambda folder: change_values(folder, lambda values: values.pop("step")),
    "no seconds": lambda folder: change_values(folder, lambda values: values.pop("seconds")),
    "history is text": lambda folder: change_values(folder, lambda values: values.update(history="none")),
    "settings are null": lambda folder: change_values(folder, lambda values: values.update(config=None)),
    "NaN": lambda folder: change_tensors(folder, "trained", stretched),
    "whole numbers": lambda folder: change_tensors(
        folder, "trained", lambda tensors: {name: tensor.long() for name, tensor in tensors.items()}
    ),
    "one moment less": lambda folder: change_tensors(
        folder, "optimizer", lambda tensors: {name: tensors[name] for name in sorted(tensors)[1:]}
    ),
    "the best of another shape": lambda folder: change_tensors(
        folder, "best", lambda tensors: {name: tensor[:1] for name, tensor in tensors.items()}
    ),
    "no optimizer": lambda folder: ((folder / "optimizer.safetensors").unlink(), write_manifest(folder)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_state_that_is_not_whole_is_passed_over_and_none_at_all_is_refused(paused, damage, caplog):
    output_dir = Path(paused.run.output_dir)
    DAMAGES[damage](states(paused)[-1])
    saved = training_state._usable_state(output_dir)
    assert saved.values["step"] == 2
    assert "step-00000003 is damaged (" in caplog.text
    assert [path.name for path in states(paused)] == ["step-00000001", "step-00000002"]  # set aside, so kept states are
    for folder in states(paused):
        DAMAGES[damage](folder)
    with pytest.raises(ConfigError, match=r"none of the 2 there can be used .* --resume never"):
        training_state._usable_state(output_dir)


def test_states_that_are_gone_are_refused_and_a_run_that_never_saved_one_starts_anew(paused, config):
    shutil.rmtree(Path(paused.run.output_dir) / "checkpoints")
    with pytest.raises(ConfigError, match=r"none is there any more .* --resume never"):
        run(paused, resume="auto")
    assert run(config, resume="never").steps == 4
    never = override_config(config, ["checkpoint.enabled=false", f"run.output_dir={config.run.output_dir}-2"])
    for _ in range(2):  # as a cluster's job that is put back into the queue
        assert run(never, resume="auto").steps == 4


def test_a_state_of_another_model_names_tensor_and_shapes(paused):
    for folder in states(paused):
        for group in ("trained", "best", "optimizer"):
            change_tensors(
                folder,
                group,
                lambda tensors: {
                    name: tensor[:1] if name.startswith("head.linear.bias") else tensor
                    for name, tensor in tensors.items()
                },
            )
    with pytest.raises(ValueError, match=r"head\.linear\.bias is \[1\], but the model's is \[2\]\. Use the settings"):
        run(paused, resume="auto")


def test_a_file_that_the_manifest_does_not_name_is_not_read(paused):
    shutil.copy(states(paused)[-1] / "trained.safetensors", states(paused)[-1] / "running_means.safetensors")
    assert "running_means" not in training_state._usable_state(Path(paused.run.output_dir)).tensors


def test_a_full_disk_at_a_state_stops_the_run_with_the_way_out_and_keeps_the_states_before(config, monkeypatch):
    every = override_config(config, ["checkpoint.every_steps=1"])
    save = training_state.save_resume_state

    def save_on_full_disk(folder, state, keep):
        with full_disk(3000 if state.values["step"] == 3 else 2**30):
            return save(folder, state, keep)

    monkeypatch.setattr(training_state, "save_resume_state", save_on_full_disk)
    with pytest.raises(TrainingStopped, match=r"update 3 could not be written to .* go on with --resume auto"):
        run(every)
    folder = Path(config.run.output_dir) / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000001", "step-00000002"]
    monkeypatch.undo()
    assert run(every, resume="auto").steps == 4


def test_a_full_disk_at_the_end_loses_nothing_that_was_trained(config, monkeypatch):
    from infoprompt import result

    save = result.save_artifact

    def save_on_full_disk(*arguments, **named):
        with full_disk(500):
            save(*arguments, **named)

    monkeypatch.setattr(result, "save_artifact", save_on_full_disk)
    with pytest.raises(TrainingStopped, match=r"results could not be written .* with --resume auto nothing is trained"):
        run(config)
    assert not (Path(config.run.output_dir) / "result.json").exists()
    monkeypatch.undo()
    again = run(config, resume="auto")
    assert again.steps == 4
    Artifact.from_pretrained(again.artifact)


def test_a_full_disk_at_the_start_is_an_error_of_the_output_folder(config):
    with full_disk(100), pytest.raises(ConfigError, match=r"run\.output_dir is .*, but it cannot be written"):
        run(config)


def test_kept_states_that_the_disk_does_not_take_cost_a_warning(config, caplog, monkeypatch, tmp_path):
    monkeypatch.setenv("INFOPROMPT_CACHE", str(tmp_path / "cache"))
    from infoprompt.model import unprompted

    write = unprompted._write

    def write_on_full_disk(path, kept):
        with full_disk(500):
            write(path, kept)

    monkeypatch.setattr(unprompted, "_write", write_on_full_disk)
    assert run(config).steps == 4
    assert "could not be kept" in caplog.text
    assert not [path for path in cache_dir().rglob("*") if path.is_file()]


def test_records_wait_in_memory_until_the_disk_takes_them(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    spool = Spool(tmp_path / "metrics.jsonl")
    spool.append(Record(1, 1.0, {"a": 1.0}))
    with full_disk(spool.size + 20):  # a part of a line still fits
        spool.append(Record(2, 2.0, {"a": 2.0}))
        spool.append(Record(3, 3.0, {"a": 3.0}))
    assert [record.step for record in spool.read()[0]] == [1]
    assert caplog.text.count("cannot be written") == 1
    spool.append(Record(4, 4.0, {"a": 4.0}))
    assert [record.step for record in Spool(spool.path).read()[0]] == [1, 2, 3, 4]
    assert spool.size == spool.path.stat().st_size


@pytest.mark.parametrize(
    "change",
    [
        *({"artifacts": [["../../secret", ""]]}, {"artifacts_sent": [["/etc/passwd", ""]]}, {"artifacts": [["a"]]}),
        *({"delivered": "many"}, {"params": []}, {"unknown": 1}, {"artifacts": None}, {"uri": None}),
    ],
)
def test_a_ledger_of_another_shape_or_with_files_elsewhere_is_refused(tmp_path, change):
    ledger = Ledger(tmp_path / "tracking.json", "http://host", "experiment", "name")
    ledger.update()
    values = json.loads(ledger.path.read_text())
    ledger.path.write_text(json.dumps({**values, **change}))
    with pytest.raises(ValueError, match=r"tracking\.json is damaged .* Remove it"):
        Ledger.load(ledger.path)


@pytest.mark.parametrize("resume", ["never", "auto"])
def test_a_second_start_on_a_folder_whose_run_is_alive_is_refused_and_harms_nothing(config, resume, tmp_path):
    refused = []

    def start_another(progress, scores):
        with pytest.raises(ConfigError, match=r"run\.output_dir is .*, but a run of process \d+ on .* since") as error:
            run(override_config(config, ["seed=1"]), resume=resume)
        refused.append(error)
        return "go"

    result = run(config, report=start_another)
    assert len(refused) == 2
    folder = Path(config.run.output_dir)
    assert build_config(json.loads((folder / "artifact/config.json").read_text())["config"]).seed == 0
    assert json.loads((folder / "result.json").read_text())["steps"] == result.steps == 4
    assert not list(tmp_path.rglob(".lock"))
    assert run(config, resume=resume).steps == 4
