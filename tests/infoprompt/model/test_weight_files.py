"""Tensors of files, read in pieces."""

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from infoprompt.model.backbone import weight_files
from infoprompt.model.backbone.weight_files import WeightFiles

TENSORS = {
    "a": torch.arange(35.0).view(5, 7),
    "copy": torch.arange(35.0).view(5, 7),
    "half": torch.arange(35.0).view(5, 7).bfloat16(),
    "flat": torch.arange(35.0),
    "none": torch.zeros(0, 3),
    "one": torch.tensor(2.5),
    "no number": torch.tensor([1.0, float("nan")]),
}


@pytest.fixture
def files(tmp_path, monkeypatch) -> WeightFiles:
    monkeypatch.setattr(weight_files, "PIECE_NUMEL", 4)  # 35 numbers have a ragged last piece
    save_file(TENSORS, tmp_path / "weights.safetensors", {"format": "pt"})
    return WeightFiles([tmp_path / "weights.safetensors"])


@pytest.mark.parametrize("name", TENSORS)
def test_a_tensor_is_read_as_it_was_written(files, name):
    read = torch.empty_like(TENSORS[name])
    files.read(name, read)
    assert torch.equal(read.nan_to_num(), TENSORS[name].nan_to_num())
    assert files.same(name, TENSORS[name])


@pytest.mark.parametrize(("first", "count"), [(0, 35), (3, 9), (34, 1), (35, 0)])
def test_a_part_is_read_and_cast(files, first, count):
    read = torch.empty(count, dtype=torch.bfloat16)
    files.read("a", read, first)
    part = torch.arange(35.0)[first : first + count].bfloat16()
    assert torch.equal(read, part)
    assert files.same("a", part, first)
    if count:
        part[-1] += 1
        assert not files.same("a", part, first)


def test_equal_tensors_have_the_same_shape_and_numbers(files):
    assert files.equal("a", "copy")
    assert files.equal("no number", "no number")
    assert not files.equal("a", "flat")
    assert not files.equal("one", "a")


def test_of_a_name_in_two_files_the_last_counts_and_a_file_that_is_cut_is_refused(files, tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({"one": torch.tensor(3.0)}, other)
    both = WeightFiles([*files.paths, other])
    assert both.same("one", torch.tensor(3.0))
    assert both.shapes.keys() == TENSORS.keys()
    other.write_bytes(other.read_bytes()[:-1])
    with pytest.raises(SafetensorError):
        WeightFiles([other])


def test_what_becomes_shorter_while_it_is_read_is_an_error(files):
    last = max(TENSORS, key=lambda name: files._places[name].start)
    files.paths[0].write_bytes(files.paths[0].read_bytes()[:-1])
    with pytest.raises(OSError, match="shorter"):
        files.read(last, torch.empty_like(TENSORS[last]))
