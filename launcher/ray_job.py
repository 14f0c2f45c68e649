"""What is other in a job of `ray job submit`: where it writes, and which files it was given."""

import os
from collections.abc import Callable
from pathlib import Path

from infoprompt.config import ConfigError, RunConfig
from infoprompt.data.places import given_sources, present


def in_job() -> bool:
    """Whether this process runs in Ray's copy of a working directory."""
    return "runtime_resources" in Path.cwd().parts  # Ray's folder of such copies


def job_home(say: Callable[[str], None]) -> Path | None:
    """Where a job keeps what it writes: INFOPROMPT_HOME, else ~/infoprompt; None outside a job.

    On a cluster of several machines it must be a folder that all of them share. Tells people, and has MLflow's
    database there where no server is named: what a job writes beside itself goes when Ray removes its copy.
    """
    if not in_job():
        return None
    home = Path(os.environ.get("INFOPROMPT_HOME") or Path.home() / "infoprompt").absolute()
    home.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'mlflow.db'}")
    say(f"what this job writes goes to {home} (INFOPROMPT_HOME)")
    return home


def check_sent(config: RunConfig, folder: Path) -> None:
    """Raise ConfigError where the copy of a working directory that a job was given lacks a file of data."""
    for name in ("train", "validation", "test", "unlabelled"):
        for source in given_sources(getattr(config.data, name) or []):
            if not present(source) and Path(source).is_relative_to(folder):
                raise ConfigError(
                    f"data.{name} is {Path(source).relative_to(folder)}, which is not in the copy of the working "
                    "directory that this job was given. `ray job submit` sends nothing that .gitignore or .rayignore "
                    "names. Give the full path of a file in a folder that all machines share."
                )
