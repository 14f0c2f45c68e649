"""Every kind of task is trained, scored, kept and predicted from, on rows that can be learnt."""

import json
import math
import random
import re
import subprocess
from pathlib import Path

import pytest

from infoprompt import Artifact, Prediction, RunConfig, RunResult
from infoprompt.config import ConfigError, build_config
from infoprompt.data.rows import Example, Span
from infoprompt.evaluate import evaluate_artifact
from infoprompt.train import run
from launcher.cli import main
from launcher.comparison import Outcome
from launcher.report import next_steps

FILL = "the film was it and they car tree".split()


def words(picks: random.Random, word: str) -> list[str]:
    text = picks.choices(FILL, k=picks.randint(2, 5))
    text.insert(picks.randint(0, len(text)), word)
    return text


def span_row(picks: random.Random, good: bool) -> dict:
    word = "good" if good else "bad"
    text = " ".join(words(picks, word))
    return {"text": text, "span": {"start": text.index(word), "end": text.index(word) + len(word)}, "label": word}


def relation_row(picks: random.Random, good: bool) -> dict:
    row = span_row(picks, good)
    row["text"] += " car"
    head = row.pop("span")
    return {**row, "head": head, "tail": {"start": len(row["text"]) - 3, "end": len(row["text"])}}


def tag_row(picks: random.Random, good: bool) -> dict:
    tokens = words(picks, "good" if good else "bad")
    return {"tokens": tokens, "tags": [{"good": "B-praise", "bad": "B-blame"}.get(word, "O") for word in tokens]}


def choice_row(picks: random.Random, good: bool) -> dict:
    choices = [" ".join(words(picks, word)) for word in (("good", "bad") if good else ("bad", "good"))]
    return {"text": "the film", "choices": choices, "label": "choice1" if good else "choice2"}


def value_row(picks: random.Random, good: bool) -> dict:
    return {"text": " ".join(words(picks, "good" if good else "bad")), "value": 4.0 if good else 1.0}


def pair_row(picks: random.Random, good: bool) -> dict:
    word = "good" if good else "bad"
    return {"text_a": " ".join(words(picks, "the")), "text_b": f"it was {word}", "label": word}


def single_row(picks: random.Random, good: bool) -> dict:
    return {"text": " ".join(words(picks, "good" if good else "bad")), "label": "good" if good else "bad"}


ROWS = {
    "single": (single_row, "accuracy", 0.9),
    "pair": (pair_row, "accuracy", 0.9),
    "span": (span_row, "accuracy", 0.9),
    "relation": (relation_row, "accuracy", 0.9),
    "tags": (tag_row, "entity_f1", 0.9),
    "choice": (choice_row, "accuracy", 0.8),
    "regression": (value_row, "pearson", 0.7),
}
GIVEN = {
    "single": "it was good",
    "pair": Example("the film", pair="it was good"),
    "span": Example("it was good", span=Span(7, 11)),
    "relation": Example("good car", head=Span(0, 4), tail=Span(5, 8)),
    "tags": "it was good",
    "choice": Example("the film", choices=("it was bad", "it was good")),
    "regression": "it was good",
}


