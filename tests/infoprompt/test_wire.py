"""What ranks send each other comes back as it was, and nothing else can be sent."""

import math
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from infoprompt.wire import decoded, encoded


def same(first, second):
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, (list, tuple)):
        return type(first) is type(second) and len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, dict):
        return list(first) == list(second) and all(map(same, first.values(), second.values()))
    return type(first) is type(second) and repr(first) == repr(second)  # NaN is not equal to itself


@pytest.mark.parametrize(
    "value",
    [
        None,
        [0.1, -math.inf, math.nan, 2**70, True, "é\n"],
        {0: (1, [2.5], {}), "dict": {"tensor": "0", "list": []}, None: ()},
        torch.tensor(3.0),
        [(torch.arange(6).view(2, 3).T, torch.zeros(0, 4, dtype=torch.bfloat16)), torch.tensor([True])],
        {"trained": {"a": torch.randn(3)}, "twice": [torch.ones(2).expand(3, 2)] * 2},
    ],
    ids=["none", "plain", "nested", "tensor", "tensors", "state"],
)
def test_a_value_comes_back_as_it_was(value):
    assert same(value, decoded(encoded(value)))


@pytest.mark.parametrize("value", [{1, 2}, object(), ValueError("x"), [b"bytes"], {"a": print}])
def test_what_is_no_plain_value_is_refused(value):
    with pytest.raises(TypeError, match="cannot be sent to other ranks"):
        encoded(value)


def test_nothing_that_is_sent_is_run(tmp_path):
    class Bad:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'run')!r}, 'w')",))

    sent = pickle.dumps(Bad())
    for data in (sent, len(sent).to_bytes(8, "little") + sent):
        with pytest.raises((ValueError, SafetensorError)):
            decoded(data)
    assert not (tmp_path / "run").exists()


def test_no_module_of_ours_unpickles_what_other_ranks_send():
    root = Path(__file__).parents[2]
    words = ("gather_object(", "object_list(", "pickle.load", "scatter_object")
    files = [*(root / "infoprompt").rglob("*.py"), *(root / "launcher").rglob("*.py")]
    assert [path.name for path in files for word in words if word in path.read_text()] == []
