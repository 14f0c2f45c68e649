"""Batches whose rows use different prompts give what each artifact gives alone."""

import pytest

from infoprompt.artifact import Artifact
from infoprompt.artifact_files import ArtifactError
from infoprompt.artifact_set import ArtifactSet
from infoprompt.data.rows import Example, Span

STATIC = {"kind": "static", "init": "random"}
# name: prompt, head, task
BERT = {
    "short": ({**STATIC, "length": 2}, {"pooling": "mask"}, {}),
    "long": ({**STATIC, "length": 7, "template": "front"}, {"pooling": "mean"}, {"labels": ("no", "yes"), "n": 2}),
    "before": ({**STATIC, "length": 7, "template": "before"}, {"pooling": "first"}, {}),
    "residual": ({"kind": "residual", "init": "random", "length": 3}, {"pooling": "last"}, {}),
    "instance": ({"kind": "instance", "init": "random", "length": 4}, {"pooling": "mean"}, {}),
    "prefix": ({"kind": "prefix", "length": 3}, {"pooling": "mean"}, {}),
    "longer_prefix": ({"kind": "prefix", "length": 6}, {"pooling": "mask"}, {}),
    "adaption": ({"kind": "adaption_prompt", "length": 4}, {"pooling": "mean"}, {}),
    "longer_adaption": ({"kind": "adaption_prompt", "length": 5}, {"pooling": "mean"}, {}),
    "table": ({"kind": "ipt", "init": "random", "length": 5}, {"pooling": "mean"}, {}),
    "table_prefix": ({"kind": "ipt", "init": "random", "length": 2, "mode": "prefix"}, {"pooling": "mean"}, {}),
    "every_layer": ({"kind": "instance_layers", "init": "random", "length": 3}, {"pooling": "mean"}, {}),
    "late": ({"kind": "lpt", "length": 4, "layer": 1}, {"pooling": "mean"}, {}),
    "words": ({**STATIC, "length": 2}, {"kind": "label_words", "pooling": "mask"}, {}),
    "variational": ({**STATIC, "length": 2}, {"kind": "variational", "pooling": "mask"}, {}),
    "none": ({"kind": "none"}, {"pooling": "mean"}, {}),
    "other": ({"kind": "instance", "init": "random", "source": "other"}, {"pooling": "mean"}, {}),
    "pair": ({**STATIC, "length": 3}, {"pooling": "mean"}, {"kind": "pair"}),
    "relation": ({**STATIC, "length": 3}, {"pooling": "entities"}, {"kind": "relation"}),
}
DECODER = {
    "short": ({**STATIC, "length": 2}, {"pooling": "last"}, {}),
    "instance": ({"kind": "instance", "init": "random", "length": 4}, {"pooling": "mean"}, {}),
    "prefix": ({"kind": "prefix", "length": 3}, {"pooling": "last"}, {}),
    "every_layer": ({"kind": "instance_layers", "init": "random", "length": 3}, {"pooling": "last"}, {}),
    "text": ({**STATIC, "length": 2}, {"kind": "text", "pooling": "last"}, {}),
    "words": ({"kind": "prefix", "length": 5}, {"kind": "label_words", "pooling": "last"}, {}),
}
PREFIXES = {
    "short": ({**STATIC, "length": 2}, {"pooling": "mean"}, {}),
    "prefix": ({"kind": "prefix", "length": 3}, {"pooling": "mean"}, {}),
    "longer_prefix": ({"kind": "prefix", "length": 6}, {"pooling": "mean"}, {}),
}
TEXTS = ("a film", "the money was stolen and they have lost a bank card", "great", "it is not bad at all")


@pytest.fixture
def make_set(make_artifact, tmp_path):
    """A function that writes artifacts over one backbone and loads them as a set."""

    def make(backbone: str, rows: dict, **loading) -> ArtifactSet:
        for seed, (name, (prompt, head, task)) in enumerate(rows.items()):
            fields = dict(task)
            if fields.pop("n", None):
                fields["label_texts"] = fields["labels"]
            objective = {"head_weight": 0, "representation_weight": 0, "latent_size": 8}
            make_artifact(
                backbone,
                name,
                task=fields,
                seed=seed,
                prompt=prompt,
                head={"kind": "linear", **head},
                objective=objective,
            )
        return ArtifactSet.from_pretrained({name: tmp_path / name for name in rows}, **loading)

    return make


def example_for(artifact: Artifact, text: str) -> Example:
    if artifact.task.kind == "pair":
        return Example(text=text, pair="the other one")
    if artifact.task.kind == "relation":
        return Example(text=f"{text} and car", head=Span(0, 1), tail=Span(len(text) + 5, len(text) + 8))
    return Example(text=text)


def assert_same_as_alone(mixed: ArtifactSet, names: list[str], batch_size: int) -> None:
    examples = [example_for(mixed[name], TEXTS[index % len(TEXTS)]) for index, name in enumerate(names)]
    found = mixed.predict(examples, names, batch_size)
    for name in mixed.artifacts:
        rows = [index for index, other in enumerate(names) if other == name]
        alone = mixed[name].predict([examples[index] for index in rows])
        for index, expected in zip(rows, alone, strict=True):
            # float32 rounding: other lengths of padding, other batch sizes
            assert found[index].probabilities == pytest.approx(expected.probabilities, abs=1e-5), name


