"""Rows with the lengths of real data sets: shipped rows, or random words where none are shipped."""

import random
from typing import Any

import numpy as np

from infoprompt.config import ConfigError, DataSettings
from infoprompt.data.rows import Example
from infoprompt.data.splits import Splits, load_splits
from infoprompt.data.task import Task

SHIPPED = {"banking77": "banking77", "semeval": "semeval2010_task8"}
"""Sets whose own rows come with the package, by their name among the known tasks."""

PERCENTS = (0, 1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 100)
QUANTILES = {
    "sst2": (1, 1, 2, 2, 4, 5, 6, 8, 11, 14, 18, 25, 31, 42, 64),
    "boolq": (28, 37, 54, 65, 82, 96, 110, 123, 138, 157, 181, 220, 261, 381, 1047),
}
"""Tokens of a text at `PERCENTS`, without those at its ends, as MiniLM's tokenizer counts them. Of SST-2 (GLUE): its
67,349 training rows. Of BoolQ (SuperGLUE): passage and question of its 3,270 validation rows."""

TEMPLATE_TOKENS = 2
"""A text's two ends; a tokenizer that has none leaves rows of a fixed length as much shorter."""


def splits_of(lengths: str, count: int, tokenizer: Any, room: int, prompt: int) -> Splits:
    """So many rows, even over the sorted lengths of a set, in random order.

    Args:
        lengths: `sst2`, `boolq`, `banking77`, `semeval`, or a number: positions of every row, prompt included.
        count: rows.
        tokenizer: of the backbone.
        room: most tokens of a text; longer ones are cut.
        prompt: prompt vectors of a row, which a number of positions includes.
    Raises:
        ConfigError: the set is not known, or a number leaves no room for text.
    """
    picks = random.Random(0)
    if lengths in SHIPPED:
        found = load_splits(DataSettings(task=SHIPPED[lengths]), seed=0)
        rows = sorted(found.train, key=lambda row: len(row.text))
        chosen = [rows[int((index + 0.5) / count * len(rows))] for index in range(count)]
        picks.shuffle(chosen)
        return Splits(found.task, chosen, chosen[:1], [], f"{lengths}: {count} of the set's own rows")
    if lengths in QUANTILES:
        at = (np.arange(count) + 0.5) / count * 100
        sizes = [round(size) for size in np.interp(at, PERCENTS, QUANTILES[lengths])]
        what = f"random words at the lengths of {lengths}"
    elif lengths.isdigit() and int(lengths) > prompt + TEMPLATE_TOKENS:
        sizes = [int(lengths) - prompt - TEMPLATE_TOKENS] * count
        what = f"random words, {lengths} positions each"
    else:
        raise ConfigError(
            f"--lengths has {lengths!r}, but it must be one of {', '.join([*QUANTILES, *SHIPPED])}, or a number of "
            f"positions above {prompt + TEMPLATE_TOKENS}, which prompt and ends take."
        )
    picks.shuffle(sizes)
    words = single_words(tokenizer)
    texts = [" ".join(picks.choices(words, k=max(1, min(size, room)))) for size in sizes]
    examples = [Example(text, label=("a", "b")[index % 2]) for index, text in enumerate(texts)]
    task = Task(lengths, ("a", "b"), ("a", "b"), ("accuracy",), "single")
    return Splits(task, examples, examples[:1], [], f"{lengths}: {count} rows of {what}")


def single_words(tokenizer: Any, most: int = 2000) -> list[str]:
    """Words of a vocabulary that are one token each, wherever they stand in a text."""
    plain = sorted({token.lstrip("Ġ▁") for token in tokenizer.get_vocab()})
    candidates = [word for word in plain if len(word) > 1 and word.isascii() and word.isalpha() and word.islower()]
    random.Random(0).shuffle(candidates)
    candidates = candidates[: 4 * most]
    ids = tokenizer([f"{word} {word}" for word in candidates], add_special_tokens=False)["input_ids"]
    return [word for word, found in zip(candidates, ids, strict=True) if len(found) == 2][:most]
