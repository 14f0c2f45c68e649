"""Texts without labels, for the information between a text and its label."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infoprompt.config import ConfigError, DataSettings
from infoprompt.data.mapped_rows import changed, chosen
from infoprompt.data.opening import open_file
from infoprompt.data.places import RowSource, existing_file, given_sources, source_name
from infoprompt.data.rows import Adapter, Example, Kind, collect_examples, read_examples
from infoprompt.data.sources import Dialect
from infoprompt.data.split_rows import numbers_of, text_key
from infoprompt.data.task import Task

log = logging.getLogger(__name__)

LEAST_ROWS = 200
"""Below these the term was measured to harm (EXPERIMENTS 2026-11-29)."""
FEW_ROWS = 1000
KINDS: frozenset[Kind] = frozenset({"single", "pair", "relation", "span"})
"""Kinds of task whose rows have one class each out of the same classes, and are told by their texts alone."""

_POOL = 3  # which of a seed's streams of random numbers the choice reads


@dataclass(frozen=True)
class UnlabelledTexts:
    """Texts without labels, and which of them are used.

    Those that a seed has drawn as training rows stay among the texts, unused. So the texts are the same for every seed,
    and their states are computed once.
    """

    texts: Sequence[Example] = ()
    used: tuple[int, ...] = ()
    """Indices, in an order that the seed has drawn."""


def check_kind(task: Task) -> None:
    """Raise ConfigError for a kind of task whose texts the term cannot use."""
    if task.kind not in KINDS:
        raise ConfigError(
            f"data.unlabelled is given, but {task.name} is of the kind {task.kind}, and the term that reads such texts "
            "is for tasks where each text has one class. Leave it out, and set objective.label_form to off."
        )


def read_texts(source: RowSource, settings: DataSettings, adapt: Adapter | None, dialect: Dialect) -> Sequence[Example]:
    """Rows of a source without their labels, if they have any; raises ConfigError for rows that cannot be read."""

    def texts() -> Iterator[Example]:
        for one in given_sources(source):
            if one.lower().endswith(".txt"):
                yield from _lines(one, dialect.encoding)
            else:
                yield from read_examples(one, settings.columns, labelled=False, adapt=adapt, dialect=dialect)

    return collect_examples(texts())


def _lines(name: str, encoding: str | None) -> Iterator[Example]:
    path = existing_file(Path(name).expanduser().absolute())
    try:
        with open_file(path, encoding, "lf") as stream:
            for number, line in enumerate(stream, 1):
                if text := line.strip():
                    yield Example(text=text, where=f"line {number} of {path}")
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{path} cannot be read as text: {error}. Name its encoding by data.encoding.") from None


def choose_texts(
    candidates: Sequence[Example], others: Sequence[Sequence[Example]], settings: DataSettings, task: Task, seed: int
) -> "UnlabelledTexts":
    """The texts that are used: each once, without its label, none of `others`, at most `data.unlabelled_rows`.

    Args:
        candidates: in any order.
        others: labelled, held-out and test rows, part by part.
        settings: `data.*`.
        task: what the candidates must fit.
        seed: of the choice.
    Raises:
        ConfigError: a row is of another kind than the task, or fewer than `LEAST_ROWS` are left.
    """
    unlike = next((row for row in candidates if row.unlabelled().kind != task.kind), None)
    name = settings.unlabelled
    assert name is not None
    what = "data.unlabelled is " + (name if name in ("rest", "transductive") else source_name(name))
    if unlike is not None:
        raise ConfigError(
            f"{what}, but {unlike.where} is of the kind {unlike.unlabelled().kind}, and the task is of the kind "
            f"{task.kind}. Give rows with the same columns as the training rows but for the label."
        )
    excluded = [numbers_of(map(text_key, part)) for part in others]
    keys = numbers_of(map(text_key, candidates))
    first = np.sort(np.unique(keys, return_index=True)[1])  # the first row of each text
    rows = changed(chosen(candidates, first), Example.unlabelled)
    free = np.flatnonzero(~np.isin(keys[first], np.concatenate(excluded)))
    used = free[np.random.default_rng([seed, _POOL]).permutation(len(free))[: settings.unlabelled_rows]]
    check_number(len(used), what)
    if settings.unlabelled_rows is None:
        return UnlabelledTexts(rows, tuple(used.tolist()))
    return UnlabelledTexts(chosen(rows, used), tuple(range(len(used))))


def check_number(count: int, what: str) -> None:
    """Refuse a pool of texts that is too small, and warn of a small one."""
    if count < LEAST_ROWS:
        raise ConfigError(
            f"{what}, of which {count:,} texts can be used, but under {LEAST_ROWS} the term harms. Give more texts, or "
            "leave data.unlabelled out and set objective.label_form to off."
        )
    if count < FEW_ROWS:
        log.warning("%s, of which %s texts can be used; %s are better.", what, f"{count:,}", f"{FEW_ROWS:,}")
