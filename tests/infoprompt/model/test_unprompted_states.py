"""Kept states equal a second pass, and are kept by content."""

import errno
import os
import shutil
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save_file

from infoprompt import kept_tensors
from infoprompt.artifact import Artifact
from infoprompt.cache_folder import cache_dir
from infoprompt.config import build_config
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.encoded import EncodedTexts
from infoprompt.data.loader import evaluation_batches
from infoprompt.data.rows import Example
from infoprompt.data.tasks import Task
from infoprompt.model import unprompted
from infoprompt.model.backbone.load import load_backbone
from infoprompt.model.build import build_member
from infoprompt.model.inputs import make_template
from infoprompt.model.unprompted import with_other_states, with_unprompted_states
from infoprompt.ranks import Ranks
from infoprompt.wire import decoded, encoded

ALONE = Ranks(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))
TASK = Task("toy", ("bad", "good"), ("bad film", "good film"), ("accuracy",), "single")
TEXTS = ["the film was good", "it was a bad movie and the engine of the car was lost", "great", "bad", "all in one"]


@pytest.fixture
def parts(tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setenv("INFOPROMPT_CACHE", str(tmp_path))
    config = build_config({"backbone": {"name": tiny_bert}})
    backbone = load_backbone(config.backbone)
    model = build_member(config, backbone, TASK).eval()
    examples = [Example(text=text, label="good") for text in TEXTS]
    rows = EncodedDataset.encode(examples, TASK.labels, make_template(config, backbone), "toy")
    return model, rows


def filled(model, rows, calls=None, key="key"):
    def infer(batch):
        if calls is not None:
            calls.append(len(batch))
        with torch.no_grad():
            return model(batch)

    return with_unprompted_states(rows, infer, ALONE, backbone_key=key, batch_size=2)


def test_one_pass_with_kept_states_equals_two_passes(parts):
    model, rows = parts
    kept = filled(model, rows).batch([0, 1, 2, 3, 4])
    plain = rows.without_prompt()
    first_pass = model(replace(plain.batch([0, 1, 2, 3, 4]), unprompted=True))
    in_two = replace(rows.batch([0, 1, 2, 3, 4]), summary_BD=first_pass.summary_BD, pooled_BD=first_pass.pooled_BD)
    # the kept states were computed in other batches, so sums over padding differ by float32 rounding
    torch.testing.assert_close(model(kept).logits_BC, model(in_two).logits_BC, rtol=0, atol=1e-5)
    torch.testing.assert_close(kept.pooled_BD, first_pass.pooled_BD, rtol=0, atol=1e-5)


def test_states_are_computed_once_and_again_for_other_texts_or_weights(parts):
    model, rows = parts
    calls: list[int] = []
    first = filled(model, rows, calls)
    assert sum(calls) == 5
    again = filled(model, rows, calls)
    assert sum(calls) == 5
    assert torch.equal(first.summary_MD, again.summary_MD)
    some = EncodedTexts.of([rows.texts[row] for row in range(3)])
    filled(model, replace(rows, texts=some, labels=rows.labels[:3]), calls)
    assert sum(calls) == 8
    filled(model, rows, calls, key="other weights")
    assert sum(calls) == 13


def test_a_damaged_file_is_computed_again(parts, caplog):
    model, rows = parts
    first = filled(model, rows)
    (file,) = (cache_dir() / "unprompted").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:40])
    again = filled(model, rows)
    assert "cannot be read" in caplog.text
    assert torch.equal(first.pooled_MD, again.pooled_MD)


