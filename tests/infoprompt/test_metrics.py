import math

import numpy as np
import pytest

from infoprompt.config import ConfigError
from infoprompt.data.task import Task
from infoprompt.data.tasks import TASKS
from infoprompt.metrics import METRICS, check_metric, class_scores, score, steps_to_share, why_undefined

SEMEVAL = TASKS["semeval2010_task8"]
BINARY = Task("binary", ("no", "yes"), ("no", "yes"), ("accuracy", "macro_f1"), "single")


def official(labels: list[str], predictions: list[str]) -> float:
    ids = [np.array([SEMEVAL.labels.index(name) for name in names]) for names in (labels, predictions)]
    return METRICS["semeval2010_macro_f1"](ids[0], ids[1], SEMEVAL)


def test_binary_metrics_have_their_known_values() -> None:
    labels, predictions = np.array([1, 1, 1, 0, 0]), np.array([1, 1, 0, 0, 1])
    # For class 1: 2 right of 3 predicted and 3 labelled; for class 0: 1 of 2 and 2.
    found = score(BINARY, labels, predictions, list(METRICS)[:4])
    expected = {"accuracy": 0.6, "macro_f1": (2 / 3 + 1 / 2) / 2, "f1": 2 / 3, "matthews": 1 / 6}
    assert found == pytest.approx(expected)


def test_perfect_and_constant_predictions_have_their_known_values() -> None:
    labels = np.array([0, 1, 0, 1])
    assert set(score(BINARY, labels, labels, ["accuracy", "macro_f1", "f1", "matthews"]).values()) == {1.0}
    constant = score(BINARY, labels, np.zeros(4, int), ["f1", "macro_f1", "matthews"])
    assert constant == pytest.approx({"f1": 0, "macro_f1": 1 / 3, "matthews": 0})


def test_a_task_is_scored_by_its_own_metrics_main_one_first() -> None:
    labels = np.arange(19)
    assert list(score(SEMEVAL, labels, labels).items()) == [("semeval2010_macro_f1", 1.0), ("accuracy", 1.0)]


def test_a_wrong_direction_counts_against_precision_and_recall() -> None:
    # Cause-Effect: 1 right, 2 predicted, 2 labelled.
    labels = ["Cause-Effect(e1,e2)", "Cause-Effect(e1,e2)"]
    assert official(labels, ["Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)"]) == pytest.approx(0.5)
    # Called Other instead, it counts against recall alone: 2 * 1 / (1 + 2).
    assert official(labels, ["Cause-Effect(e1,e2)", "Other"]) == pytest.approx(2 / 3)


def test_both_directions_of_a_relation_are_one_class_in_the_mean() -> None:
    labels = ["Cause-Effect(e1,e2)"] * 3 + ["Cause-Effect(e2,e1)"] + ["Message-Topic(e1,e2)"]
    predictions = ["Cause-Effect(e1,e2)"] * 3 + ["Other"] + ["Message-Topic(e1,e2)"]
    # Cause-Effect 2 * 3 / (3 + 4), Message-Topic 1; mean over two relations, not over three directed classes.
    assert official(labels, predictions) == pytest.approx((6 / 7 + 1) / 2)


def test_other_is_left_out_of_the_mean_but_not_of_the_errors() -> None:
    labels = ["Other", "Other", "Message-Topic(e1,e2)"]
    assert official(labels, ["Cause-Effect(e1,e2)", "Other", "Message-Topic(e1,e2)"]) == pytest.approx(1)
    assert official(labels, ["Message-Topic(e2,e1)", "Other", "Message-Topic(e1,e2)"]) == pytest.approx(2 / 3)
    assert official(["Other"], ["Other"]) == 0


def test_the_official_scorer_prints_the_same_figure() -> None:
    # Counts and result printed by semeval2010_task8_scorer-v1.2.pl for one system's 2,717 test predictions:
    # right, predicted in the right or no direction, predicted in the wrong direction, labelled.
    printed = {
        "Cause-Effect": (302, 330, 2, 328),
        "Component-Whole": (240, 293, 10, 312),
        "Content-Container": (173, 210, 2, 192),
        "Entity-Destination": (270, 307, 0, 292),
        "Entity-Origin": (225, 271, 0, 258),
        "Instrument-Agency": (104, 127, 1, 156),
        "Member-Collection": (213, 279, 3, 233),
        "Message-Topic": (239, 305, 1, 261),
        "Product-Producer": (190, 232, 1, 231),
    }
    labels, predictions = [], []
    for relation, (right, predicted, turned, labelled) in printed.items():
        forward, backward = f"{relation}(e1,e2)", f"{relation}(e2,e1)"
        missed, added = labelled - right - turned, predicted - right
        labels += [forward] * labelled + ["Other"] * added
        predictions += [forward] * right + [backward] * turned + ["Other"] * missed + [forward] * added
    assert round(100 * official(labels, predictions), 2) == 83.62


