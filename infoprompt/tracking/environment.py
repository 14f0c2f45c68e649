"""Where and from what a run was made, as tags: commit, versions, machine. Never a dump of the environment, which
holds secrets."""

import getpass
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from infoprompt.config import RunConfig

PACKAGES = ("infoprompt", "torch", "transformers", "datasets", "deepspeed", "ray", "mlflow", "triton")
COMMIT_VARIABLE = "INFOPROMPT_GIT_COMMIT"
"""Set by a launcher whose workers see no repository, as under Ray; the value of `git_commit()` there."""

RECIPE_VARIABLE = "INFOPROMPT_RECIPE"
"""Set by a launcher: name of the file that the config was read from, which the config itself does not know."""


def environment_tags(config: RunConfig) -> dict[str, str]:
    """What another person needs to know, beside the config, to compare or repeat a run. Empty facts are left out."""
    tags = {
        **_commit_tags(),
        **_version_tags(),
        **_hardware_tags(),
        "recipe": os.environ.get(RECIPE_VARIABLE, ""),
        "world_size": os.environ.get("WORLD_SIZE", "1"),
        "engine.kind": config.engine.kind,
        "engine.zero_stage": str(config.engine.zero_stage) if config.engine.kind == "deepspeed" else "",
        "ray.submission_id": os.environ.get("RAY_JOB_SUBMISSION_ID", ""),
        "mlflow.user": _user(),
        "mlflow.source.name": "infoprompt",
    }
    return {key: value for key, value in tags.items() if value}


def git_commit() -> str | None:
    """Commit of the working directory, with `-dirty` behind it if tracked files differ; None without a repository."""
    if given := os.environ.get(COMMIT_VARIABLE):
        return given
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return None
    return f"{commit}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else commit


def package_version(package: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit_tags() -> dict[str, str]:
    commit = git_commit()
    if commit is None:
        return {}
    clean = commit.removesuffix("-dirty")
    # MLflow shows the second name in its table of runs, and would fill it only where GitPython finds a repository
    return {"git.commit": clean, "git.dirty": str(clean != commit).lower(), "mlflow.source.git.commit": clean}


def _git(*arguments: str) -> str:
    command = ("git", "--no-optional-locks", *arguments)  # one that is cut would leave its lock in the repository
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""  # no git, or a repository too slow to ask
    return done.stdout.strip() if done.returncode == 0 else ""


def _version_tags() -> dict[str, str]:
    versions = {"version.python": platform.python_version()}
    found = {f"version.{package}": package_version(package) for package in PACKAGES}
    return versions | {name: version for name, version in found.items() if version}


def _hardware_tags() -> dict[str, str]:
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "host.cpu": _cpu_model(),
        "host.cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "host.memory_gib": _memory_gib(),
        "host.gpus": ", ".join(gpus),
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_gib() -> str:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return ""
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return ""
