"""How predictions are scored. A metric is a function in `METRICS`."""

import difflib
import math
import re
import string
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import ConstantInputWarning, NearConstantInputWarning, pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, precision_recall_fscore_support

from infoprompt.config import ConfigError
from infoprompt.data.task import Task, is_bio

Metric = Callable[[np.ndarray, np.ndarray, Task], float]


def accuracy(labels: np.ndarray, predictions: np.ndarray, task: Task) -> float:
    """Share of rows predicted right."""
    return float(accuracy_score(labels, predictions))


def macro_f1(labels: np.ndarray, predictions: np.ndarray, task: Task) -> float:
    """F1 averaged over the classes that occur among labels or predictions."""
    return float(f1_score(labels, predictions, average="macro", zero_division=0))


def f1(labels: np.ndarray, predictions: np.ndarray, task: Task) -> float:
    """F1 of the second class; for tasks of two."""
    return float(f1_score(labels, predictions, pos_label=1, zero_division=0))


def matthews(labels: np.ndarray, predictions: np.ndarray, task: Task) -> float:
    """Matthews correlation, between -1 and 1; 0 where only one class is predicted."""
    return float(matthews_corrcoef(labels, predictions))


def semeval2010_macro_f1(labels: np.ndarray, predictions: np.ndarray, task: Task) -> float:
    """The official score of SemEval-2010 Task 8: macro F1 over the relations, direction counted, `Other` left out.

    A relation is right only in the right direction. Its precision is taken over its predictions in either direction,
    its recall over its labels in either direction, so a wrong direction counts against both:

        F1 = 2 * right / (predicted + labelled)

    As in the official scorer, the mean is over the relations that occur among the labels (all nine in the test rows).

    Source: Hendrickx et al. 2010, SemEval-2010 Task 8, section 4; scorer version 1.2.
    """
    relation_of_class = np.array([label.partition("(")[0] for label in task.labels])
    labelled, predicted = relation_of_class[labels], relation_of_class[predictions]
    scores = []
    for relation in set(labelled.tolist()) - {"Other"}:
        right = np.sum((labels == predictions) & (labelled == relation))
        scores.append(2 * right / (np.sum(predicted == relation) + np.sum(labelled == relation)))
    return float(np.mean(scores)) if scores else 0.0


def gender_parity(labels: np.ndarray, predictions: np.ndarray, task: Task) -> float:
    """Share of pairs predicted the same, right or wrong; the rows of a pair are neighbours and differ in a pronoun.

    Source: Rudinger et al. 2018, arXiv:1804.09301, as used by Wang et al. 2019, arXiv:1905.00537, section 3.3.
    """
    return float(np.mean(predictions[::2] == predictions[1::2]))


def entity_f1(labels: np.ndarray, predictions: np.ndarray, task: Task) -> float:
    """F1 over entities: one is right only if its type, its first and its last word are.

    Args:
        labels, predictions: arrays of one list of tag indices per sentence.
        task: its classes are BIO tags. An I that follows nothing of its type opens an entity, as in conlleval.

    Source: seqeval (Nakayama 2018), which agrees with the CoNLL-2000 script.
    """
    from seqeval.metrics import f1_score as entity_f1_score

    named = [[[task.labels[tag] for tag in tags] for tags in part] for part in (labels, predictions)]
    return float(entity_f1_score(named[0], named[1], zero_division=0))


def exact_match(labels: np.ndarray, predictions: np.ndarray, task: Task) -> float:
    """Share of questions whose answer is one of the right ones, but for case, punctuation and articles.

    Args:
        labels: an array of one list of right answers per question.
        predictions: the answers given.
        task: of candidate answers.

    Source: Zhang et al. 2018, arXiv:1810.12885, section 5, as used by Wang et al. 2019, arXiv:1905.00537.
    """
    return _nearest_right(lambda given, right: float(given == right), labels, predictions)


def answer_f1(labels: np.ndarray, predictions: np.ndarray, task: Task) -> float:
    """F1 over the words that an answer shares with the right one it is nearest to, mean over questions.

    Arguments and source as for `exact_match`.
    """
    return _nearest_right(_shared_words, labels, predictions)


def _nearest_right(
    measure: Callable[[list[str], list[str]], float], labels: np.ndarray, predictions: np.ndarray
) -> float:
    nearest = [
        max(measure(_words(given), _words(answer)) for answer in right)
        for right, given in zip(labels, predictions, strict=True)
    ]
    return float(np.mean(nearest))


def _words(answer: str) -> list[str]:
    plain = answer.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def _shared_words(given: list[str], right: list[str]) -> float:
    shared = (Counter(given) & Counter(right)).total()
    return 2 * shared / (len(given) + len(right)) if shared else 0.0


def pearson(labels: np.ndarray, predictions: np.ndarray, task: Task) -> float:
    """Pearson correlation, between -1 and 1; 0 where labels or predictions are all the same."""
    return _correlation(pearsonr, labels, predictions)


def spearman(labels: np.ndarray, predictions: np.ndarray, task: Task) -> float:
    """Spearman's rank correlation, between -1 and 1; 0 where labels or predictions are all the same."""
    return _correlation(spearmanr, labels, predictions)


def _correlation(measure: Callable[..., Any], labels: np.ndarray, predictions: np.ndarray) -> float:
    if len(labels) < 2 or np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0  # undefined; no correlation is what a constant prediction deserves
    with warnings.catch_warnings():
        for category in (ConstantInputWarning, NearConstantInputWarning):
            warnings.simplefilter("ignore", category)
        found = float(measure(labels, predictions).statistic)
    return found if math.isfinite(found) else 0.0


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "macro_f1": macro_f1,
    "f1": f1,
    "matthews": matthews,
    "semeval2010_macro_f1": semeval2010_macro_f1,
    "gender_parity": gender_parity,
    "entity_f1": entity_f1,
    "exact_match": exact_match,
    "answer_f1": answer_f1,
    "pearson": pearson,
    "spearman": spearman,
}


