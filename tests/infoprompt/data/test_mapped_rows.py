"""Rows in a mapped file, their splits and their tokens equal those in memory, and are made once on a node."""

import json
import logging
import multiprocessing
import os
import random
from dataclasses import replace

import numpy as np
import pytest

from infoprompt.cache_folder import cache_dir
from infoprompt.config import ConfigError, DataSettings, build_config
from infoprompt.data import kept_splits, mapped_rows, splits, tokenized
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.few_shot import hold_out_share
from infoprompt.data.loader import TrainLoader
from infoprompt.data.mapped_rows import MappedRows, changed, chosen
from infoprompt.data.pattern import Pattern
from infoprompt.data.rows import Candidate, Example, Span, collect_examples, labels_of
from infoprompt.data.splits import load_splits
from infoprompt.model.backbone.load import load_backbone
from infoprompt.model.inputs import make_template

EXAMPLES = [
    Example("a film", label="good", where="line 1 of x"),
    Example("a \udcff byte, and half \ud83d", "a pair", label="bad", where="line 2 of \udcfe"),
    Example("the fire, the cable", head=Span(4, 8), tail=Span(14, 19), label="Cause"),
    Example("Ann", span=Span(0, 3), label="person"),
    Example("Ann lives", words=("Ann", "lives"), tags=("B-person", "O")),
    Example("words without tags", words=("words",)),
    Example("why?", choices=("yes", "no"), label="choice2"),
    Example("Ann won", candidate=Candidate("q", "Ann", ("Ann", "she")), label="true"),
    Example("a number", value=0.1 + 0.2),
    Example("no label"),
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("INFOPROMPT_CACHE", str(tmp_path / "cache"))


def map_all(monkeypatch):
    """Rows are mapped and kept however few they are."""
    kept_splits._remembered.clear()
    for module in (mapped_rows, kept_splits):
        monkeypatch.setattr(module, "MOST_IN_MEMORY", 3)
    monkeypatch.setattr(mapped_rows, "BLOCK_ROWS", 4)
    monkeypatch.setattr(kept_splits, "LEAST_BYTES", 1)
    monkeypatch.setattr(tokenized, "MOST_REMEMBERED", 3)
    monkeypatch.setattr(tokenized, "BLOCK_ROWS", 7)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})


@pytest.fixture
def mapped(monkeypatch):
    map_all(monkeypatch)
    rows = collect_examples(EXAMPLES)
    assert isinstance(rows, MappedRows)
    return rows


def same(one, other):
    return [(row, row.where) for row in one] == [(row, row.where) for row in other]


def test_examples_of_every_kind_come_back_as_they_were(mapped):
    assert same(mapped, EXAMPLES)
    assert same([mapped[place] for place in range(-3, 10)], [EXAMPLES[place] for place in range(-3, 10)])
    assert same(mapped[2:9:2], EXAMPLES[2:9:2])
    assert not list((cache_dir() / "rows").iterdir()), "the file has no name any more"


def test_rows_are_chosen_and_changed_as_those_of_a_list_are(mapped):
    places = [9, 0, 0, 5, 4, 3, 8]
    for change in (Example.unlabelled, lambda row: replace(row, label="x")):
        assert same(changed(chosen(mapped, places), change), changed(chosen(EXAMPLES, places), change))
        assert same(chosen(changed(mapped, change), places), chosen(changed(EXAMPLES, change), places))
        assert list(labels_of(changed(mapped, change))) == [change(row).label for row in EXAMPLES]
    assert list(labels_of(chosen(mapped, places))) == [EXAMPLES[place].label for place in places]


def test_few_rows_stay_a_list(monkeypatch):
    monkeypatch.setattr(mapped_rows, "MOST_IN_MEMORY", len(EXAMPLES))
    assert collect_examples(EXAMPLES) == EXAMPLES
    assert not cache_dir().exists()


def test_rows_stay_in_memory_where_no_file_can_be_written(monkeypatch, caplog, tmp_path):
    map_all(monkeypatch)
    (tmp_path / "file").touch()
    monkeypatch.setenv("INFOPROMPT_CACHE", str(tmp_path / "file"))
    assert collect_examples(EXAMPLES) == EXAMPLES
    assert "The rows stay in memory" in caplog.text


def test_a_disk_that_is_full_while_rows_are_read_is_an_error_with_a_way_out(monkeypatch):
    map_all(monkeypatch)

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mapped_rows, "write_rows", full)
    with pytest.raises(ConfigError, match=r"No space left.*INFOPROMPT_CACHE"):
        collect_examples(EXAMPLES)


