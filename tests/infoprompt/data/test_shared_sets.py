"""Every data set of the table that is on this machine: classes, row counts, and rows that can be encoded."""

import json
import os
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.published_formats import adapter
from infoprompt.data.rows import read_examples
from infoprompt.data.task_files import FOLDER_VARIABLE, find_task_files
from infoprompt.data.tasks import TASKS
from infoprompt.data.template import Template

DATA = Path(os.environ.get(FOLDER_VARIABLE) or Path(__file__).parents[4] / "shared" / "data")


@pytest.mark.parametrize("name", TASKS)
def test_a_data_set_at_hand_is_the_one_that_its_task_describes(name, tiny_bert):
    task = TASKS[name]
    folder = DATA / task.source.folder
    if not (folder / "meta.json").is_file():
        pytest.skip(f"{task.source.folder} is not in {DATA}; {FOLDER_VARIABLE} names the folder of data sets")
    meta = json.loads((folder / "meta.json").read_text())
    parts = find_task_files(task, str(DATA))
    examples = read_examples(parts.test, {}, adapt=adapter(task))
    if task.kind == "span":
        assert set(task.labels) == {label[2:] for label in meta["labels"] if label != "O"}
    else:
        assert sorted(task.labels) == sorted(meta["labels"] or [])
        part = Path(parts.test).name.split(".")[0]
        assert len(examples) == meta["splits"][part]["rows"]
        has_test = "test" in meta["splits"]
        assert part == ("test" if has_test else "validation")
    assert all(task.fits(example) for example in examples)
    assert {label for example in examples for label in example.given_labels} <= set(task.labels)
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    template = Template.probe(tokenizer, num_vectors=4, placement="warp", use_mask=True, max_length=256)
    rows = EncodedDataset.encode(examples[:50], task.labels, template, name, task.scale)
    batch = rows.batch(range(50))
    assert len(batch) == 50 * max(1, task.num_classes if task.kind == "choice" else 1)
    assert (batch.slot_BL >= 0).sum(1).tolist() == [4] * len(batch)
    if task.kind in ("single", "pair", "span", "relation", "choice"):
        assert (batch.label_B >= 0).all()
