"""`infoprompt bench pack` times the same updates both ways, and says which targets are met."""

import json

from launcher.bench.packs import _targets


def test_both_ways_are_timed_on_the_same_rows(infoprompt, tiny_bert, tmp_path):
    found = tmp_path / "found.json"
    options = ["--backbone", tiny_bert, "--members", "1,2", "--rounds", "2", "--steps", "2", "--lengths", "24"]
    methods = ["--method", "prompt tuning", "--method", "InfoPrompt", "--prompt-length", "3", "--batch", "4"]
    done = infoprompt("bench", "pack", *options, *methods, "--dtype", "float32", "--json", found)
    assert done.returncode == 0, done.stderr
    rows = json.loads(found.read_text())["rows"]
    assert [(row["runs"], row["contender"]) for row in rows] == [
        (count, name) for count in (1, 2) for name in ("one after another", "in a pack")
    ]
    for apart, packed in zip(rows[::2], rows[1::2], strict=True):
        assert len(apart["seconds"]) == len(packed["seconds"]) == 2
        assert abs(apart["loss"] - packed["loss"]) < 1.0
    assert "8 runs in a pack, against one after another" in done.stdout


def test_an_unknown_method_or_number_is_named(infoprompt):
    for option, value, rule in (("--method", "lora", "prefix tuning"), ("--members", "two", "as in 8,32")):
        done = infoprompt("bench", "pack", option, value)
        assert done.returncode == 2
        assert f"{option} is '{value}'" in done.stderr
        assert rule in done.stderr


def test_targets_are_those_of_the_device():
    assert [target.met for target in _targets({1: 1.0, 8: 1.2}, "minilm", on_gpu=False)] == [True, True]
    assert [target.met for target in _targets({1: 0.9, 8: 1.0}, "minilm", on_gpu=False)] == [False, False]
    assert [target.met for target in _targets({8: 3.1}, "roberta-large-shape", on_gpu=True)] == [True]
    assert [target.met for target in _targets({8: 3.1}, "minilm", on_gpu=True)] == [None]
