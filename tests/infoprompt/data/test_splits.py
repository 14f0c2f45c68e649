import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from infoprompt.config import ConfigError, DataSettings
from infoprompt.data import kept_splits
from infoprompt.data.rows import Example
from infoprompt.data.splits import Splits, load_splits

LABELS = ("no", "yes")


def write(folder: Path, part: str, rows: list[dict[str, Any]]) -> str:
    path = folder / f"{part}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def train(tmp_path: Path) -> str:
    rows = [{"text": f"text {number}", "label": LABELS[number % 2]} for number in range(60)]
    return write(tmp_path, "train", rows)


def texts(part: list[Example]) -> set[str]:
    return {example.text for example in part}


def disjoint(splits: Splits) -> bool:
    return not texts(splits.train) & texts(splits.validation)


def test_a_known_task_brings_its_own_rows() -> None:
    splits = load_splits(DataSettings(task="banking77"), 0)
    assert len(splits.train) + len(splits.validation) == 10_003
    assert len(splits.test) == 3_080
    assert disjoint(splits)  # though four training rows occur twice
    assert splits.task.name == "banking77"


def test_few_shot_rows_of_a_known_task_are_drawn_before_validation_rows() -> None:
    settings = DataSettings(task="semeval2010_task8", few_shot={"per_class": 16, "short_classes": "take_all"})
    splits = load_splits(settings, 3)
    rare = "Entity-Destination(e2,e1)"  # one row in all
    expected = {label: 1 if label == rare else 16 for label in splits.task.labels}
    assert Counter(example.label for example in splits.train) == expected
    del expected[rare]  # nothing left to hold out
    assert Counter(example.label for example in splits.validation) == expected
    assert disjoint(splits)


def test_a_share_of_own_rows_is_held_out(train: str) -> None:
    splits = load_splits(DataSettings(train=train, validation_share=0.2), 0)
    assert (len(splits.train), len(splits.validation), splits.test) == (48, 12, [])
    assert disjoint(splits)


def test_a_seed_gives_the_same_rows_and_another_seed_others(train: str) -> None:
    settings = DataSettings(train=train, few_shot={"total": 16})
    first = load_splits(settings, 5)
    kept_splits._remembered.clear()
    assert load_splits(settings, 5) == first
    assert load_splits(settings, 5).train != load_splits(settings, 6).train
    assert load_splits(settings, 5).validation != load_splits(settings, 6).validation


def test_splits_of_a_few_rows_are_made_once_in_a_process(train: str) -> None:
    settings = DataSettings(train=train)
    first = load_splits(settings, 0)
    assert load_splits(settings.model_copy(update={"batch_size": 2}), 0) is first
    assert load_splits(settings, 1) is not first
    assert load_splits(settings.model_copy(update={"validation_share": 0.5}), 0) is not first


def test_a_file_that_was_changed_is_read_again(train: str) -> None:
    first, path = load_splits(DataSettings(train=train), 0), Path(train)
    path.write_text(path.read_text().replace("text 7", "TEXT 7"))
    assert texts(load_splits(DataSettings(train=train), 0).train) != texts(first.train)


def test_only_the_latest_splits_are_remembered(train: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_splits, "MOST_REMEMBERED", 2)
    first = load_splits(DataSettings(train=train), 0)
    load_splits(DataSettings(train=train), 1)
    assert load_splits(DataSettings(train=train), 0) is first
    load_splits(DataSettings(train=train), 2)
    assert load_splits(DataSettings(train=train), 0) is first
    load_splits(DataSettings(train=train), 3)
    load_splits(DataSettings(train=train), 4)
    assert load_splits(DataSettings(train=train), 0) is not first


def questions(folder: Path, count: int) -> str:
    def candidates(number: int) -> list[dict[str, Any]]:
        names = [f"name {place}" for place in range(2 + number % 3)]
        asked = {"question": f"question {number}", "answers": [names[number % 2]]}
        return [{"text": f"{number} {name}", "candidate": {**asked, "text": name}} for name in names]

    return write(folder, "train", [row for number in range(count) for row in candidates(number)])


def by_question(part: list[Example]) -> Counter[str]:
    return Counter(example.candidate.question for example in part if example.candidate is not None)


