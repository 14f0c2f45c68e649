"""A run and those it is compared with, one after the other in the same processes."""

import json
import logging
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from infoprompt.config import ConfigError, RunConfig, override_config
from infoprompt.progress import TrainingStopped

if TYPE_CHECKING:
    from infoprompt.data.splits import Splits

log = logging.getLogger(__name__)

Resume = Literal["auto", "never"]
Result = dict[str, Any]  # a `RunResult` as plain values: it travels between processes as JSON


@dataclass(frozen=True)
class Outcome:
    """What came out of a run and of those it was compared with."""

    name: str
    """Name of the main run."""
    main: Result
    compare: dict[str, Result] = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)
    """Comparisons that could not go on, and why."""

    def results(self) -> dict[str, Result]:
        """Every finished run under its name, the main one first."""
        return {self.name: self.main, **self.compare}

    def as_json(self) -> dict[str, Any]:
        """The main run's result, with the others under `compare` and, if there are any, `stopped`."""
        return {**self.main, "compare": self.compare, **({"stopped": self.stopped} if self.stopped else {})}

    def save(self, path: Path) -> None:
        """Write it for the process that started this one."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Outcome":
        """Read it back."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def comparisons(config: RunConfig) -> dict[str, RunConfig]:
    """The checked config of each `run.compare_with` entry; its output goes to `<output_dir>/compare/<name>`.

    Raises:
        ConfigError: an entry's name cannot be a folder, or its overrides do not fit.
    """
    return {name: _comparison(config, name, overrides) for name, overrides in config.run.compare_with.items()}


def read_rows_of(config: RunConfig) -> "Splits":
    """The rows of a run, read and checked before torch is loaded; those of its comparisons are checked too.

    Raises:
        ConfigError: all that is wrong with the files, or a comparison does not fit.
    """
    from infoprompt.data.splits import load_splits

    others = comparisons(config)
    splits = load_splits(config.data, config.data_seed)
    read = {(repr(config.data), config.data_seed)}
    for other in others.values():
        key = (repr(other.data), other.data_seed)
        if key not in read and other.data != config.data:  # another seed draws from the same rows
            load_splits(other.data, other.data_seed)
        read.add(key)
    return splits


def train_all(
    config: RunConfig,
    *,
    resume: Resume = "never",
    show_progress: bool = False,
    say: Callable[[str], None] = log.info,
    splits: "Splits | None" = None,
) -> Outcome:
    """Train a run, then those it is compared with, which MLflow shows below it; every rank calls it.

    The rows of the run itself are `splits`, where they were read before.

    A comparison that stops is noted in the outcome and the next one starts; everything else is raised.
    """
    others = comparisons(config)  # before the first one starts: an error in the last shall not come after an hour
    from infoprompt.engine.ranks import stop_ranks
    from infoprompt.tracking import recorded_as
    from infoprompt.train import run

    main = run(config, resume=resume, show_progress=show_progress, splits=splits).as_json()
    splits = None  # their memory
    # a slow server may have answered only while the run went on
    parent = (main["run_id"] or recorded_as(Path(config.run.output_dir))) if config.tracking.enabled else None
    finished: dict[str, Result] = {}
    stopped: dict[str, str] = {}
    for name, other in others.items():
        say(f"comparing with {name}: {', '.join(config.run.compare_with[name])}")
        try:
            compared = run(
                other,
                resume=resume,
                show_progress=show_progress,
                parent_run_id=parent,
                tags={"comparison": name},
            )
            finished[name] = compared.as_json()
        except TrainingStopped as error:
            stopped[name] = str(error)
    stop_ranks()
    return Outcome(config.run_name, main, finished, stopped)


def _comparison(config: RunConfig, name: str, overrides: list[str]) -> RunConfig:
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ConfigError(
            f"run.compare_with names {name!r}, but the name becomes a folder. Use letters, digits, `_`, `.`, `+`, `-`."
        )
    place: dict[str, Any] = {
        "run.output_dir": str(Path(config.run.output_dir) / "compare" / name),
        "run.name": f"{config.run_name}-{name}",
        "run.mirror": config.mirrored_below(f"compare/{name}").run.mirror,
        "run.compare_with": {},
    }
    try:
        return override_config(config, overrides, place)
    except ConfigError as error:
        raise ConfigError(f"run.compare_with.{name}: {error}") from None