def shown_to_try(result: RunResult, config: RunConfig, monkeypatch, capsys) -> None:
    """Do what training says, as a shell reads it, and what the model card says."""
    outcome = Outcome("toy", result.as_json())
    (line,) = [line for line in next_steps(outcome, config).splitlines() if line.startswith("try it")]
    split = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line.removeprefix('try it')}"], capture_output=True, check=True
    )
    _, *words = split.stdout.decode().split("\0")[:-1]
    monkeypatch.setattr("sys.argv", ["infoprompt", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None), capsys.readouterr().err
    (answer,) = capsys.readouterr().out.splitlines()
    card = (Path(result.artifact) / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0]
    exec(compile(code.replace("this folder", result.artifact), "card", "exec"), {})
    (prediction,) = eval(capsys.readouterr().out, {"Prediction": Prediction})
    assert prediction.label == answer.split("\t")[0]
    assert f"{result.trained_parameters:,} trained parameters" in card


@pytest.mark.parametrize("kind", ROWS)
def test_a_kind_of_task_is_learnt_kept_and_predicted(kind, toy_settings, tmp_path, monkeypatch, capsys):
    row, metric, enough = ROWS[kind]
    picks = random.Random(0)
    files = {}
    for part, count in (("train", 96), ("test", 32)):
        files[part] = str(tmp_path / f"{part}.jsonl")
        rows = [json.dumps(row(picks, bool(index % 2))) for index in range(count)]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(rows))
    settings = {**toy_settings, "data": {**files, "batch_size": 8}, "optim": {"lr": 2e-2, "epochs": 6}}
    result = run(build_config(settings))
    assert result.metric == metric
    assert result.test[metric] >= enough
    artifact = Artifact.from_pretrained(result.artifact)
    assert artifact.task.kind == kind
    assert evaluate_artifact(artifact, files["test"], {}) == pytest.approx(result.test)
    shown_to_try(result, build_config(settings), monkeypatch, capsys)
    (prediction,) = artifact.predict([GIVEN[kind]])
    if kind == "regression":
        assert prediction.value == pytest.approx(4, abs=1.5)
    elif kind == "tags":
        assert prediction.tags == ("O", "O", "B-praise")
    else:
        assert prediction.label == ("choice2" if kind == "choice" else "good")
        assert math.isclose(sum(prediction.probabilities.values()), 1, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "data.template is not given, which says where a choice stands"),
        *(
            ({"data": {"template": template}}, "Put {choice} once, at the end")
            for template in ("{choice} : {text}", "{choice}", " {choice}", "{text} {choice}s", "{choice} {choice}")
        ),
        ({"data": {"template": "task", "chat": True}}, "data.chat is true, but head.kind is choice_text"),
        (
            {"data": {"template": "task"}, "prompt": {"kind": "static"}, "head": {"fit": "gradient"}},
            "prompt.template is warp, but head.kind is choice_text",
        ),
        (
            {"data": {"template": "task"}, "head": {"kind": "label_words"}},
            "which it does not score. Use head.kind=linear or, of a decoder, head.kind=choice_text",
        ),
    ],
)
def test_choices_that_cannot_be_asked_for_are_refused(changes, told, toy_settings, tiny_backbones, tmp_path):
    picks = random.Random(0)
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(choice_row(picks, bool(row % 2))) for row in range(8)))
    settings = {
        **toy_settings,
        "backbone": {"name": tiny_backbones["llama"]},
        "objective": {"head_weight": 0, "representation_weight": 0},
        "data": {"train": str(tmp_path / "rows.jsonl"), **changes.get("data", {})},
        "prompt": {"kind": "none", **changes.get("prompt", {})},
        "head": {"kind": "choice_text", "fit": "start", **changes.get("head", {})},
    }
    with pytest.raises(ConfigError, match=re.escape(told)):
        run(build_config(settings))


def test_other_rows_than_choices_say_that_they_are(toy_settings, tiny_backbones):
    settings = {**toy_settings, "backbone": {"name": tiny_backbones["llama"]}, "prompt": {"kind": "none"}}
    settings["objective"] = {"head_weight": 0, "representation_weight": 0}
    settings["data"] = {**toy_settings["data"], "template": "task"}
    settings["head"] = {"kind": "choice_text", "fit": "start"}
    with pytest.raises(ConfigError, match=r"head.kind is choice_text, but .* is of the kind single, which it does not"):
        run(build_config(settings))


