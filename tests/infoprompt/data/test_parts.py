"""Where the rows of a known task are found."""

import json
from pathlib import Path
from typing import Any

import pytest

from infoprompt.config import ConfigError, DataSettings
from infoprompt.data.splits import load_splits
from infoprompt.data.task_files import BUNDLED, find_task_files
from infoprompt.data.tasks import TASKS

ROWS = [{"text_a": f"a {n}", "text_b": "b", "label": ("entailment", "not_entailment")[n % 2]} for n in range(40)]


@pytest.fixture(autouse=True)
def _no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INFOPROMPT_DATA", raising=False)


def write(folder: Path, **parts: list[dict[str, Any]]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder.parent)


def test_without_a_test_file_validation_is_the_report_and_chooses_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path / "rte", train=ROWS, validation=ROWS[:6])
    splits = load_splits(DataSettings(task="rte", folder=folder), 0)
    assert len(splits.test) == 6
    assert len(splits.train) + len(splits.validation) == 40
    assert "held out of the training rows" in splits.description


def test_with_a_test_file_validation_chooses(tmp_path: Path) -> None:
    folder = write(tmp_path / "rte", train=ROWS, validation=ROWS[:6], test=ROWS[:4])
    splits = load_splits(DataSettings(task="rte", folder=folder), 0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (40, 6, 4)


def test_a_few_shot_run_holds_its_own_validation_rows_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "rte", train=ROWS, validation=ROWS[:6], test=ROWS[:4])
    splits = load_splits(DataSettings(task="rte", folder=folder, few_shot={"per_class": 4}), 0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (8, 8, 4)


def test_fewglue_rows_stand_in_for_missing_training_rows(tmp_path: Path) -> None:
    folder = write(tmp_path / "rte", train32=ROWS[:8], dev32=ROWS[8:14], validation=ROWS[14:])
    splits = load_splits(DataSettings(task="rte", folder=folder), 0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (8, 6, 26)


def test_an_archive_of_superglue_is_found_by_its_own_names(tmp_path: Path) -> None:
    rows = [{"premise": row["text_a"], "hypothesis": "b", "label": row["label"], "idx": 1} for row in ROWS]
    private = [{"premise": "a", "hypothesis": "b", "idx": 1}]
    folder = write(tmp_path / "RTE", train=rows, val=rows[:6], test=private)
    splits = load_splits(DataSettings(task="rte", folder=folder), 0)
    assert len(splits.test) == 6


def test_an_archive_of_glue_is_found_by_its_own_names(tmp_path: Path) -> None:
    (tmp_path / "SST-2").mkdir()
    lines = ["sentence\tlabel", *(f'a "film {n} \t{n % 2}' for n in range(20))]
    for part in ("train", "dev"):
        (tmp_path / "SST-2" / f"{part}.tsv").write_text("\n".join(lines))
    (tmp_path / "SST-2" / "test.tsv").write_text("index\tsentence\n0\ta film\n")
    splits = load_splits(DataSettings(task="sst2", folder=str(tmp_path)), 0)
    assert len(splits.test) == 20
    assert splits.test[1].label == "positive"
    assert splits.test[1].text == 'a "film 1 '


def test_the_environment_names_the_folder_where_no_setting_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFOPROMPT_DATA", write(tmp_path / "rte", train=ROWS, validation=ROWS[:6]))
    parts = find_task_files(TASKS["rte"], None)
    assert parts is not None
    assert parts.origin == "folder"


def test_the_hub_comes_last_and_its_private_test_split_is_never_asked_for(tmp_path: Path) -> None:
    parts = find_task_files(TASKS["rte"], str(tmp_path))
    assert parts is not None
    assert (parts.train, parts.validation, parts.test) == (
        "nyu-mll/glue@rte:train",
        None,
        "nyu-mll/glue@rte:validation",
    )
    mrpc = find_task_files(TASKS["mrpc"], None)
    assert mrpc is not None
    assert (mrpc.validation, mrpc.test) == ("nyu-mll/glue@mrpc:validation", "nyu-mll/glue@mrpc:test")


def test_rows_that_are_nowhere_name_all_three_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(*_: Any, **__: Any) -> Any:
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = (
        r"data\.task is rte.*neither data\.folder nor INFOPROMPT_DATA.*rte/train\.jsonl\.gz.*glue@rte.*data\.train"
    )
    with pytest.raises(ConfigError, match=message):
        load_splits(DataSettings(task="rte"), 0)
    with pytest.raises(ConfigError, match=r"data\.task is sick.*sick has none.*or give data\.train a file"):
        load_splits(DataSettings(task="sick", folder=str(tmp_path)), 0)


def test_a_data_set_published_as_a_script_is_read_from_the_hubs_own_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    table = datasets.Dataset.from_list([{"premise": "a", "hypothesis": "b", "label": "entailment"}])
    asked = []

    def load_dataset(*_: Any, split: str, revision: str | None = None) -> Any:
        asked.append(revision)
        if revision is None:
            raise RuntimeError("Dataset scripts are no longer supported, but found super_glue.py")
        return table

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    settings = DataSettings(task="cb", validation_share=0.5)
    with pytest.raises(ConfigError, match="every class has one text only"):
        load_splits(settings, 0)
    assert asked == [None, "refs/convert/parquet"] * 2  # of the training and the test rows


def test_tasks_with_rows_in_the_package_need_nothing_else() -> None:
    for name in BUNDLED:
        parts = find_task_files(TASKS[name], "/nowhere")
        assert parts is not None
        assert parts.origin == "bundled"


def test_values_outside_a_known_scale_and_short_classes_of_tags_are_refused(tmp_path: Path) -> None:
    rows = [{"text_a": "a", "text_b": f"{n}", "label": float(n)} for n in range(7)]
    folder = write(tmp_path / "stsb", train=rows, validation=rows[:3])
    with pytest.raises(ConfigError, match="has the value 6, but those of stsb run from 0 to 5"):
        load_splits(DataSettings(task="stsb", folder=folder), 0)
    tagged = [{"tokens": ["a"], "tags": ["B-person"]}] * 3
    folder = write(tmp_path / "wnut17", train=tagged, validation=tagged)
    with pytest.raises(ConfigError, match=r"data\.few_shot\.per_class is 2, but .* tags of words.*few_shot\.total"):
        load_splits(DataSettings(task="wnut17", folder=folder, few_shot={"per_class": 2}), 0)