ANSWERS = TASKS["record"]


def answered(*pairs: tuple[list[str], str]) -> dict[str, float]:
    labels = np.empty(len(pairs), dtype=object)
    labels[:] = [right for right, _ in pairs]
    return score(ANSWERS, labels, np.array([given for _, given in pairs]))


def test_answers_are_equal_but_for_case_punctuation_and_articles() -> None:
    assert answered((["U.S. Army"], "the US army"), (["Theo", "Bob"], "bob!")) == {"answer_f1": 1, "exact_match": 1}
    assert answered((["Theo"], "o"), (["cat"], "dog")) == {"answer_f1": 0, "exact_match": 0}  # "the" only as a word
    assert answered((["The"], "cat")) == {"answer_f1": 0, "exact_match": 0}  # nothing is left of the right one


def test_an_answer_is_compared_with_the_right_one_it_is_nearest_to() -> None:
    # 1 of 1 and 2 words shared; against "Bob Hope" nothing. A word counts as often as it stands in both.
    assert answered((["Bob Hope", "Ann Lee"], "Ann")) == pytest.approx({"answer_f1": 2 / 3, "exact_match": 0})
    assert answered((["New York"], "New New York")) == pytest.approx({"answer_f1": 4 / 5, "exact_match": 0})
    found = answered((["Ann Lee"], "Ann"), (["Bob"], "Bob"))
    assert found == pytest.approx({"answer_f1": (2 / 3 + 1) / 2, "exact_match": 1 / 2})


def test_gender_parity_counts_pairs_predicted_the_same_right_or_wrong() -> None:
    axg, labels = TASKS["axg"], np.array([0, 0, 1, 1, 0, 0])
    found = score(axg, labels, np.array([0, 0, 0, 0, 1, 0]))
    assert found == pytest.approx({"accuracy": 3 / 6, "gender_parity": 2 / 3})


TAGS = Task("ner", ("O", "B-x", "I-x", "B-y", "I-y"), ("o", "b", "i", "c", "j"), ("entity_f1", "accuracy"), "tags")
VALUES = Task("similarity", (), (), ("pearson", "spearman"), "regression", (0.0, 5.0))


def sentences(*lists: list[int]) -> np.ndarray:
    array = np.empty(len(lists), dtype=object)
    for index, tags in enumerate(lists):
        array[index] = tags
    return array


def test_an_entity_counts_only_whole_and_of_its_type() -> None:
    labels = sentences([1, 2, 0, 3], [1, 0])
    # Right: the second sentence's. Wrong: too short in the first, and of another type.
    predictions = sentences([1, 0, 0, 1], [1, 0])
    found = score(TAGS, labels, predictions)
    assert found["entity_f1"] == pytest.approx(2 * 1 / (3 + 3))
    assert found["accuracy"] == pytest.approx(4 / 6)  # word by word
    assert score(TAGS, labels, labels) == {"entity_f1": 1.0, "accuracy": 1.0}
    assert score(TAGS, labels, sentences([0] * 4, [0] * 2))["entity_f1"] == 0


def test_an_entity_may_begin_with_an_inner_tag() -> None:
    # As the CoNLL scripts read it: I-x behind O opens an entity of its own.
    assert score(TAGS, sentences([0, 1, 2]), sentences([0, 2, 2]), ["entity_f1"]) == {"entity_f1": 1.0}


def test_sentences_of_equal_length_are_scored_too() -> None:
    assert score(TAGS, sentences([1, 0], [0, 3]), sentences([1, 0], [0, 1]), ["entity_f1"])["entity_f1"] == 0.5


def test_correlations_have_their_known_values() -> None:
    labels = np.array([0.0, 1.0, 2.0, 3.0])
    assert score(VALUES, labels, 2 * labels - 7) == pytest.approx({"pearson": 1, "spearman": 1})
    assert score(VALUES, labels, -labels) == pytest.approx({"pearson": -1, "spearman": -1})
    # A rising curve: ranks agree, lines do not. Pearson of (0, 1, 4, 9) with (0, 1, 2, 3) is 3 / sqrt(9.8).
    assert score(VALUES, labels, labels**2) == pytest.approx({"pearson": 3 / 9.8**0.5, "spearman": 1})
    assert score(VALUES, labels, np.ones(4)) == {"pearson": 0.0, "spearman": 0.0}


