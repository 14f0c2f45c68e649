"""What a run takes, measured by a few of its updates."""

import json
import logging
import shutil
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infoprompt.config import RunConfig, override_config

if TYPE_CHECKING:
    from infoprompt.data.splits import Splits

UPDATES, EVALUATE_EVERY = 6, 3
"""Of a probe."""


@dataclass(frozen=True)
class Estimate:
    """Seconds of the parts of a run."""

    start: float
    """Tokens, kept states and what else comes before the first update, and what comes after the last evaluation."""
    update: float
    evaluation: float
    """Of the held-out rows."""
    row: float
    """Of a row, when evaluating: of a held-out one, whose states may be kept."""

    def run(self, updates: int, evaluations: int = 1, further_rows: int = 0) -> float:
        """Seconds of a run."""
        return self.start + updates * self.update + evaluations * self.evaluation + further_rows * self.row

    def as_json(self) -> dict[str, float]:
        """As plain values."""
        return asdict(self)


def probe(config: RunConfig, splits: "Splits") -> Estimate:
    """Train a few updates in this process, and tell what each part takes.

    Args:
        config: of the run; it writes below its own output folder, and nothing is kept but states in the cache.
        splits: its rows.
    Raises:
        ConfigError: the run's settings do not fit the backbone or the rows.
    """
    from infoprompt.engine.ranks import stop_ranks
    from infoprompt.train import run

    changes: dict[str, Any] = {
        "run.output_dir": str(Path(config.run.output_dir) / "probe"),
        "run.save_artifact": False,
        "run.final_on_all": False,
        "run.mirror": None,
        "run.compare_with": {},
        "evaluation.test": False,
        "evaluation.patience": None,
        "evaluation.every_steps": EVALUATE_EVERY,
        "checkpoint.enabled": False,
        "tracking.enabled": False,
        "tracking.every_steps": 1,
        "engine.kind": "plain",
        "optim.max_steps": UPDATES,
        "optim.epochs": UPDATES,
    }
    if config.objective.label_form != "off":
        changes["objective.label_start"] = 0.0
    told = logging.getLogger("infoprompt")
    level = told.level
    told.setLevel(logging.ERROR)  # the run itself says these things again
    folder = Path(changes["run.output_dir"])
    begin = time.perf_counter()
    try:
        run(override_config(config, [], changes), splits=splits)
        total = time.perf_counter() - begin
        updates, evaluations = _measured(folder / "metrics.jsonl")
    finally:
        told.setLevel(level)
        stop_ranks()
        shutil.rmtree(folder, ignore_errors=True)
    if not updates:
        return Estimate(total, 0.0, 0.0, 0.0)
    update, evaluation = statistics.median(updates), statistics.median(evaluations)
    start = max(total - UPDATES * update - len(evaluations) * evaluation, 0.0)
    # a head that is fitted passes the training rows, too, before each evaluation
    passed = len(splits.validation) + (len(splits.train) if config.head_fit == "logistic_regression" else 0)
    return Estimate(start, update, evaluation, evaluation / passed)


def _measured(path: Path) -> tuple[list[float], list[float]]:
    """Seconds of updates and of evaluations, by the times of a run's records; the first update is left out."""
    updates: list[float] = []
    evaluations: list[float] = []
    before: float | None = None
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        kinds = {name.partition("/")[0] for name in record["metrics"]}
        if before is not None and kinds & {"train", "dev"}:
            (evaluations if "dev" in kinds else updates).append(record["time"] - before)
        before = record["time"]
    return updates, evaluations