_OF_KIND = {"regression": ("pearson", "spearman"), "answer": ("answer_f1", "exact_match")}
"""Metrics of the kinds of task that no other metric fits, and that fit no other kind."""


def check_metric(name: str, task: Task) -> None:
    """Raise ConfigError unless `evaluation.metric` names a metric that fits the task."""
    if name not in METRICS:
        near = difflib.get_close_matches(name, METRICS, n=1, cutoff=0.4)
        hint = f"Did you mean {near[0]}?" if near else f"Metrics are {', '.join(METRICS)}."
        raise ConfigError(f"evaluation.metric is {name}, which is not a known metric. {hint}")
    kind = next((kind for kind, names in _OF_KIND.items() if name in names), None)
    if kind != (task.kind if task.kind in _OF_KIND else None):
        use = " or ".join(_OF_KIND.get(task.kind, task.metrics[:1]))
        raise ConfigError(
            f"evaluation.metric is {name}, which does not fit {task.name}, a task of the kind {task.kind}. Use {use}."
        )
    if name == "entity_f1" and not (task.kind == "tags" and all(map(is_bio, task.labels))):
        raise ConfigError(
            f"evaluation.metric is entity_f1, which needs words tagged B-type, I-type and O, but {task.name} has "
            f"{', '.join(task.labels[:3])}. Use {task.metrics[0]}."
        )
    if name == "f1" and task.num_classes != 2:
        raise ConfigError(
            f"evaluation.metric is f1, which needs 2 classes, but {task.name} has {task.num_classes}. Use macro_f1."
        )
    if name == "gender_parity" and name not in task.metrics:
        raise ConfigError(
            f"evaluation.metric is {name}, which needs pairs of rows that differ in a pronoun, but {task.name} has "
            f"none. Use {task.metrics[0]}, and `infoprompt evaluate ARTIFACT --task axg` afterwards."
        )
    if name == "semeval2010_macro_f1" and not any(label.endswith("(e1,e2)") for label in task.labels):
        raise ConfigError(
            f"evaluation.metric is {name}, which needs labels with a direction such as Cause-Effect(e1,e2), but "
            f"{task.name} has none. Use macro_f1."
        )


def score(
    task: Task, labels: np.ndarray, predictions: np.ndarray, names: Sequence[str] | None = None
) -> dict[str, float]:
    """Score predictions.

    Args:
        task: names its metrics, the main one first.
        labels: class indices or values, [M]; of tags, an array of lists of class indices; of candidate answers, one of
            lists of right answers.
        predictions: the same; of candidate answers, one answer each.
        names: metrics to compute; the task's own if not given.
    Returns:
        Metric name to score, in the order of `names`; between 0 and 1 (correlations between -1 and 1).
    Raises:
        ValueError: nothing to score, or not one prediction per label.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.size == 0 or labels.shape != predictions.shape:
        raise ValueError(
            f"There are {labels.size} labels and {predictions.size} predictions; give one per row, at least 1."
        )
    names = names or task.metrics
    return {name: METRICS[name](_as_read(name, labels), _as_read(name, predictions), task) for name in names}


def why_undefined(name: str, task: Task, labels: np.ndarray, predictions: np.ndarray) -> str | None:
    """Why a metric says nothing of these predictions, and is 0 by convention; None if it says something."""
    if name not in ("pearson", "spearman", "matthews", "f1", "entity_f1"):
        return None
    labels, predictions = _as_read(name, labels), _as_read(name, predictions)
    if name == "entity_f1":
        found = any(task.labels[tag] != "O" for tags in labels for tag in tags)
        return None if found else "no word is part of an entity"
    if name == "f1":
        return None if np.any(labels == 1) else f"no row is of the class {task.labels[1]}"
    if len(np.unique(labels)) < 2:
        return "all rows have the same label"
    return "all predictions are the same" if len(np.unique(predictions)) < 2 else None


def class_scores(task: Task, labels: np.ndarray, predictions: np.ndarray) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of each class; of tags, over words. Empty for tasks without classes.

    0 stands for a precision without predictions and a recall without rows.
    """
    if not (task.classifies or task.kind == "tags"):
        return {}
    if task.kind == "tags":
        labels, predictions = np.concatenate(labels), np.concatenate(predictions)
    columns = precision_recall_fscore_support(labels, predictions, labels=range(task.num_classes), zero_division=0)
    names = ("precision", "recall", "f1", "support")
    return {
        label: {**dict(zip(names, map(float, values), strict=True)), "support": int(values[3])}
        for label, values in zip(task.labels, zip(*columns, strict=True), strict=True)
    }


def _as_read(name: str, values: np.ndarray) -> np.ndarray:
    """Tags sentence by sentence for entities, word by word for everything else but answers."""
    whole = values.dtype != object or name in ("entity_f1", *_OF_KIND["answer"])
    return values if whole else np.concatenate(values)


def steps_to_share(curve: Sequence[tuple[int, float]], share: float = 0.95) -> int:
    """First step at which the validation score reaches `share` of its best: how fast a run learns.

    Args:
        curve: (step, score) of every evaluation, in order of steps.
        share: between 0 and 1.
    Raises:
        ValueError: the curve is empty.
    """
    if not curve:
        raise ValueError("The curve is empty; give at least one (step, score).")
    best = max(value for _, value in curve)
    target = share * best if best > 0 else best  # a share of a negative score would lie above it
    return next(step for step, value in curve if value >= target)
