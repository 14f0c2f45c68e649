from collections import Counter

import numpy as np
import pytest

from infoprompt.config import ConfigError, FewShotSettings
from infoprompt.data.few_shot import hold_out_sample, hold_out_share, sample_few_shot

NAMES = ("red", "green", "blue")
LABELS = [row % 3 for row in range(90)]


def counts(rows: list[int], labels: list[int] = LABELS) -> Counter[int]:
    return Counter(labels[row] for row in rows)


def test_per_class_draws_that_many_of_each_class() -> None:
    rows = sample_few_shot(LABELS, FewShotSettings(per_class=4), 0, NAMES)
    assert counts(rows) == {0: 4, 1: 4, 2: 4}
    assert rows == sorted(set(rows))


def test_total_draws_that_many_in_all() -> None:
    assert len(set(sample_few_shot(LABELS, FewShotSettings(total=64), 0, NAMES))) == 64


def test_without_a_size_every_row_is_taken() -> None:
    assert sample_few_shot(LABELS, FewShotSettings(), 0, NAMES) == list(range(90))


def test_a_seed_always_gives_the_same_rows() -> None:
    # Stored figures: published runs must stay repeatable, whatever the global random state.
    np.random.seed(1)
    assert sample_few_shot(LABELS, FewShotSettings(total=5), 7, NAMES) == [5, 17, 49, 63, 65]
    assert sample_few_shot(LABELS, FewShotSettings(per_class=2), 7, NAMES) == [17, 27, 49, 58, 63, 65]
    assert sample_few_shot(LABELS, FewShotSettings(total=5), 8, NAMES) != [5, 17, 49, 63, 65]


def test_a_smaller_sample_is_part_of_a_larger_one() -> None:
    for small, large in [
        (FewShotSettings(per_class=4), FewShotSettings(per_class=8)),
        (FewShotSettings(total=4), FewShotSettings(total=8)),
    ]:
        assert set(sample_few_shot(LABELS, small, 3, NAMES)) < set(sample_few_shot(LABELS, large, 3, NAMES))


def test_a_short_class_is_refused_by_name_or_taken_whole() -> None:
    labels = [0] * 10 + [1] * 10 + [2]
    with pytest.raises(
        ConfigError, match=r"per_class is 4, but the class blue has only 1 of the 21 .*short_classes=take_all"
    ):
        sample_few_shot(labels, FewShotSettings(per_class=4), 0, NAMES)
    rows = sample_few_shot(labels, FewShotSettings(per_class=4, short_classes="take_all"), 0, NAMES)
    assert counts(rows, labels) == {0: 4, 1: 4, 2: 1}


def test_a_total_above_the_number_of_rows_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.few_shot\.total is 91, but there are only 90"):
        sample_few_shot(LABELS, FewShotSettings(total=91), 0, NAMES)


@pytest.mark.parametrize("settings", [FewShotSettings(per_class=4), FewShotSettings(total=12)])
def test_the_held_out_sample_has_the_training_size_and_none_of_its_texts(settings: FewShotSettings) -> None:
    texts = [row // 6 for row in range(90)]  # each text six times, in every class
    for seed in range(5):
        training = sample_few_shot(LABELS, settings, seed, NAMES)
        keys = [texts[row] if seed % 2 else row for row in range(90)]
        held_out = hold_out_sample(LABELS, keys, training, settings, seed)
        assert not {keys[row] for row in training} & {keys[row] for row in held_out}
        if not seed % 2:
            assert len(held_out) == 12


def test_a_class_that_runs_short_gives_the_held_out_sample_what_is_left() -> None:
    labels = [0] * 10 + [1] * 5
    settings = FewShotSettings(per_class=4)
    training = sample_few_shot(labels, settings, 0, NAMES[:2])
    assert counts(hold_out_sample(labels, range(15), training, settings, 0), labels) == {0: 4, 1: 1}


def test_a_sample_of_all_rows_leaves_nothing_to_hold_out() -> None:
    settings = FewShotSettings(total=90)
    with pytest.raises(ConfigError, match=r"takes all 90 rows.*data\.validation"):
        hold_out_sample(LABELS, range(90), range(90), settings, 0)


def test_the_held_out_share_is_taken_of_each_class() -> None:
    labels = [0] * 100 + [1] * 50 + [2] * 3
    training, held_out = hold_out_share(labels, range(153), 0.1, 0)
    assert counts(held_out, labels) == {0: 10, 1: 5, 2: 1}
    assert sorted(training + held_out) == list(range(153))
    assert hold_out_share(labels, range(153), 0.1, 0) == (training, held_out)
    assert hold_out_share(labels, range(153), 0.1, 1) != (training, held_out)


def test_every_class_keeps_a_training_row_however_large_the_share() -> None:
    training, _ = hold_out_share([0, 0, 1, 1, 2], range(5), 0.99, 0)
    assert counts(training, [0, 0, 1, 1, 2]) == {0: 1, 1: 1, 2: 1}


def test_rows_with_the_same_text_stay_together() -> None:
    labels = [row // 20 for row in range(60)]
    keys = [row // 2 for row in range(60)]
    training, held_out = hold_out_share(labels, keys, 0.3, 0)
    assert not {keys[row] for row in training} & {keys[row] for row in held_out}
    assert counts(held_out, labels) == {0: 6, 1: 6, 2: 6}


def test_classes_of_one_text_leave_nothing_to_hold_out() -> None:
    with pytest.raises(ConfigError, match=r"validation_share is 0\.1, but every class has one text.*data\.validation"):
        hold_out_share([0, 0, 1], ["a", "a", "b"], 0.1, 0)
