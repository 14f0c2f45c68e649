"""A resume state is whole or not there, and a damaged one costs no more than itself."""

import json

import pytest
import torch

from infoprompt.checkpoint import ResumeState, newest_resume_state, save_resume_state


def state(step: int) -> ResumeState:
    return ResumeState({"trained": {"a": torch.full((3,), float(step))}}, {"step": step, "history": [{"x": 0.1}]})


def test_the_newest_state_comes_back_bit_for_bit(tmp_path):
    save_resume_state(tmp_path, state(5), keep=2)
    save_resume_state(tmp_path, state(12), keep=2)
    loaded = newest_resume_state(tmp_path)
    assert loaded.values == {"step": 12, "history": [{"x": 0.1}]}
    assert torch.equal(loaded.tensors["trained"]["a"], torch.full((3,), 12.0))


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 30, 4):
        save_resume_state(tmp_path, state(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000030"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest"])
def test_a_damaged_state_is_named_and_the_one_before_is_taken(tmp_path, caplog, damage):
    save_resume_state(tmp_path, state(1), keep=3)
    path = save_resume_state(tmp_path, state(2), keep=3)
    file = path / ("manifest.json" if damage == "manifest" else "trained.safetensors")
    content = bytearray(file.read_bytes())
    if damage == "remove":
        file.unlink()
    elif damage == "flip":
        content[-1] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(content[: len(content) // 2])
    assert newest_resume_state(tmp_path).values["step"] == 1
    assert str(path) in caplog.text


def test_a_write_that_fails_leaves_the_older_state_and_no_rubbish(tmp_path, monkeypatch):
    save_resume_state(tmp_path, state(1), keep=2)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("infoprompt.checkpoint.write_manifest", full)
    with pytest.raises(OSError, match="No space left"):
        save_resume_state(tmp_path, state(2), keep=2)
    assert newest_resume_state(tmp_path).values["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_state_that_was_being_written_when_the_run_was_killed_is_not_seen(tmp_path):
    save_resume_state(tmp_path, state(1), keep=2)
    half = tmp_path / ".writing-step-00000002"
    half.mkdir()
    (half / "state.json").write_text(json.dumps({"step": 2}))
    assert newest_resume_state(tmp_path).values["step"] == 1


def test_no_state_is_none(tmp_path):
    assert newest_resume_state(tmp_path / "absent") is None