@pytest.mark.parametrize(
    ("trained", "enough"),
    [
        ({"head": {"fit": "start"}, "prompt": {"kind": "none"}}, 0),
        ({"prompt": {"kind": "static", "length": 8, "template": "front"}}, 0.8),
        ({"prompt": {"kind": "prefix", "length": 4}}, 0.8),
    ],
)
def test_a_decoder_is_asked_for_choices_and_a_prompt_teaches_it(
    trained, enough, toy_settings, tiny_backbones, tmp_path
):
    picks, files = random.Random(0), {}
    for part, count in (("train", 96), ("test", 32)):
        files[part] = str(tmp_path / f"{part}.jsonl")
        rows = [json.dumps(choice_row(picks, bool(index % 2))) for index in range(count)]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(rows))
    settings = {
        **toy_settings,
        "backbone": {"name": tiny_backbones["llama"]},
        "data": {**files, "batch_size": 8, "template": "{text} {choice}"},
        "objective": {"head_weight": 0, "representation_weight": 0},
        "optim": {"lr": 1e-1, "epochs": 10},
        **trained,
        "head": {"kind": "choice_text", "length_normalization": True, **trained.get("head", {})},
    }
    result = run(build_config(settings))
    assert (result.steps > 0) == (enough > 0)
    assert result.test["accuracy"] >= enough
    artifact = Artifact.from_pretrained(result.artifact)
    assert evaluate_artifact(artifact, files["test"], {}) == pytest.approx(result.test)
    with pytest.raises(ValueError, match="Example 1 has a choice without text"):
        artifact.predict([Example("the film", choices=("it was good", " "))])
    (prediction,) = artifact.predict([GIVEN["choice"]])
    assert sum(prediction.probabilities.values()) == pytest.approx(1)
    assert not enough or prediction.label == "choice2"


def record_row(picks: random.Random, number: int) -> dict:
    """A news text with three entities, of which a good thing is the answer, as SuperGLUE publishes it."""
    names = [picks.choice(kinds) for kinds in (("good", "great"), ("tree", "car"), ("bank", "card"))]
    picks.shuffle(names)
    text = f"{' '.join(picks.choices(FILL, k=3))}\n@highlight\n{' '.join(names)}"
    places = [{"start": text.index(name), "end": text.index(name) + len(name) - 1} for name in names]
    answers = [{"text": name} for name in names if name in ("good", "great")]
    asked = {"query": "it was @placeholder", "answers": answers, "idx": number}
    return {"source": "x", "passage": {"text": text, "entities": places}, "qas": [asked], "idx": number}


def test_answers_are_learnt_by_candidate_and_scored_by_question(toy_settings, tmp_path, monkeypatch, capsys):
    picks = random.Random(0)
    (tmp_path / "ReCoRD").mkdir()
    for part, count in (("train", 64), ("val", 24)):
        rows = "".join(json.dumps(record_row(picks, number)) + "\n" for number in range(count))
        (tmp_path / "ReCoRD" / f"{part}.jsonl").write_text(rows)
    data = {"task": "record", "folder": str(tmp_path), "batch_size": 8}
    result = run(build_config({**toy_settings, "data": data, "optim": {"lr": 2e-2, "epochs": 6}}))
    assert result.metric == "answer_f1"
    assert result.test["exact_match"] == result.test["answer_f1"] >= 0.9  # by chance 1 of 3
    kept = json.loads((tmp_path / "run" / "predictions.json").read_text())
    assert len(kept["labels"]) == len(kept["predictions"]) == 24
    right = [given in answers for given, answers in zip(kept["predictions"], kept["labels"], strict=True)]
    assert sum(right) / 24 == result.test["exact_match"]
    artifact = Artifact.from_pretrained(result.artifact)
    assert evaluate_artifact(artifact, str(tmp_path / "ReCoRD" / "val.jsonl"), {}) == pytest.approx(result.test)
    shown_to_try(result, build_config({**toy_settings, "data": data}), monkeypatch, capsys)
    (prediction,) = artifact.predict([Example("the film. good car.", pair="it was good")])
    assert prediction.probabilities.keys() == {"false", "true"}


def test_an_artifact_names_the_columns_that_an_example_lacks(toy_settings):
    artifact = Artifact.from_pretrained(run(build_config({**toy_settings, "optim": {"max_steps": 1}})).artifact)
    with pytest.raises(ValueError, match="Example 1 is of the kind choice, but this prompt reads `text`"):
        artifact.predict([GIVEN["choice"]])
