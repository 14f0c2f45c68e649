"""Tasks that are only tested on, with prompts trained on others."""

import json

import pytest

from infoprompt.config import ConfigError, DataSettings
from infoprompt.data.published_formats import adapter
from infoprompt.data.rows import Example, read_examples
from infoprompt.data.splits import load_splits
from infoprompt.data.task_files import find_task_files
from infoprompt.data.tasks import TASKS
from infoprompt.evaluate import evaluate_artifact
from infoprompt.metrics import score

NLI, RTE = TASKS["mnli"], TASKS["rte"]
AXB = [
    {"sentence1": "The film was good.", "sentence2": "The film was not good.", "logic": "Negation"},
    {"sentence1": "All of the cars have wheels.", "sentence2": "The car has a wheel.", "logic": "Universal"},
    {"sentence1": "They lost the card.", "sentence2": "The card was lost.", "logic": ""},
    {"sentence1": "She was in the forest.", "sentence2": "She was at the water.", "knowledge": "World knowledge"},
]
AXB = [{**row, "idx": n, "label": ("not_entailment", "entailment")[n in (1, 2)]} for n, row in enumerate(AXB)]
PRONOUNS = [
    ("The bank told the engineer that he had lost the card.", "The engineer had lost the card."),
    ("The bank told the engineer that she had lost the card.", "The engineer had lost the card."),
    ("The producer told the member that he was late.", "The producer was late."),
    ("The producer told the member that she was late.", "The producer was late."),
]
AXG = [
    {"premise": premise, "hypothesis": hypothesis, "label": "entailment", "idx": n, "pair_id": 551 + n}
    for n, (premise, hypothesis) in enumerate(PRONOUNS)
]
HEADER = "Lexical Semantics\tPredicate-Argument Structure\tLogic\tKnowledge\tDomain\tPremise\tHypothesis\tLabel"
AX = [HEADER, *(f'\t\tNegation\t\t\tThe "{n}" film.\tThe film {n}.\t{label}' for n, label in enumerate(NLI.labels * 2))]


@pytest.fixture
def folder(tmp_path):
    """The published files, in the folders of their archives."""
    for name, rows in (("AX-b", AXB), ("AX-g", AXG)):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "ax").mkdir()
    (tmp_path / "ax" / "diagnostic-full.tsv").write_text("\n".join(AX) + "\n")
    return tmp_path


def file_of(name, folder):
    return find_task_files(TASKS[name], str(folder)).test


def trained_on(task, make_artifact, tiny_bert):
    fields = {"name": task.name, "labels": task.labels, "label_texts": task.label_texts, "kind": "pair"}
    return make_artifact(tiny_bert, task=fields, prompt={"kind": "static"})


def test_the_published_files_are_found_and_read(folder):
    read = {name: read_examples(file_of(name, folder), {}, adapt=adapter(TASKS[name])) for name in ("ax", "axb", "axg")}
    assert read["ax"][1] == Example('The "1" film.', pair="The film 1.", label="neutral")
    assert read["axb"][0] == Example("The film was good.", pair="The film was not good.", label="not_entailment")
    assert read["axg"][0] == Example(*PRONOUNS[0], label="entailment")
    assert [len(read[name]) for name in read] == [6, 4, 4]


def test_a_file_without_labels_is_none_to_test_on(tmp_path):
    (tmp_path / "ax").mkdir()
    (tmp_path / "ax" / "test.tsv").write_text("index\tsentence1\tsentence2\n0\ta\tb\n")
    assert find_task_files(TASKS["ax"], str(tmp_path)) is None


@pytest.mark.parametrize(("name", "trained"), [("ax", NLI), ("axb", NLI), ("axg", NLI), ("axb", RTE), ("axg", RTE)])
def test_a_prompt_is_scored_by_the_diagnostics_own_classes_and_metrics(name, trained, folder, make_artifact, tiny_bert):
    artifact = trained_on(trained, make_artifact, tiny_bert)
    file, task = file_of(name, folder), TASKS[name]
    examples = read_examples(file, {}, adapt=adapter(task))
    said = [prediction.label for prediction in artifact.predict(examples)]
    if name != "ax":
        said = [label if label == "entailment" else "not_entailment" for label in said]
    labels, predictions = ([task.labels.index(label) for label in part] for part in ([e.label for e in examples], said))
    assert evaluate_artifact(artifact, file, {}, task=name) == score(task, labels, predictions)


def test_a_prompt_that_tells_other_classes_apart_is_refused(folder, make_artifact, tiny_bert):
    artifact = trained_on(RTE, make_artifact, tiny_bert)
    with pytest.raises(ConfigError, match=r"ax has pairs of texts of the classes entailment, neutral.*data\.task=mnli"):
        evaluate_artifact(artifact, file_of("ax", folder), {}, task="ax")
    films = make_artifact(tiny_bert, prompt={"kind": "static"})
    with pytest.raises(ConfigError, match=r"this prompt was trained on single texts of the classes bad, good, other"):
        evaluate_artifact(films, file_of("axb", folder), {}, task="axb")


def test_a_label_that_the_task_does_not_have_is_refused(tmp_path, make_artifact, tiny_bert):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"sentence1": "a", "sentence2": "b", "label": "neutral"}))
    with pytest.raises(ConfigError, match=r"line 1 of .* has the label 'neutral', but axb has no such label"):
        evaluate_artifact(trained_on(NLI, make_artifact, tiny_bert), str(tmp_path / "rows.jsonl"), {}, task="axb")


@pytest.mark.parametrize("rows", [AXG[:3], [AXG[0], AXG[2], AXG[1], AXG[3]]])
def test_rows_that_are_no_neighbouring_pairs_have_no_gender_parity(rows, tmp_path, make_artifact, tiny_bert):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError, match="not pairs of neighbours with the same hypothesis"):
        evaluate_artifact(trained_on(RTE, make_artifact, tiny_bert), str(tmp_path / "rows.jsonl"), {}, task="axg")


@pytest.mark.parametrize(("name", "use"), [("ax", "mnli"), ("axb", "rte"), ("axg", "rte")])
def test_training_on_a_diagnostic_task_is_refused_with_the_way_out(name, use, folder):
    way_out = rf"data\.task is {name}, .* Train with data\.task={use}, .*`infoprompt evaluate ARTIFACT --task {name}`"
    for settings in ({"folder": str(folder)}, {"train": file_of(name, folder)}):
        with pytest.raises(ConfigError, match=way_out):
            load_splits(DataSettings(task=name, **settings), 0)
