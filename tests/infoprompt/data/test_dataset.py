"""The arrays of a data set give the batches that plain lists give."""

import math
from dataclasses import fields
from itertools import accumulate

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.encoded import EncodedText, EncodedTexts
from infoprompt.data.loader import shared_batches
from infoprompt.data.ragged import Ragged, compact
from infoprompt.data.rows import Example
from infoprompt.data.template import Template

PAD = 40_000  # needs more than 16 bits with a sign


def padded(lists, fill, least=0):
    size = max(least, *map(len, lists))
    return torch.tensor([[*numbers, *[fill] * (size - len(numbers))] for numbers in lists])


def plain_positions(text):
    if text.slots_counted:
        return list(range(len(text.slots)))
    return [max(count - 1, 0) for count in accumulate(slot < 0 for slot in text.slots)]


def plain_without_prompt(text):
    kept = [index for index, slot in enumerate(text.slots) if slot < 0]
    return EncodedText(
        [text.input_ids[index] for index in kept],
        [-1] * len(kept),
        [text.segments[index] for index in kept],
        kept.index(text.mask_index) if text.mask_index else 0,
        text.truncated,
        tuple(map(kept.index, text.words)),
        None if text.marked is None else tuple(map(kept.index, text.marked)),
    )


def plain_batch(data, texts, rows):
    """What `EncodedDataset.batch` says it gives, from the inputs one by one."""
    count = data.num_choices
    indices = [(max(row, 0) * count + choice, row >= 0) for row in rows for choice in range(count)]
    given = [texts[index] for index, _ in indices]
    index_B = [index for index, _ in indices]
    length = max(len(text.slots) for text in given)
    real = [[slot < 0 for slot in text.slots] + [False] * (length - len(text.slots)) for text in given]
    expected = {
        "input_ids_BL": padded([text.input_ids for text in given], data.pad_id),
        "slot_BL": padded([text.slots for text in given], -1),
        "real_BL": torch.tensor(real),
        "position_BL": padded([plain_positions(text) for text in given], 0),
        "token_type_BL": padded([text.segments for text in given], 0),
        "mask_index_B": torch.tensor([text.mask_index for text in given]),
        "label_B": torch.tensor([data.labels[index // count] for index in index_B]),
        "row_B": torch.tensor([index if known else -1 for index, known in indices]),
        "num_choices": count,
    }
    if data.summary_MD is not None:
        expected["summary_BD"] = torch.stack([data.summary_MD[index] for index in index_B])
    if given[0].marked is not None:
        expected["marked_B2"] = torch.tensor([text.marked for text in given])
    if data.tags is not None:
        tags = [data.tags[index][: len(texts[index].words)] for index in index_B]
        expected["word_BS"] = padded([text.words for text in given], -1, least=1)
        expected["tag_BS"] = padded(tags, -1, least=1)
    if data.values is not None:
        expected["value_B"] = torch.tensor([data.values[index] for index in index_B], dtype=torch.float32)
    return expected


def assert_same(batch, expected):
    for field in fields(batch):
        value, wanted = getattr(batch, field.name), expected.get(field.name, field.default)
        if isinstance(wanted, torch.Tensor):
            assert (value.dtype, value.shape) == (wanted.dtype, wanted.shape), field.name
            assert torch.equal(value.nan_to_num(-7), wanted.nan_to_num(-7)), field.name
        else:
            assert value == wanted, field.name


def random_text(draw, kind, num_vectors, counted):
    """Real tokens and prompt slots in any order; a pair has two segments."""
    num_real = int(draw.integers(1, 30))
    is_slot = draw.permutation([True] * num_vectors + [False] * num_real)
    slots = np.where(is_slot, is_slot.cumsum() - 1, -1).tolist()
    real = np.flatnonzero(~is_slot).tolist()
    ids = [PAD if slot >= 0 else int(draw.integers(50_000)) for slot in slots]
    words = real[: int(draw.integers(0, num_real + 1))] if kind == "tags" else ()
    entities = tuple(draw.choice(real, 2).tolist()) if kind == "relation" else None
    middle = int(draw.integers(len(slots))) if kind == "pair" else len(slots)
    segments = [int(index > middle) for index in range(len(slots))]
    mask = int(draw.choice(real)) if draw.random() < 0.5 else 0
    return EncodedText(ids, slots, segments, mask, draw.random() < 0.5, tuple(words), entities, counted)


def random_rows(draw, kind, num_vectors, counted):
    count, num_choices = int(draw.integers(1, 20)), 3 if kind == "choice" else 1
    texts = [random_text(draw, kind, num_vectors, counted) for _ in range(count * num_choices)]
    tags = [draw.integers(-1, 5, len(text.words) + int(draw.integers(0, 3))).tolist() for text in texts]
    data = EncodedDataset(
        EncodedTexts.of(texts),
        draw.integers(-1, 4, count).tolist(),
        PAD,
        summary_MD=torch.from_numpy(draw.random((len(texts), 3))) if draw.random() < 0.5 else None,
        num_choices=num_choices,
        tags=Ragged.of(tags) if kind == "tags" else None,
        values=[math.nan, *draw.random(count - 1).tolist()] if kind == "value" else None,
    )
    return data, texts


@pytest.mark.parametrize("kind", ["single", "pair", "relation", "choice", "tags", "value"])
@pytest.mark.parametrize("num_vectors", [0, 1, 6])
@pytest.mark.parametrize("seed", range(5))
def test_batches_equal_those_of_plain_lists(kind, num_vectors, seed):
    draw = np.random.default_rng(seed)
    data, texts = random_rows(draw, kind, num_vectors, counted=seed % 2 > 0)
    assert [data.texts[row] for row in range(len(texts))] == texts
    without = [plain_without_prompt(text) for text in texts]
    for size in (1, 2, 8):
        rows = draw.integers(-1, len(data), size).tolist()
        assert_same(data.batch(rows), plain_batch(data, texts, rows))
        assert_same(data.without_prompt().batch(rows), plain_batch(data, without, rows))


@pytest.mark.parametrize("world_size", [1, 3])
def test_short_rows_come_first_then_by_name_and_row(world_size):
    draw = np.random.default_rng(0)
    rows, by_length = {}, []
    for name, kind in (("b", "choice"), ("a", "single"), ("c", "tags")):
        rows[name], texts = random_rows(draw, kind, 2, counted=False)
        count = rows[name].num_choices
        lengths = [max(len(text.slots) for text in texts[row * count :][:count]) for row in range(len(rows[name]))]
        by_length += [(length, name, row) for row, length in enumerate(lengths)]
    shared = zip(*(shared_batches(rows, 4, rank, world_size) for rank in range(world_size)), strict=True)
    by_length.sort()
    for start, chosen in zip(range(0, len(by_length), 4 * world_size), shared, strict=True):
        part = by_length[start : start + 4 * world_size]
        part += [(0, part[0][1], -1)] * (-len(part) % world_size)
        for rank in range(world_size):
            own = part[rank::world_size]
            expected = {name: [row for _, of, row in own if of == name] for _, name, _ in own}
            assert list(chosen[rank].items()) == list(expected.items())


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [([], "int8"), ([-1, 127], "int8"), ([128], "int16"), ([50_000], "uint16"), ([-1, 50_000], "int32")],
)
def test_numbers_take_the_smallest_type_that_holds_them(numbers, kind):
    kept = compact(numbers)
    assert kept.dtype == kind
    assert kept.tolist() == numbers


def test_a_row_takes_little_more_than_its_tokens():
    text = EncodedText([30_000] * 50, [-1] * 46 + [0, 1, 2, 3], [0] * 50, 0, False)
    texts = EncodedTexts.of([text] * 1000)
    arrays = [texts.input_ids, texts.slots, texts.segments]
    assert sum(part.values_T.nbytes for part in arrays) == 1000 * 50 * (2 + 1 + 1)
    assert len({id(part.starts) for part in arrays}) == 1


def test_tokens_of_rows_are_made_once_for_the_same_template(tiny_bert):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)

    def encoded(text, num_vectors=2):
        template = Template.probe(tokenizer, num_vectors=num_vectors, placement="front", use_mask=False, max_length=32)
        return EncodedDataset.encode([Example(text=text, label="a")], ["a"], template, "test").texts

    assert encoded("the film") is encoded("the film")
    assert encoded("the film") is not encoded("the car")
    assert len(encoded("the film", 3)[0].input_ids) == len(encoded("the film")[0].input_ids) + 1