@pytest.mark.parametrize(
    ("family", "rows"),
    [
        ("bert", BERT),
        ("llama", DECODER),
        ("gemma2", {"prefix": DECODER["prefix"], "words": DECODER["words"]}),
        *[(family, PREFIXES) for family in ("t5", "bart", "deberta-v2", "albert", "modernbert", "gpt2")],
    ],
)
@pytest.mark.parametrize("batch_size", [64, 5])
def test_any_mixture_gives_what_each_artifact_gives_alone(family, rows, batch_size, tiny_backbones, make_set):
    mixed = make_set(tiny_backbones[family], rows)
    names = [name for repeat in range(3) for name in (rows if repeat % 2 else reversed(rows))]
    assert_same_as_alone(mixed, names, batch_size)


def test_tags_values_and_choices_mix_too(tiny_bert, make_set):
    prompt, head = {**STATIC, "length": 2}, {"pooling": "mean"}
    rows = {
        "tags": (prompt, head, {"kind": "tags", "labels": ("O", "B-a"), "n": 2}),
        "value": ({"kind": "prefix", "length": 2}, head, {"kind": "regression", "labels": (), "n": 1, "scale": (0, 5)}),
        "choice": (prompt, head, {"kind": "choice", "labels": ("choice1", "choice2"), "n": 2}),
    }
    mixed = make_set(tiny_bert, rows)
    examples = [
        Example(text="the film", words=("the", "film")),
        Example(text="the film was good"),
        Example(text="the film was", choices=("good", "bad and awful")),
        Example(text="a", words=("a",)),
        Example(text="it was", choices=("a car", "money")),
    ]
    names = ["tags", "value", "choice", "tags", "choice"]
    found = mixed.predict(examples, names)
    for example, name, prediction in zip(examples, names, found, strict=True):
        alone = mixed[name].predict([example])[0]
        assert prediction.tags == alone.tags
        assert prediction.probabilities == pytest.approx(alone.probabilities, abs=1e-5)
        if alone.value is not None:
            assert prediction.value == pytest.approx(alone.value, abs=1e-4)


def test_one_backbone_serves_all(tiny_bert, make_set):
    mixed = make_set(tiny_bert, {name: BERT[name] for name in ("short", "instance", "prefix")})
    backbones = {id(artifact.model.backbone) for artifact in mixed.artifacts.values()}
    assert len(backbones) == 1
    weights = {id(weight): weight for artifact in mixed.artifacts.values() for weight in artifact.model.parameters()}
    frozen = sum(weight.numel() for weight in weights.values() if not weight.requires_grad)
    assert frozen == sum(weight.numel() for weight in mixed["short"].model.backbone.parameters())


def test_a_mixed_batch_takes_one_pass_and_one_more_for_plain_states(tiny_bert, make_set, monkeypatch):
    names = ["short", "long", "prefix", "longer_prefix", "every_layer", "instance"]
    mixed = make_set(tiny_bert, {name: BERT[name] for name in names})
    passes = []
    backbone = mixed["short"].model.backbone
    forward = backbone.forward
    monkeypatch.setattr(backbone, "forward", lambda states, *rest: passes.append(len(states)) or forward(states, *rest))
    mixed.predict(list(TEXTS[:3]) * 2, names)
    assert passes == [1, 6]


def test_artifacts_of_different_backbones_are_refused(tiny_backbones, make_artifact, tmp_path):
    make_artifact(tiny_backbones["bert"], "one", prompt={**STATIC, "length": 2})
    make_artifact(tiny_backbones["electra"], "two", prompt={**STATIC, "length": 2})
    folders = {name: tmp_path / name for name in ("one", "two")}
    with pytest.raises(ArtifactError, match="two was made for another backbone"):
        ArtifactSet.from_pretrained(folders)
    with pytest.raises(ArtifactError, match="other weights"):
        ArtifactSet.from_pretrained({"one": tmp_path / "one"}, backbone=tiny_backbones["electra"])
    with pytest.raises(ArtifactError, match="no artifact"):
        ArtifactSet.from_pretrained({})


def test_an_artifact_that_trained_its_backbone_is_refused(tiny_bert, make_artifact, tmp_path):
    backbone = {"name": tiny_bert, "frozen": False}
    make_artifact(tiny_bert, "tuned", prompt={**STATIC, "length": 2}, backbone=backbone)
    with pytest.raises(ArtifactError, match="tuned has trained its backbone"):
        ArtifactSet.from_pretrained({"tuned": tmp_path / "tuned"})


def test_names_must_be_known_and_as_many_as_examples(tiny_bert, make_set):
    mixed = make_set(tiny_bert, {"short": BERT["short"]})
    with pytest.raises(ValueError, match="2 examples and 1 names"):
        mixed.predict(["a", "b"], ["short"])
    with pytest.raises(ValueError, match=r"Example 2 names the prompt 'shrot', but there are only short"):
        mixed.predict(["a", "b"], ["short", "shrot"])


def test_an_example_of_another_kind_is_named_by_its_place_among_all(tiny_bert, make_set):
    mixed = make_set(tiny_bert, {name: BERT[name] for name in ("short", "pair")})
    with pytest.raises(ValueError, match=r"Example 2 is of the kind single, but this prompt reads `text_a`"):
        mixed.predict(["a", "b"], ["short", "pair"])