@pytest.mark.parametrize("num_choices", [2, 3])
def test_training_and_the_artifact_give_an_example_the_same_other_example(num_choices, tiny_bert):
    texts = ["great", "bad", "all in one"][:num_choices]
    examples = [Example(text=text, choices=tuple(texts)) for text in TEXTS]
    places = tuple(f"choice{number}" for number in range(1, num_choices + 1))
    task = Task("toy", places, places, ("accuracy",), "choice")
    config = build_config({"backbone": {"name": tiny_bert}, "prompt": {"source": "other"}})
    model = build_member(config, load_backbone(config.backbone), task).eval()
    with torch.no_grad():
        for parameter in model.prompt.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    artifact = Artifact(model, config, task, {})
    rows = filled(model, artifact.encode(examples))

    def in_training(rows):
        probabilities = torch.zeros(len(rows), num_choices)
        for batch in evaluation_batches(rows, 2, rank=0, world_size=1):
            with torch.no_grad():
                probabilities[batch.examples] = model(batch).logits_BC.softmax(1)
        return probabilities

    given = artifact.probabilities(examples, batch_size=2)
    torch.testing.assert_close(given, in_training(with_other_states(rows)), rtol=0, atol=1e-5)  # as above
    assert (given - in_training(rows)).abs().max() > 1e-2  # it is not its own state


def test_a_prompt_whose_slots_nobody_attends_to_changes_nothing(parts):
    # real tokens keep their positions, so hiding the slots gives the plain pass
    model, rows = parts
    rows = filled(model, rows)
    batch = rows.batch([1])
    hidden = replace(batch, slot_BL=torch.full_like(batch.slot_BL, -1))
    states = model.backbone(model.backbone.embed(batch.input_ids_BL), hidden)
    real = batch.real_BL[0]
    torch.testing.assert_close(states[0, real].mean(0), batch.pooled_BD[0], rtol=0, atol=1e-5)


def kept_file():
    (file,) = (cache_dir() / "unprompted").glob("*.safetensors")
    return file


@pytest.mark.parametrize("place", ["file", "folder", "cache"])
def test_states_that_others_can_write_to_are_not_trusted_and_that_is_told_once(
    parts, tmp_path, monkeypatch, caplog, place
):
    monkeypatch.setenv("INFOPROMPT_CACHE", str(tmp_path / "own"))
    calls: list[int] = []
    before = os.umask(0)  # what is written is for this user alone to write to, whatever the umask says
    try:
        filled(*parts, calls)
    finally:
        os.umask(before)
    filled(*parts, calls)
    assert sum(calls) == 5
    path = {"file": kept_file(), "folder": kept_file().parent, "cache": cache_dir()}[place]
    path.chmod(path.stat().st_mode | stat.S_IWOTH)
    filled(*parts, calls)
    assert sum(calls) == 10
    filled(*parts, calls)
    assert sum(calls) == (10 if place == "file" else 15)  # a file is written anew
    assert caplog.text.count("can be written to by other users: chmod go-w mends it") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_states_of_another_user_are_not_trusted(parts, caplog):
    calls: list[int] = []
    filled(*parts, calls)
    os.chown(kept_file(), 12345, -1)
    filled(*parts, calls)
    assert sum(calls) == 10
    assert "belongs to another user, of id 12345" in caplog.text
    assert kept_file().stat().st_uid == 0


@pytest.mark.parametrize("damage", ["one value", "another's name", "one tensor", "without a digest"])
def test_states_that_are_not_those_that_were_kept_are_computed_again(parts, damage):
    calls: list[int] = []
    whole = filled(*parts, calls)
    file = kept_file()
    content = bytearray(file.read_bytes())
    states = load(bytes(content))
    if damage == "one value":
        content[-1] ^= 1
        file.write_bytes(content)
    elif damage == "another's name":
        filled(*parts, calls, key="another")
        shutil.copy(next(path for path in file.parent.glob("*.safetensors") if path != file), file)
    else:
        save_file({"first": states["first"]} if damage == "one tensor" else states, file)
    before = sum(calls)
    again = filled(*parts, calls)
    assert sum(calls) == before + 5
    assert torch.equal(again.summary_MD, whole.summary_MD)
    assert torch.equal(load(file.read_bytes())["first"], states["first"])