# ---- splits


def write_files(folder):
    source = random.Random(0)
    words = "good bad film great in one all the a".split()
    for name, count in (("train", 90), ("test", 12)):
        lines = ["text,label"]
        for number in range(count):
            label = ("1", "1.0", "2", "3")[number % 4]  # spellings that are merged
            lines.append(f"{' '.join(source.choices(words, k=2 + number % 2))},{label}")
        lines += ["a film without a label,", "good film,1", "good film,2"]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return {"train": str(folder / "train.csv"), "test": str(folder / "test.csv"), "bad_rows": "skip"}


SETTINGS = [{}, {"few_shot": {"per_class": 5}}, {"few_shot": {"total": 30}}, {"validation_share": 0.4}]


@pytest.mark.parametrize("more", SETTINGS)
def test_splits_of_mapped_rows_equal_those_in_memory_in_this_run_and_the_next(more, tmp_path, monkeypatch):
    data = build_config({"data": write_files(tmp_path) | more}).data
    plain = load_splits(data, 5)
    map_all(monkeypatch)
    first = load_splits(data, 5)
    monkeypatch.setattr(splits, "_split", None)  # nothing is read again
    second = load_splits(data, 5)
    for found in (first, second):
        assert isinstance(found.train, MappedRows)
        for part in ("train", "validation", "test"):
            assert same(getattr(found, part), getattr(plain, part))
        assert (found.task, found.description, found.skipped) == (plain.task, plain.description, plain.skipped)
        assert found.notes == plain.notes
    assert len(plain.notes) > 3


def test_a_changed_file_setting_or_seed_is_read_again(tmp_path, monkeypatch):
    map_all(monkeypatch)
    given = write_files(tmp_path)
    data = build_config({"data": given}).data
    first = load_splits(data, 5)
    assert not same(load_splits(data, 6).train, first.train)
    assert len(list((cache_dir() / "rows").iterdir())) == 2 + 6, "both have the same test rows, and no unlabelled ones"
    assert len(load_splits(build_config({"data": given | {"validation_share": 0.5}}).data, 5).train) < len(first.train)
    with (tmp_path / "train.csv").open("a") as file:
        file.write("one more,3\n")
    assert len(load_splits(data, 5).train) + len(load_splits(data, 5).validation) == 93
    assert same(load_splits(build_config({"data": given | {"batch_size": 2}}).data, 5).test, first.test)


@pytest.mark.parametrize("damage", ["a row", "the facts", "a lost file", "not trusted"])
def test_kept_rows_that_are_damaged_or_not_trusted_are_read_again(damage, tmp_path, monkeypatch, caplog):
    map_all(monkeypatch)
    data = build_config({"data": write_files(tmp_path)}).data
    first = list(load_splits(data, 5).train)
    folder = cache_dir() / "rows"
    (facts,) = folder.glob("*.json")
    digest = json.loads(facts.read_text())["sha256"]["train"]
    file = facts if damage == "the facts" else folder / f"{digest}.arrow"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "a lost file":
        file.unlink()
    elif damage == "not trusted":
        file.chmod(0o666)
    else:
        file.write_bytes(content if damage == "a row" else content[:-9])
    assert same(load_splits(data, 5).train, first)
    assert "they are read again" in caplog.text
    assert same(load_splits(data, 5).train, first)
    assert caplog.text.count("they are read again") == 1


def held_out_row_by_row(labels, keys, share, seed):
    """As `hold_out_share`, written to be read."""
    rows_of_key, keys_of_class = {}, {}
    for row, key in enumerate(keys):
        rows_of_key.setdefault(key, []).append(row)
    for key, rows in rows_of_key.items():
        keys_of_class.setdefault(labels[rows[0]], []).append(key)
    generator = np.random.default_rng([seed, 2])
    held_out = set()
    for label in sorted(keys_of_class):
        texts = keys_of_class[label]
        count = min(max(1, round(share * len(texts))), len(texts) - 1)
        held_out.update(texts[index] for index in generator.permutation(len(texts))[:count])
    return [row for row, key in enumerate(keys) if key not in held_out], [
        row for row, key in enumerate(keys) if key in held_out
    ]


@pytest.mark.parametrize("seed", range(5))
def test_the_held_out_share_equals_one_that_is_found_row_by_row(seed):
    draws = np.random.default_rng(seed)
    labels, keys = draws.integers(7, size=400).tolist(), draws.integers(300, size=400).tolist()
    assert hold_out_share(labels, keys, 0.2, seed) == held_out_row_by_row(labels, keys, 0.2, seed)


