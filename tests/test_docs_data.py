"""Every example file of docs/data.md is read as the kind that its name says, and every kind has one."""

import re
from pathlib import Path
from typing import get_args

import pytest

from infoprompt.config import DataSettings
from infoprompt.data.rows import Kind
from infoprompt.data.splits import load_splits

PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```\w+ (\S+)\n(.*?)```", PAGE, flags=re.DOTALL))


def test_every_kind_of_task_has_an_example():
    assert {Path(name).stem for name in FILES} == set(get_args(Kind))
    assert all(f"| `{kind}` |" in PAGE for kind in get_args(Kind))


@pytest.mark.parametrize("name", FILES)
def test_an_example_is_read_as_its_kind(tmp_path, name):
    (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    kind, train = Path(name).stem, str(tmp_path / name)
    splits = load_splits(DataSettings(train=train, validation=train, test=train), 0)
    assert splits.task.kind == kind
    assert len(splits.train) == 4
    assert load_splits(DataSettings(train=train, validation=train, task=kind), 0).task.kind == kind


def test_numbers_in_the_label_column_are_values_where_the_kind_is_named(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text(FILES["regression.csv"].replace("value", "label"), encoding="utf-8")
    splits = load_splits(DataSettings(train=str(path), validation=str(path), task="regression"), 0)
    assert splits.task.scale == (1.25, 5.0)