@pytest.mark.parametrize(("settings", "sizes"), [({"few_shot": {"total": 8}}, (8, 8)), ({}, (27, 3))])
def test_candidates_of_a_question_stay_together(
    settings: dict[str, Any], sizes: tuple[int, int], tmp_path: Path
) -> None:
    splits = load_splits(DataSettings(train=questions(tmp_path, 30), **settings), 0)
    parts = by_question(splits.train), by_question(splits.validation)
    assert tuple(map(len, parts)) == sizes
    assert not parts[0] & parts[1]
    for question, found in (parts[0] + parts[1]).items():
        assert found == 2 + int(question.split()[1]) % 3
    assert (splits.task.kind, splits.task.labels) == ("answer", ("false", "true"))


def test_questions_have_no_class_each(tmp_path: Path) -> None:
    settings = DataSettings(train=questions(tmp_path, 6), few_shot={"per_class": 2})
    with pytest.raises(ConfigError, match="candidate answers to questions and have no class each"):
        load_splits(settings, 0)


def test_given_validation_and_test_rows_are_used_as_they_are(tmp_path: Path, train: str) -> None:
    rows = [{"text": "text 0", "label": "yes"}, {"text": "another", "label": "no"}]
    validation, test = write(tmp_path, "validation", rows), write(tmp_path, "test", rows[:1])
    splits = load_splits(DataSettings(train=train, validation=validation, test=test), 0)
    assert len(splits.train) == 60
    assert splits.validation == [Example("text 0", label="yes"), Example("another", label="no")]
    assert splits.test == splits.validation[:1]


def test_own_training_rows_do_not_bring_the_bundled_test_rows_along(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": ("card_arrival", "age_limit")[n % 2]} for n in range(20)]
    splits = load_splits(DataSettings(task="banking77", train=write(tmp_path, "train", rows)), 0)
    assert splits.test == []
    assert splits.task.num_classes == 77


def test_the_description_tells_what_was_inferred(tmp_path: Path, train: str) -> None:
    assert load_splits(DataSettings(train=train, few_shot={"total": 16}), 4).description == (
        f"{tmp_path.name}: single texts, 2 classes; 16 training rows of 60, "
        "16 validation rows held out of the training rows by seed 4, 0 test rows"
    )
    few = load_splits(DataSettings(task="banking77", few_shot={"total": 16}), 0)
    assert "(only " in few.description
    assert " of the 77 classes)" in few.description


def test_labels_that_training_never_has_are_named_with_their_row(tmp_path: Path, train: str) -> None:
    rows = [{"text": "x", "label": "yes"}, {"text": "y", "label": "maybe"}]
    for part in ("validation", "test"):
        settings = DataSettings(train=train, **{part: write(tmp_path, part, rows)})
        with pytest.raises(ConfigError, match=f"The {part} line 2 of .*{part}.jsonl has the label 'maybe'"):
            load_splits(settings, 0)


def test_a_label_that_a_known_task_lacks_is_named_with_its_row(tmp_path: Path) -> None:
    rows = [{"text": "x", "label": "age_limit"}, {"text": "y", "label": "age_limits"}]
    with pytest.raises(ConfigError, match=r"The training line 2 .* 'age_limits', but banking77 has no such label"):
        load_splits(DataSettings(task="banking77", train=write(tmp_path, "train", rows)), 0)


def test_parts_of_different_kinds_are_refused(tmp_path: Path, train: str) -> None:
    rows = [{"text": "x", "pair": "y", "label": "yes"}]
    with pytest.raises(
        ConfigError, match=r"The test line 1 .* is of the kind pair, but the task is of the kind single"
    ):
        load_splits(DataSettings(train=train, test=write(tmp_path, "test", rows)), 0)
    rows = [{"text": "x", "pair": "y", "label": "true"}]
    with pytest.raises(
        ConfigError, match=r"The test line 1 .* is of the kind pair, but the task is of the kind answer"
    ):
        load_splits(DataSettings(train=questions(tmp_path, 9), test=write(tmp_path, "test", rows)), 0)


def test_a_sample_of_one_class_is_refused(train: str) -> None:
    with pytest.raises(ConfigError, match=r"All training rows drawn \(1\) are of the class"):
        load_splits(DataSettings(train=train, few_shot={"total": 1}), 0)


def test_no_data_at_all_names_both_ways_out() -> None:
    with pytest.raises(ConfigError, match=r"Neither data\.train nor data\.task.*semeval2010_task8, banking77"):
        load_splits(DataSettings(), 0)
