"""`pack: auto` fills a pass, and no more."""

import pytest

from infoprompt.config import build_config
from launcher.pack_size import pack_size


@pytest.mark.parametrize(
    ("data", "where", "expected"),
    [
        ({"batch_size": 8}, {}, 8),
        ({"batch_size": 128}, {}, 1),
        ({"batch_size": 32, "micro_batch_size": 4}, {}, 16),
        ({"batch_size": 32}, {"num_ranks": 4}, 8),
        ({"batch_size": 8}, {"on_gpu": True}, 64),
        ({"batch_size": 256}, {"on_gpu": True}, 4),
    ],
)
def test_as_many_runs_as_fill_a_pass(data, where, expected):
    config = build_config({"backbone": {"name": "minilm"}, "data": {"train": "rows.csv", **data}})
    assert pack_size("auto", config, **where) == expected
    assert pack_size(3, config, **where) == 3


def test_rows_without_labels_fill_it_too():
    data = {"train": "rows.csv", "unlabelled": "more.txt", "batch_size": 8, "unlabelled_batch": 24}
    config = build_config({"backbone": {"name": "minilm"}, "data": data, "objective": {"label_form": "plain"}})
    assert pack_size("auto", config) == 2
