"""Which rows, in which order, with which noise."""

import dataclasses

import pytest
import torch

from infoprompt.config import build_config
from infoprompt.data.loader import Rows, TrainLoader, evaluation_batches
from infoprompt.data.template import EncodedText


def rows(count: int) -> Rows:
    texts = []
    for index in range(count):
        size = 3 + index % 5
        texts.append(EncodedText([100 + index] * size, [-1, 0] + [-1] * (size - 2), [0] * size, 0, False))
    return Rows(texts, list(range(count)), pad_id=0)


def loader(count=10, batch_size=4, accumulation=1, rank=0, world_size=1, seed=3, preset="paper") -> TrainLoader:
    objective = build_config({"objective": {"preset": preset}}).objective
    return TrainLoader(rows(count), batch_size, accumulation, rank, world_size, seed, objective)


def fields_of(batches, name):
    return torch.cat([getattr(batch, name) for batch in batches])


def test_every_row_is_visited_once_an_epoch_before_the_filling():
    train = loader(count=10, batch_size=4)
    assert train.steps_per_epoch == 3
    visited = [row for step in range(3) for batch in train.micro_batches(step) for row in batch.row_B.tolist()]
    assert sorted(visited[:10]) == list(range(10))
    assert visited[10:] == visited[:2]


def test_epochs_differ_and_seeds_differ_and_nothing_else_does():
    order = [fields_of(loader().micro_batches(step), "row_B").tolist() for step in (0, 3)]
    assert order[0] != order[1]
    assert order[0] == fields_of(loader().micro_batches(0), "row_B").tolist()
    assert order[0] != fields_of(loader(seed=4).micro_batches(0), "row_B").tolist()


@pytest.mark.parametrize("name", ["row_B", "gaussian_BN", "uniform_BK"])
@pytest.mark.parametrize(("world_size", "accumulation"), [(2, 1), (1, 2), (2, 2)])
def test_ranks_and_micro_batches_together_see_what_one_rank_sees(name, world_size, accumulation):
    alone = fields_of(loader(count=9).micro_batches(1), name)
    shared = [
        batch
        for rank in range(world_size)
        for batch in loader(count=9, accumulation=accumulation, rank=rank, world_size=world_size).micro_batches(1)
    ]
    assert torch.equal(fields_of(shared, name), alone)


def test_exact_negatives_need_no_draws():
    (sampled,) = loader(preset="paper").micro_batches(0)
    (exact,) = loader(preset="analytic").micro_batches(0)
    assert sampled.gaussian_BN.shape[1] == 1 + 32 + 32
    assert exact.gaussian_BN.shape[1] == 1 + 32
    assert exact.uniform_BK is None


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_visits_each_row_once_and_ranks_have_equally_many_batches(world_size):
    batches = [list(evaluation_batches(rows(7), 2, rank, world_size)) for rank in range(world_size)]
    assert len({len(of_rank) for of_rank in batches}) == 1
    visited = [row for of_rank in batches for batch in of_rank for row in batch.row_B.tolist() if row >= 0]
    assert sorted(visited) == list(range(7))


def test_padding_is_neither_real_nor_attended():
    batch = rows(5).batch([0, 4])
    assert batch.real_BL.sum(1).tolist() == [2, 6]
    assert batch.attended_BL.sum(1).tolist() == [3, 7]
    assert batch.input_ids_BL[0, 3:].tolist() == [0] * 4


def test_a_batch_moves_with_all_its_tensors():
    moved = rows(3).batch([0, 1]).to("meta")
    tensors = [
        value for field in dataclasses.fields(moved) if isinstance(value := getattr(moved, field.name), torch.Tensor)
    ]
    assert len(tensors) == 8
    assert {tensor.device.type for tensor in tensors} == {"meta"}
