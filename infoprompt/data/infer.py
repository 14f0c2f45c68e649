"""The task that rows of one's own describe: its name, kind and classes."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from infoprompt.config import ConfigError, DataSettings
from infoprompt.data.places import RowSource, given_sources, source_name
from infoprompt.data.rows import Example, Kind, labels_of
from infoprompt.data.task import KINDS, Source, Task, is_bio, is_whole_number, words_of
from infoprompt.data.tasks import known_task


def infer_task(examples: Sequence[Example], settings: DataSettings) -> Task:
    """The task that labelled rows and `data.task` describe.

    A task known by name has its own classes, if its row in the table gives any. Otherwise these are the labels of
    `examples`, sorted (as numbers where all are; `O` before all other tags). The kind follows from the columns; the
    values of a regression run from the lowest to the highest one. `data.label_texts` replaces the words of the classes
    it names.

    Raises:
        ConfigError: an unknown task, label or mixture of kinds, a single class, or a single value.
    """
    kind = _kind_of(examples)
    _check_asked(kind, settings)
    known = settings.task is not None and settings.task not in KINDS
    task = known_task(settings.task or "") if known else None
    if task is not None and task.kind != kind:
        raise ConfigError(
            f"data.task is {task.name}, whose rows are of the kind {task.kind}, but those of "
            f"{source_name(settings.train or '')} are of the kind {kind}. Leave data.task out, or name the right "
            "columns by data.columns."
        )
    if task is None:
        task = Task(_name_of(settings.train), (), (), _METRICS.get(kind, ("accuracy", "macro_f1")), kind)
    if kind == "regression":
        return task if task.scale else replace(task, scale=_scale(examples, settings))
    if not task.labels:
        labels = _labels(examples)
        task = replace(task, labels=labels, label_texts=tuple(words_of(label) for label in labels))
        if kind == "tags" and not all(map(is_bio, labels)):
            task = replace(task, metrics=("accuracy", "macro_f1"))
        if task.metrics == ("accuracy", "macro_f1") and settings.task is None and majority(examples)[1] >= UNBALANCED:
            task = replace(task, metrics=("macro_f1", "accuracy"))
    if task.num_classes < 2:
        raise ConfigError(
            f"Every row of {source_name(settings.train or '')} has the label {task.labels[0]}, but a classifier "
            "needs at least 2 classes. Check data.columns.label."
        )
    words = (task.source or Source()).template_words if settings.template == "task" else {}
    return with_label_texts(task, {**words, **settings.label_texts})


def kind_of(settings: DataSettings) -> Kind | None:
    """The kind of task that `data.task` names; None where it names none, or a known task."""
    return next((kind for kind in get_args(Kind) if kind == settings.task), None)


def _check_asked(kind: Kind, settings: DataSettings) -> None:
    asked = kind_of(settings)
    if asked is not None and asked != kind:
        needed = {"tags": "tokens and tags", "relation": "head and tail", "regression": "value, or numbers in label"}
        raise ConfigError(
            f"data.task is {asked}, but the rows of {source_name(settings.train or '')} are of the kind {kind}. A row "
            f"of the kind {asked} has the columns {needed.get(asked, asked)}; name them by data.columns, or leave "
            "data.task out."
        )


_METRICS: dict[str, tuple[str, ...]] = {
    "tags": ("entity_f1", "accuracy"),
    "choice": ("accuracy",),
    "answer": ("answer_f1", "exact_match"),
    "regression": ("pearson", "spearman"),
}


UNBALANCED = 0.8
"""From this share of one class on, macro F1 takes the place of accuracy: always predicting that class would have it."""


def majority(examples: Sequence[Example]) -> tuple[str, float]:
    """The most frequent class and its share."""
    tagged = bool(examples) and examples[0].words is not None
    labels = (label for example in examples for label in example.given_labels) if tagged else labels_of(examples)
    counts = Counter(label for label in labels if label is not None)
    label, count = counts.most_common(1)[0]
    return label, count / counts.total()


def _labels(examples: Sequence[Example]) -> tuple[str, ...]:
    if examples[0].choices is not None:
        sizes = sorted({len(example.choices or ()) for example in examples})
        if len(sizes) > 1:
            raise ConfigError(
                f"The training rows have {' and '.join(map(str, sizes))} choices, but must all have as many. "
                "Remove the others."
            )
        return tuple(f"choice{number}" for number in range(1, sizes[0] + 1))
    if examples[0].words is not None:
        tags = {tag for example in examples for tag in example.tags or ()}
        return (*(["O"] if "O" in tags else []), *_sorted_labels(tags - {"O"}))
    return _sorted_labels({label for label in labels_of(examples) if label is not None})


def _scale(examples: Sequence[Example], settings: DataSettings) -> tuple[float, float]:
    values = [example.value for example in examples if example.value is not None]
    if min(values) == max(values):
        raise ConfigError(
            f"Every row of {source_name(settings.train or '')} has the value {values[0]:g}, so there is nothing to "
            "learn. Check data.columns.value."
        )
    return min(values), max(values)


def with_label_texts(task: Task, texts: Mapping[str, str]) -> Task:
    """The task with the words of some classes replaced; raises ConfigError for a class it does not have."""
    for label, text in texts.items():
        if label not in task.labels:
            near = difflib.get_close_matches(label, task.labels, n=1, cutoff=0.4)
            hint = f"Did you mean {near[0]}?" if near else f"The labels are {', '.join(task.labels)}."
            raise ConfigError(f"data.label_texts names {label}, which is not a label of {task.name}. {hint}")
        if not text.strip():
            raise ConfigError(f"data.label_texts of {label} is empty. Give words that describe it, or leave it out.")
    described = zip(task.labels, task.label_texts, strict=True)
    return replace(task, label_texts=tuple(texts.get(label, text) for label, text in described))


def _kind_of(examples: Sequence[Example]) -> Kind:
    kinds = sorted({example.kind for example in examples})
    if len(kinds) != 1:
        raise ConfigError(f"The training rows are of different kinds ({' and '.join(kinds)}), but must all be of one.")
    return kinds[0]


def _sorted_labels(labels: Iterable[str]) -> tuple[str, ...]:
    labels = sorted(labels)
    return tuple(sorted(labels, key=int) if all(map(is_whole_number, labels)) else labels)


def _name_of(source: RowSource | None) -> str:
    """`reviews` for /data/reviews.csv, for /data/reviews/train.csv and for owner/reviews:train."""
    first = given_sources(source or "task")[0]
    names = [re.split(r"[.@:]", part, maxsplit=1)[0].replace("*", "").replace("?", "") for part in Path(first).parts]
    if len(names) > 1 and re.fullmatch(r"(train[\w-]*)?", names[-1], re.IGNORECASE) and re.search(r"\w", names[-2]):
        return names[-2]
    return names[-1] or "task"