def test_scores_need_one_prediction_per_label() -> None:
    with pytest.raises(ValueError, match="There are 2 labels and 1 predictions"):
        score(BINARY, np.array([0, 1]), np.array([0]))
    with pytest.raises(ValueError, match="at least 1"):
        score(BINARY, np.array([]), np.array([]))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acuracy", "evaluation.metric is acuracy.*Did you mean accuracy"),
        ("f1", "needs 2 classes, but banking77 has 77. Use macro_f1"),
        ("semeval2010_macro_f1", "needs labels with a direction"),
        ("gender_parity", "needs pairs of rows that differ in a pronoun, but banking77 has none"),
    ],
)
def test_a_metric_that_does_not_fit_the_task_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_metric(name, TASKS["banking77"])


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("pearson", BINARY, "does not fit binary, a task of the kind single. Use accuracy"),
        ("accuracy", VALUES, "does not fit similarity, a task of the kind regression. Use pearson or spearman"),
        ("accuracy", ANSWERS, "does not fit record, a task of the kind answer. Use answer_f1 or exact_match"),
        ("exact_match", VALUES, "does not fit similarity, a task of the kind regression. Use pearson or spearman"),
        ("answer_f1", BINARY, "does not fit binary, a task of the kind single. Use accuracy"),
        ("entity_f1", BINARY, "needs words tagged B-type"),
        ("entity_f1", Task("pos", ("DET", "NOUN"), ("a", "b"), ("accuracy",), "tags"), "but pos has DET, NOUN"),
    ],
)
def test_a_metric_of_another_kind_is_refused(name: str, task: Task, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_metric(name, task)


@pytest.mark.parametrize("task", [*TASKS.values(), BINARY, TAGS, VALUES])
def test_every_task_names_metrics_that_fit_it(task: Task) -> None:
    for name in task.metrics:
        check_metric(name, task)


def test_steps_to_share_is_the_first_step_near_the_best() -> None:
    curve = [(10, 0.2), (20, 0.76), (30, 0.7), (40, 0.8), (50, 0.6)]
    assert steps_to_share(curve) == 20
    assert steps_to_share(curve, share=1.0) == 40
    assert steps_to_share([(10, -0.5), (20, -0.1)]) == 20
    with pytest.raises(ValueError, match="curve is empty"):
        steps_to_share([])


@pytest.mark.parametrize(
    ("name", "labels", "predictions", "reason"),
    [
        ("pearson", [1.0, 1.0], [1.0, 2.0], "all rows have the same label"),
        ("spearman", [1.0, 2.0], [0.5, 0.5], "all predictions are the same"),
        ("pearson", [1.0], [2.0], "all rows have the same label"),
        ("matthews", [0, 0], [0, 1], "all rows have the same label"),
        ("matthews", [0, 1], [1, 1], "all predictions are the same"),
        ("f1", [0, 0], [0, 1], "no row is of the class yes"),
        ("f1", [0, 1], [0, 0], None),
        ("accuracy", [0, 0], [0, 0], None),
        ("pearson", [1.0, 2.0], [1.0, 3.0], None),
    ],
)
def test_a_score_that_says_nothing_is_zero_and_has_a_reason(name, labels, predictions, reason) -> None:
    labels, predictions = np.array(labels), np.array(predictions)
    assert why_undefined(name, BINARY, labels, predictions) == reason
    if reason:
        assert score(BINARY, labels, predictions, [name]) == {name: 0.0}


def test_a_correlation_is_never_nan_nor_warns() -> None:
    labels = np.array([1.0, 2.0, 3.0])
    nearly = np.array([1e8, 1e8, 1e8 + 1e-8 * 2])
    for predictions in (nearly, np.array([1.0, math.nan, 2.0])):
        for name in ("pearson", "spearman"):
            assert math.isfinite(score(BINARY, labels, predictions, [name])[name])


def test_each_class_has_its_precision_recall_f1_and_support() -> None:
    labels, predictions = np.array([1, 1, 1, 0, 0, 0]), np.array([1, 1, 0, 0, 0, 1])
    three = Task("t", ("no", "yes", "never"), ("no", "yes", "never"), ("accuracy",), "single")
    found = class_scores(three, labels, predictions)
    assert found["yes"] == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "support": 3})
    assert found["never"] == {"precision": 0, "recall": 0, "f1": 0, "support": 0}
    assert class_scores(Task("v", (), (), ("pearson",), "regression", (0, 1)), labels, predictions) == {}


def test_classes_of_tags_are_scored_by_words() -> None:
    tags = Task("t", ("O", "B-x"), ("o", "x"), ("entity_f1",), "tags")
    labels, predictions = (np.empty(2, dtype=object) for _ in range(2))
    labels[:], predictions[:] = [[0, 1, 0], [1]], [[0, 1, 1], [0]]
    assert class_scores(tags, labels, predictions)["B-x"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
