"""Seeded choice of training and held-out rows.

The order in which rows are drawn depends on the seed alone, so a smaller sample is part of a larger one.
"""

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from infoprompt.config import ConfigError, FewShotSettings

Keys = Sequence[Hashable] | np.ndarray

# Which of a seed's streams of random numbers a choice reads.
_TRAINING, _HELD_OUT, _DEMONSTRATIONS = 1, 2, 4


def is_few_shot(settings: FewShotSettings) -> bool:
    """Whether a sample is asked for at all."""
    return settings.total is not None or settings.per_class is not None


def sample_few_shot(
    labels: Sequence[int], settings: FewShotSettings, seed: int, label_names: Sequence[str]
) -> list[int]:
    """Draw the training rows.

    Args:
        labels: class index of each row.
        settings: the sample's size, per class or in all.
        seed: the same seed gives the same rows.
        label_names: class names in id order, for errors.
    Returns:
        Row indices, ascending; every row if no size is set.
    Raises:
        ConfigError: there are fewer rows than asked for.
    """
    _check_size(labels, settings, label_names)
    if not is_few_shot(settings):
        return list(range(len(labels)))
    return _draw(labels, range(len(labels)), settings, np.random.default_rng([seed, _TRAINING]))


def draw_demonstrations(labels: Sequence[int], count: int, seed: int) -> list[int]:
    """Draw rows from all classes alike: one of each class, in random order, then a second one, and so on.

    Args:
        labels: class index of each row.
        count: rows to draw, or fewer where there are no more.
        seed: the same seed gives the same rows.
    Returns:
        Row indices, in the order drawn.
    """
    taken: Counter[int] = Counter()
    turns: list[tuple[int, int, int]] = []
    for row in np.random.default_rng([seed, _DEMONSTRATIONS]).permutation(len(labels)):
        turns.append((taken[labels[row]], len(turns), int(row)))
        taken[labels[row]] += 1
    return [row for _, _, row in sorted(turns)[:count]]


def hold_out_sample(
    labels: Sequence[int],
    keys: Keys,
    training: Sequence[int],
    settings: FewShotSettings,
    seed: int,
) -> list[int]:
    """Draw as many rows as the training sample has from the others; a class that runs short gives what is left.

    Args:
        labels: class index of each row.
        keys: what makes a row the same text as another; a text of `training` is never drawn.
        training: rows already drawn.
        settings, seed: as for `sample_few_shot`.
    Returns:
        Row indices, ascending.
    Raises:
        ConfigError: no row is left.
    """
    seen = {keys[row] for row in training}
    left = [row for row in range(len(labels)) if keys[row] not in seen]
    if not left:
        raise ConfigError(
            f"The few-shot sample takes all {len(labels)} rows, and leaves none to choose the best state on. "
            "Give data.validation, or a smaller data.few_shot size."
        )
    return _draw(labels, left, settings, np.random.default_rng([seed, _HELD_OUT]))


def hold_out_share(labels: Sequence[int], keys: Keys, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Split the rows, class by class: about `share` of each, but at least one row on either side.

    Rows of the same key stay on one side, and so does a class with one text only: in training.

    Args:
        labels, keys, seed: as for `hold_out_sample`.
        share: between 0 and 1.
    Returns:
        Training rows and held-out rows, both ascending.
    Raises:
        ConfigError: no class has two different texts, so that nothing can be held out.
    """
    _, first, text_of_row = np.unique(np.asarray(keys), return_index=True, return_inverse=True)
    first_rows = np.sort(first)  # of each text, in the order in which they come
    text_of_row = np.searchsorted(first_rows, first[text_of_row])
    label_of_text = np.asarray(labels)[first_rows]  # a text with two labels goes with its first
    by_label = np.argsort(label_of_text, kind="stable")
    generator = np.random.default_rng([seed, _HELD_OUT])
    held_out = np.zeros(len(first_rows), dtype=bool)
    for texts in np.split(by_label, np.flatnonzero(np.diff(label_of_text[by_label])) + 1):
        count = min(max(1, round(share * len(texts))), len(texts) - 1)
        held_out[texts[generator.permutation(len(texts))[:count]]] = True
    if not held_out.any():
        raise ConfigError(
            f"data.validation_share is {share:g}, but every class has one text only, so that none can be held out. "
            "Give data.validation, or more rows."
        )
    held_out_rows = held_out[text_of_row]
    return np.flatnonzero(~held_out_rows).tolist(), np.flatnonzero(held_out_rows).tolist()


def _draw(
    labels: Sequence[int], rows: Sequence[int], settings: FewShotSettings, generator: np.random.Generator
) -> list[int]:
    drawn = []
    taken: Counter[int] = Counter()
    for index in generator.permutation(len(rows)):
        row = rows[index]
        full = settings.per_class is not None and taken[labels[row]] >= settings.per_class
        if not full:
            taken[labels[row]] += 1
            drawn.append(row)
    return sorted(drawn[: settings.total])


def _check_size(labels: Sequence[int], settings: FewShotSettings, label_names: Sequence[str]) -> None:
    if settings.total is not None and settings.total > len(labels):
        raise ConfigError(
            f"data.few_shot.total is {settings.total}, but there are only {len(labels)} training rows. Use fewer."
        )
    if settings.per_class is None or settings.short_classes == "take_all":
        return
    counts = Counter(labels)
    short = [label for label in range(len(label_names)) if counts[label] < settings.per_class]
    if short:
        smallest = min(short, key=lambda label: counts[label])
        others = f" ({len(short) - 1} other classes are short as well)" if len(short) > 1 else ""
        raise ConfigError(
            f"data.few_shot.per_class is {settings.per_class}, but the class {label_names[smallest]} has only "
            f"{counts[smallest]} of the {len(labels):,} training rows{others}. Use a smaller size, or "
            "data.few_shot.short_classes=take_all to take all rows of such a class."
        )
