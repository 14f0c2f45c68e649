"""Pairs of training rows: as many of one class as of two, uniform, and the same whatever ranks and passes there are."""

from collections import Counter

import numpy as np
import pytest

from infoprompt.config import ConfigError
from infoprompt.data.pairs import PairDraw

LABELS = [2, 0, 2, 1, 0, 2, 2]  # class 1 has one row


def test_kinds_take_turns_and_every_pair_of_a_kind_is_as_likely():
    draw, counts = PairDraw(LABELS), Counter()
    for step in range(400):
        pairs = draw.rows(0, step, 33).reshape(-1, 2)
        same = [LABELS[first] == LABELS[second] for first, second in pairs]
        assert same == [(index + step) % 2 == 0 for index in range(33)]
        counts.update(tuple(sorted(pair)) for pair in pairs.tolist())
    rows = range(len(LABELS))
    every = [(first, second) for first in rows for second in rows if first <= second]
    for same in (True, False):
        of_kind = [pair for pair in every if (LABELS[pair[0]] == LABELS[pair[1]]) == same]
        expected = 400 * 33 / 2 / len(of_kind)
        # four standard deviations of a binomial count
        assert all(abs(counts[pair] - expected) < 4 * expected**0.5 for pair in of_kind)
    assert counts.keys() == set(every)


def test_pairs_depend_on_seed_and_step_alone():
    pairs = {key: PairDraw(LABELS).rows(*key, 8) for key in ((0, 0), (0, 1), (1, 0))}
    assert np.array_equal(pairs[0, 0], PairDraw([*LABELS]).rows(0, 0, 8))
    assert not np.array_equal(pairs[0, 0], pairs[1, 0])
    assert not np.array_equal(pairs[0, 0], pairs[0, 1])


def test_one_class_alone_is_refused():
    with pytest.raises(ConfigError, match="one class alone"):
        PairDraw([1, 1, 1])
