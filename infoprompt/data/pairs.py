"""Pairs of training rows, half of one class and half of two, drawn by (seed, step) alone.

Shapes: M rows of the data set, G pairs, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from infoprompt.settings.base import ConfigError


@dataclass(frozen=True)
class PairDraw:
    """Draws the pairs of an update, each kind as often as the other, whatever the classes' sizes.

    A pair of a kind is uniform over all pairs of that kind, in no order. One of a single class may be a row with
    itself, which dropout tells from itself. Source: SetFit, Tunstall et al. 2022, arXiv:2209.11055, and its released
    code, whose oversampling repeats the rarer kind. Departure: pairs are drawn with replacement, so no list of all
    pairs is held.
    """

    labels: Sequence[int]
    """Class index of each training row."""

    def __post_init__(self) -> None:
        if len(set(self.labels)) < 2:
            raise ConfigError(
                "objective.task is contrastive, but the training rows have one class alone, so no two rows are of two "
                "classes. Give rows of another class."
            )

    def rows(self, seed: int, step: int, num_pairs: int) -> np.ndarray:
        """Rows of the pairs of update `step`, [2 G], those of a pair next to each other; both kinds take turns."""
        draws = np.random.default_rng([seed, step, 4])
        same_G = (np.arange(num_pairs) + step) % 2 == 0  # of an odd number the kind that has one more takes turns, too
        pairs_G2 = np.where(same_G[:, None], self._of_one_class(draws, num_pairs), self._of_two(draws, num_pairs))
        return pairs_G2.reshape(-1)

    @cached_property
    def _by_class(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The rows class after class, and how many each class has, and where it starts."""
        count_C = np.bincount(self.labels)
        return np.argsort(self.labels, kind="stable"), count_C, np.cumsum(count_C) - count_C

    def _of_one_class(self, draws: np.random.Generator, num_pairs: int) -> np.ndarray:
        order_M, count_C, start_C = self._by_class
        pairs_C = count_C * (count_C + 1) // 2
        class_G = draws.choice(len(count_C), num_pairs, p=pairs_C / pairs_C.sum())
        # the u-th of the pairs (0, 0), (0, 1), (1, 1), (0, 2), ...
        u_G = draws.integers(pairs_C[class_G])
        larger_G = ((np.sqrt(8 * u_G + 1) - 1) // 2).astype(np.int64)
        smaller_G = u_G - larger_G * (larger_G + 1) // 2
        return order_M[np.stack([smaller_G, larger_G], 1) + start_C[class_G, None]]

    def _of_two(self, draws: np.random.Generator, num_pairs: int) -> np.ndarray:
        order_M, count_C, start_C = self._by_class
        others_C = len(order_M) - count_C
        class_G = draws.choice(len(count_C), num_pairs, p=count_C * others_C / (count_C * others_C).sum())
        first_G = start_C[class_G] + draws.integers(count_C[class_G])
        second_G = draws.integers(others_C[class_G])
        second_G += np.where(second_G >= start_C[class_G], count_C[class_G], 0)
        return order_M[np.stack([first_G, second_G], 1)]
