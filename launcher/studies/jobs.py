"""The runs of a study: where each one writes, what it does, whether it is done."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from infoprompt.config import ConfigError, FewShotSettings, RunConfig, build_config, changed_setting, read_yaml
from infoprompt.folder_lock import inside, require_free
from launcher.studies.plan import Setting, Study
from launcher.studies.settings import size_name

FAILURE_NAME = "failure.json"


@dataclass(eq=False)
class Cell:
    """A method on a task at a size: a row of the table."""

    study: Study
    task: str
    size: FewShotSettings
    method: str
    _final_jobs: dict[str, list["Job"]] = field(default_factory=dict)

    @property
    def place(self) -> tuple[str, str, str]:
        """Task, size and method as names."""
        return self.task, size_name(self.size), self.method

    @property
    def folder(self) -> Path:
        """Where its runs write."""
        return self.study.folder.joinpath("runs", *self.place)

    @property
    def settings(self) -> tuple[Setting, ...]:
        """What it tries."""
        return self.study.methods[self.method].settings

    @cached_property
    def search_jobs(self) -> list["Job"]:
        """The runs that choose its setting; none where there is one setting only."""
        if len(self.settings) == 1:
            return []
        seeds = self.study.config.search_seeds
        return [Job(self, "search", setting, seed) for setting in self.settings for seed in seeds]

    @property
    def final_jobs(self) -> list["Job"]:
        """The runs that are reported, always the same objects; none as long as no setting is chosen.

        A seed of the search is trained again, since its run of the search did not see the test rows.
        """
        setting = self.chosen
        if setting is None:
            return []
        key = json.dumps(setting, sort_keys=True)  # a search run that is mended may change the choice
        if key not in self._final_jobs:
            self._final_jobs[key] = [Job(self, "final", setting, seed) for seed in self.study.config.seeds]
        return self._final_jobs[key]

    @property
    def chosen(self) -> Setting | None:
        """The setting with the best mean dev score over the search's seeds, the first of equals.

        A setting with a run that failed is left out; None while runs are missing, or if all settings failed.
        """
        if not self.search_jobs:
            return self.settings[0]
        if not all(job.ended for job in self.search_jobs):
            return None
        means = []
        for setting in self.settings:
            results = [job.result() for job in self.search_jobs if job.setting == setting]
            scores = [result["dev"][result["metric"]] for result in results if result]
            if len(scores) == len(results):
                means.append((sum(scores) / len(scores), setting))
        return max(means, key=lambda pair: pair[0])[1] if means else None


@dataclass(eq=False)
class Job:
    """One run of a study."""

    cell: Cell
    phase: Literal["search", "final"]
    setting: Setting
    seed: int
    _result: dict[str, Any] | None = None

    @property
    def folder(self) -> Path:
        """Where it writes: named by what it tries, so that another grid finds what it shares with this one."""
        if self.phase == "final":
            return self.cell.folder / f"seed_{self.seed}"
        name = hashlib.sha256(json.dumps(self.setting, sort_keys=True).encode()).hexdigest()[:8]
        return self.cell.folder / "search" / f"{name}_seed_{self.seed}"

    @property
    def name(self) -> str:
        """Its name for people and for MLflow."""
        task, size, method = self.cell.place
        return f"{task} {size} {method} {self.phase} {self.folder.name}"

    @cached_property
    def config(self) -> RunConfig:
        """The checked config."""
        study = self.cell.study
        forced: Setting = {
            "run.output_dir": str(self.folder),
            "run.name": "-".join([*self.cell.place, *self.folder.relative_to(self.cell.folder).parts]),
            "run.compare_with": {},
            "run.save_artifact": self.phase == "final" and study.config.save_artifacts,
            "evaluation.test": self.phase == "final",
        }
        if self.phase == "search" and not study.config.track_search:
            forced["tracking.enabled"] = False
        config = study.run_config(self.cell.method, self.cell.task, self.cell.size, self.setting, self.seed, forced)
        return config.mirrored_below(self.folder.relative_to(study.folder).as_posix())

    @property
    def ended(self) -> bool:
        """Whether it finished or failed."""
        return self.failure() is not None or self.result() is not None

    def result(self) -> dict[str, Any] | None:
        """The `RunResult` as plain values, if the run finished with today's settings."""
        if self._result is None:
            result = _read_json(self.folder / "result.json")
            if result.get("state") == "finished" and self._same_config():
                self._result = result
        return self._result

    def failure(self) -> str | None:
        """Why it failed, if this start of the study saw it fail."""
        message = _read_json(self.folder / FAILURE_NAME).get("message")
        return str(message) if message else None

    def history(self) -> list[dict[str, float]]:
        """Its records by step; none if it did not finish."""
        try:
            rows: list[dict[str, float]] = json.loads((self.folder / "history.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return rows

    def predictions(self) -> dict[str, Any]:
        """Labels and predictions of the test rows; empty where there are none."""
        return _read_json(self.folder / "predictions.json")

    def forget_failure(self) -> None:
        """Let it be tried again."""
        (self.folder / FAILURE_NAME).unlink(missing_ok=True)

    def clear(self, owner: str | None = None) -> None:
        """Make room for a new start. A finished run of other settings stays: the run itself moves it aside.

        Args:
            owner: whose earlier start of the run, on a machine that was lost, need not be waited for.
        Raises:
            ConfigError: a run that is not this study's is writing there.
        """
        if self.folder.exists() and not (self.folder / "result.json").exists():
            require_free(inside(self.folder), f"run.output_dir is {self.folder}", owner)
            shutil.rmtree(self.folder)

    def fail(self, message: str) -> None:
        """Remember why it failed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / FAILURE_NAME).write_text(json.dumps({"message": message}), encoding="utf-8")

    def _same_config(self) -> bool:
        try:
            kept = build_config(read_yaml(self.folder / "config.yaml", RunConfig))
        except ConfigError:
            return False
        return changed_setting(self.config, kept) is None


def cells(study: Study) -> list[Cell]:
    """Every row of the table, in its order."""
    config = study.config
    return [
        Cell(study, task, size, method)
        for task in config.tasks
        for size in config.sizes_of(task)
        for method in config.methods
    ]


def num_planned(table: Sequence[Cell]) -> int:
    """How many runs the table takes."""
    return sum(len(cell.search_jobs) + len(cell.study.config.seeds) for cell in table)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
