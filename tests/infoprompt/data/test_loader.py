"""Which rows, in which order, with which noise."""

import dataclasses
from operator import attrgetter

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from infoprompt.config import build_config
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.encoded import EncodedText, EncodedTexts
from infoprompt.data.loader import TrainLoader, epoch_order, evaluation_batches
from infoprompt.data.rows import Example, Span
from infoprompt.data.template import Template
from infoprompt.objective.noise import noise_of


def rows(count: int) -> EncodedDataset:
    texts = []
    for index in range(count):
        size = 3 + index % 5
        texts.append(EncodedText([100 + index] * size, [-1, 0] + [-1] * (size - 2), [0] * size, 0, False))
    return EncodedDataset(EncodedTexts.of(texts), list(range(count)), pad_id=0)


def loader(count=10, batch_size=4, accumulation=1, rank=0, world_size=1, seed=3, preset="paper") -> TrainLoader:
    draw = noise_of(build_config({"objective": {"preset": preset}, "seed": seed}), has_latent=True)
    return TrainLoader(rows(count), batch_size, accumulation, rank, world_size, seed, draw)


FIELDS = ["row_B", "noise.positive_B", "noise.latent_BZ", "noise.negative_BK", "noise.token_BK"]


def fields_of(batches, name):
    return torch.cat([attrgetter(name)(batch) for batch in batches])


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


def test_the_order_of_an_epoch_is_drawn_once():
    train = loader(count=11, batch_size=4, seed=92)
    epoch_order.cache_clear()
    for epoch in range(3):
        drawn = np.random.default_rng([92, epoch]).permutation(11).tolist()
        visited = [fields_of(train.micro_batches(3 * epoch + step), "row_B").tolist() for step in range(3)]
        assert visited == [drawn[:4], drawn[4:8], [*drawn[8:], drawn[0]]]
        assert epoch_order.cache_info().misses == epoch + 1


@pytest.mark.parametrize("name", FIELDS)
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
    assert sampled.noise.latent_BZ.shape[1] == sampled.noise.negative_BK.shape[1] == 32
    assert sampled.noise.token_BK.shape[1] == 32
    assert exact.noise.latent_BZ.shape[1] == 32
    assert exact.noise.negative_BK is None
    assert exact.noise.token_BK is None


def test_what_reads_no_noise_draws_none():
    no_terms = {"objective": {"head_weight": 0, "representation_weight": 0}}
    assert noise_of(build_config(no_terms), has_latent=False) is None
    assert noise_of(build_config(no_terms), has_latent=True) is not None  # a head of any kind may read one
    sampled = {"objective": {"representation_weight": 0, "head_negatives": "sampled_tokens"}}
    assert noise_of(build_config(sampled), has_latent=False) is not None
    (batch,) = TrainLoader(rows(10), 4, 1, 0, 1, 3).micro_batches(0)
    assert batch.noise is None


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


def encoded(tiny_bert, examples, labels, **settings) -> EncodedDataset:
    template = Template.probe(
        AutoTokenizer.from_pretrained(tiny_bert), num_vectors=2, placement="warp", use_mask=False, max_length=16
    )
    return EncodedDataset.encode(examples, labels, template, "toy", **settings)


def test_choices_of_an_example_are_neighbours_with_its_label_on_each(tiny_bert):
    examples = [
        Example("a film", choices=("good", "bad"), label="choice2"),
        Example("the", choices=("great", "awful"), label="choice1"),
    ]
    data = encoded(tiny_bert, examples, ("choice1", "choice2"))
    assert (len(data), len(data.texts), data.num_choices) == (2, 4, 2)
    batch = data.batch([1, -1])
    assert batch.num_choices == 2
    assert batch.row_B.tolist() == [2, 3, -1, -1]
    assert batch.label_B.tolist() == [0, 0, 1, 1]
    assert batch.examples == [1, -1]


def test_every_choice_has_noise_of_its_own_whatever_rank_has_it(tiny_bert):
    examples = [Example("film " * n, choices=("good", "bad"), label="choice1") for n in range(1, 5)]
    draw = noise_of(build_config({"objective": {"preset": "paper"}, "seed": 3}), has_latent=True)
    data = encoded(tiny_bert, examples, ("choice1", "choice2"))
    alone = list(TrainLoader(data, 4, 1, 0, 1, 3, draw).micro_batches(0))
    shared = [part for rank in range(2) for part in TrainLoader(data, 4, 1, rank, 2, 3, draw).micro_batches(0)]
    for name in FIELDS:
        assert torch.equal(fields_of(shared, name), fields_of(alone, name))
    assert len(alone[0]) == len(alone[0].noise.positive_B) == 8


def test_tags_stand_beside_the_places_of_their_words(tiny_bert):
    short = Example("it was good", words=("it", "was", "good"), tags=("O", "O", "B-x"))
    long = Example("film " * 30, words=("film",) * 30, tags=("O",) * 30)
    data = encoded(tiny_bert, [short, long], ("O", "B-x"))
    batch = data.batch([0, 1])
    assert batch.tag_BS[0].tolist() == [0, 0, 1] + [-1] * 9
    assert batch.word_BS[0].tolist() == [2, 3, 4] + [-1] * 9
    assert (batch.tag_BS[1] == 0).all()  # 12 words fit; the tags of all 30 are kept for scoring
    assert len(data.tags[1]) == 30


def test_words_cut_off_are_announced(tiny_bert, caplog):
    with caplog.at_level("WARNING"):
        encoded(tiny_bert, [Example("film " * 30, words=("film",) * 30, tags=("O",) * 30)], ("O", "B-x"))
    assert "The 18 words cut off count as predicted O" in caplog.text


def test_values_are_scaled_and_unknown_ones_are_no_number(tiny_bert):
    data = encoded(tiny_bert, [Example("a", value=2.5), Example("b")], (), scale=(0.0, 5.0))
    assert data.batch([0]).value_B.tolist() == [0.5]
    assert data.batch([1]).value_B.isnan().all()
    assert encoded(tiny_bert, [Example("a", label="x")], ("x",)).batch([0]).value_B is None


def test_both_markers_of_a_relation_are_in_the_batch(tiny_bert):
    relation = Example("the engine of the car", head=Span(4, 10), tail=Span(18, 21), label="x")
    batch = encoded(tiny_bert, [relation], ("x",)).batch([0])
    at = AutoTokenizer.from_pretrained(tiny_bert).convert_tokens_to_ids(["@", "#"])
    assert batch.input_ids_BL[0, batch.marked_B2[0]].tolist() == at


def test_a_batch_moves_with_all_its_tensors():
    moved = rows(3).batch([0, 1]).to("meta")
    tensors = [
        value for field in dataclasses.fields(moved) if isinstance(value := getattr(moved, field.name), torch.Tensor)
    ]
    assert len(tensors) == 8
    assert {tensor.device.type for tensor in tensors} == {"meta"}