@pytest.mark.parametrize("num_choices", [1, 2])
def test_states_that_go_into_the_file_as_they_come_equal_those_held_in_memory(parts, num_choices, monkeypatch):
    model, rows = parts
    if num_choices == 2:
        rows = replace(rows, texts=EncodedTexts.of([rows.texts[row] for row in range(4)]), labels=[0, 1], num_choices=2)
    held = filled(model, rows)
    (file,) = (cache_dir() / "unprompted").glob("*.safetensors")
    content = load(file.read_bytes())
    file.unlink()
    monkeypatch.setattr(unprompted, "MOST_HELD_BYTES", 1)  # each batch is gathered by itself
    calls: list[int] = []
    streamed = filled(model, rows, calls)
    again = filled(model, rows, calls)
    assert sum(calls) == len(rows.texts)
    assert file.stat().st_mode & 0o777 == 0o644
    for name in content:
        assert torch.equal(load(file.read_bytes())[name], content[name])
    for made in (streamed, again):
        assert torch.equal(made.summary_MD, held.summary_MD)
        assert torch.equal(made.pooled_MD, held.pooled_MD)


@pytest.mark.parametrize("what", ["the folder is not trusted", "the disk is full at the start", "... or at the end"])
def test_states_stay_in_memory_where_the_file_cannot_take_them(parts, what, monkeypatch, caplog):
    model, rows = parts
    held = filled(model, rows)
    (file,) = (cache_dir() / "unprompted").glob("*.safetensors")
    file.unlink()
    monkeypatch.setattr(unprompted, "MOST_HELD_BYTES", 1)

    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    if what == "the folder is not trusted":
        file.parent.chmod(0o777)
    elif what == "the disk is full at the start":
        monkeypatch.setattr(os, "posix_fallocate", full)
    else:
        monkeypatch.setattr(kept_tensors, "whole_file", full)
    again = filled(model, rows)
    file.parent.chmod(0o755)
    assert torch.equal(again.pooled_MD, held.pooled_MD)
    assert ("could not be kept" if what == "... or at the end" else "stay in memory") in caplog.text


class TwoRanks:
    """One of two ranks of a machine, in threads of this process."""

    world_size = 2

    def __init__(self, rank, meeting, said):
        self.rank = self.local_rank = rank
        self._meeting, self._said = meeting, said

    def gather_objects(self, value):
        self._said[self.rank] = value
        self._meeting.wait(30)
        found = [decoded(encoded(each)) for each in self._said]  # as they are sent, without pickle
        self._meeting.wait(30)
        return found

    def all_true(self, flag):
        return all(self.gather_objects(flag))

    def barrier(self):
        self.all_true(True)


@pytest.mark.parametrize("most_bytes", [1, 1000, 2**20])
def test_ranks_that_share_the_work_have_the_states_of_one(parts, most_bytes, monkeypatch):
    model, rows = parts
    alone = filled(model, rows)
    monkeypatch.setattr(unprompted, "MOST_HELD_BYTES", most_bytes)
    meeting, said, calls, one_at_a_time = threading.Barrier(2), [None, None], [], threading.Lock()

    def infer(batch):
        calls.append((batch.row_B >= 0).sum().item())
        with one_at_a_time, torch.no_grad():  # threads share the model, which ranks do not
            return model(batch)

    def of_rank(rank):
        ranks = TwoRanks(rank, meeting, said)
        return with_unprompted_states(rows, infer, ranks, backbone_key=f"key {most_bytes}", batch_size=2)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(of_rank, range(2)))
    assert sum(calls) == 5
    for each in found:
        torch.testing.assert_close(each.pooled_MD, alone.pooled_MD, rtol=0, atol=1e-5)  # batches are others
        torch.testing.assert_close(each.summary_MD, alone.summary_MD, rtol=0, atol=1e-5)
    assert len(list((cache_dir() / "unprompted").glob("*"))) == 2
