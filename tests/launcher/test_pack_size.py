"""`pack: auto` fills a pass and the memory, and no more."""

import json
from dataclasses import replace

import pytest

from infoprompt.config import build_config
from launcher import pack_size as module
from launcher.pack_size import MOST, TOKENS_ON_CPU, pack_size
from launcher.pool.needs import Needs

# torch hides it, but not where warnings are errors
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture
def plain_rows(tmp_path):
    """A file of rows of six words: eight tokens with BERT's own two."""
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps({"text": "good movie and great film was", "label": n % 2}) + "\n" for n in range(256))
    )
    return str(path)


def run_of(tiny_bert, rows, **data):
    static = {"kind": "static", "length": 24}
    objective = {"head_weight": 0, "representation_weight": 0, "label_form": data.pop("label_form", "off")}
    data = {"train": rows, "validation": rows, **data}
    return build_config({"backbone": {"name": tiny_bert}, "data": data, "prompt": static, "objective": objective})


def needs(**changes):
    return replace(Needs("run", 1, 1.0, 0.0, "PACK", 1, 10.0), **changes)


@pytest.mark.parametrize(
    ("data", "where", "tokens"),
    [
        ({"batch_size": 32}, {}, 32 * 32),
        ({"batch_size": 64}, {}, 64 * 32),
        ({"batch_size": 64, "micro_batch_size": 16}, {}, 16 * 32),
        ({"batch_size": 64}, {"workers": 4}, 16 * 32),
        ({"batch_size": 256}, {}, TOKENS_ON_CPU),  # a run alone is more than enough
        ({"batch_size": 1}, {}, TOKENS_ON_CPU / MOST),
    ],
)
def test_as_many_runs_as_fill_a_pass(data, where, tokens, tiny_bert, plain_rows):
    config = run_of(tiny_bert, plain_rows, **data)
    assert pack_size("auto", config, needs(**where)) == max(1, int(TOKENS_ON_CPU // tokens))
    assert pack_size(3, config, needs(**where)) == 3


def test_rows_without_labels_fill_it_too(tiny_bert, plain_rows, tmp_path):
    texts = tmp_path / "more.txt"
    texts.write_text("".join(f"great {'movie ' * (n % 3)}{'film ' * (2 - n % 3)}was bad {n}\n" for n in range(300)))
    more = {"unlabelled": str(texts), "batch_size": 16, "unlabelled_batch": 16, "label_form": "plain"}
    # a text has a token or two more than a row
    assert pack_size("auto", run_of(tiny_bert, plain_rows, **more), needs()) == TOKENS_ON_CPU // (16 * 32 + 16 * 34)
    alone = {"batch_size": 16}
    assert pack_size("auto", run_of(tiny_bert, plain_rows, **alone), needs()) == TOKENS_ON_CPU // (16 * 32)


def test_no_more_runs_than_memory_holds(tiny_bert, plain_rows, monkeypatch):
    import launcher.plan.plan

    config = run_of(tiny_bert, plain_rows, batch_size=16)
    whole = launcher.plan.plan.make_plan(config, None, 1)
    monkeypatch.setattr(module, "MEMORY_SHARE", 1.0)
    memory = whole.memory.peak + 2 * whole.memory.member
    small = replace(whole, device=replace(whole.device, memory_bytes=2 * memory))
    monkeypatch.setattr(launcher.plan.plan, "make_plan", lambda *arguments: small)
    assert whole.memory.fitting(memory) == 3
    assert pack_size("auto", config, needs(most_groups=2)) == 3
    assert pack_size("auto", config, needs(most_groups=1)) == 6
    assert pack_size("auto", config, needs(most_groups=100)) == 1