# ---- tokens


@pytest.fixture
def template(tiny_bert):
    config = build_config({"backbone": {"name": tiny_bert}})
    return make_template(config, load_backbone(config.backbone))


def train_rows(tmp_path):
    return load_splits(build_config({"data": write_files(tmp_path)}).data, 5)


def batches(found, template, seed=3):
    rows = EncodedDataset.encode(found.train, found.task.labels, template, "training")
    loader = TrainLoader(rows, 8, 1, 0, 1, seed)
    return [batch for step in range(25) for batch in loader.micro_batches(step)]


def test_batches_of_tokens_that_are_made_in_parallel_and_kept_equal_those_in_memory(template, tmp_path, monkeypatch):
    plain = batches(train_rows(tmp_path), template)
    map_all(monkeypatch)
    first = batches(train_rows(tmp_path), template)
    monkeypatch.setattr(tokenized, "in_parallel", None)  # nothing is made again
    second = batches(train_rows(tmp_path), template)
    for found in (first, second):
        for one, other in zip(found, plain, strict=True):
            for name in ("input_ids_BL", "slot_BL", "position_BL", "token_type_BL", "label_B", "row_B", "mask_index_B"):
                assert getattr(one, name).equal(getattr(other, name)), name
    assert len(list((cache_dir() / "tokens").iterdir())) == 1, "no lock is left"


@pytest.mark.parametrize("kind", ["single", "relation", "tags", "choice"])
def test_each_kind_of_input_is_the_same_in_parallel(kind, template, monkeypatch):
    map_all(monkeypatch)
    of_kind = {
        "single": [Example(f"{'good film ' * (n % 4)}in one {n}") for n in range(30)],
        "relation": [Example(f"the film {'the ' * n}car", head=Span(4, 8), tail=Span(0, 3)) for n in range(30)],
        "tags": [Example("a film", words=("a",) * (1 + n % 3)) for n in range(30)],
        "choice": [Example("why", choices=("bad", f"good {n}")) for n in range(30)],
    }
    examples = collect_examples(of_kind[kind])
    alone = tokenized.one_by_one(template, examples, "toy")
    together = tokenized.in_parallel(template, examples, "toy")
    assert list(together) == list(alone)
    assert list(together.without_prompt()) == list(alone.without_prompt())


def test_tokens_of_another_template_are_not_taken(template, tmp_path, monkeypatch):
    map_all(monkeypatch)
    found = train_rows(tmp_path)
    words = [
        replace(template, pattern=Pattern.of(DataSettings(template=words), found.task, template.tokenizer))
        for words in ("good {text}", "good film {text}")
    ]
    lengths = [
        tokenized.tokenized(each, found.train, "x").input_ids.lengths_M
        for each in (
            template,
            replace(template, num_vectors=template.num_vectors + 2),
            replace(template, use_mask=not template.use_mask),
            *words,
        )
    ]
    assert (lengths[1] == lengths[0] + 2).all()
    assert (abs(lengths[2] - lengths[0]) == 1).all()
    assert (lengths[3] == lengths[0] + 1).all()
    assert (lengths[4] == lengths[0] + 2).all()


def test_a_text_that_cannot_be_tokenized_is_named_by_the_process_that_met_it(template, monkeypatch):
    map_all(monkeypatch)
    rows = [Example("good film", where=f"line {n} of x.csv") for n in range(30)]
    rows[23] = Example("half \ud83d", where="line 23 of x.csv")
    with pytest.raises(ConfigError, match=r"line 23 of x\.csv holds half a character"):
        tokenized.in_parallel(template, rows, "toy")
    assert not multiprocessing.active_children()


def test_a_process_that_dies_while_it_tokenizes_ends_the_run(template, monkeypatch):
    map_all(monkeypatch)
    monkeypatch.setattr(tokenized, "one_by_one", lambda *given: os._exit(9))
    with pytest.raises(RuntimeError, match="has died"):
        tokenized.in_parallel(template, [Example("good")] * 30, "toy")
    assert not multiprocessing.active_children()


def test_how_far_tokenizing_is_is_told_by_one_process_alone(template, monkeypatch, caplog):
    map_all(monkeypatch)
    told = []
    monkeypatch.setattr(tokenized, "track", lambda items, total, name: told.append((total, name)) or items)
    with caplog.at_level(logging.INFO):
        tokenized.in_parallel(template, [Example("good")] * 30, "toy")
    assert told == [(5, "tokenizing toy texts, blocks of 7")]
