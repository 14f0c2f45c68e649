"""What a run takes, measured by a few of its updates."""

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infoprompt.config import RunConfig, override_config
from infoprompt.progress import Decision, Progress

if TYPE_CHECKING:
    from infoprompt.data.splits import Splits

UPDATES = 5
"""Of a probe: evaluations follow the second, the fourth and the fifth of them."""


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


def probe(config: RunConfig, splits: "Splits", clock: Callable[[], float] = time.perf_counter) -> Estimate:
    """Train a few updates in this process, and tell what each part takes.

    Args:
        config: of the run; it writes below its own output folder, and nothing is kept but states in the cache.
        splits: its rows.
        clock: seconds.
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
        "evaluation.every_steps": 2,
        "checkpoint.enabled": False,
        "tracking.enabled": False,
        "engine.kind": "plain",
        "optim.max_steps": UPDATES,
        "optim.epochs": UPDATES,
    }
    if config.objective.label_form != "off":
        changes["objective.label_start"] = 0.0
    ends: list[float] = []

    def report(progress: Progress, scores: Mapping[str, float]) -> Decision:
        ends.append(clock())
        return "go"

    told = logging.getLogger("infoprompt")
    level = told.level
    told.setLevel(logging.ERROR)  # the run itself says these things again
    begin = clock()
    try:
        run(override_config(config, [], changes), report=report, splits=splits)
    finally:
        told.setLevel(level)
        stop_ranks()
        shutil.rmtree(changes["run.output_dir"], ignore_errors=True)
    total = clock() - begin
    rows = max(1, len(splits.validation))
    if len(ends) < 3:  # there is no update
        return Estimate(total, 0.0, 0.0, 0.0)
    longer, shorter = ends[1] - ends[0], ends[2] - ends[1]
    update = max(longer - shorter, 0.0) or longer / 4
    evaluation = max(shorter - update, 0.0)
    start = max(total - UPDATES * update - 3 * evaluation, 0.0)
    return Estimate(start, update, evaluation, evaluation / rows)
