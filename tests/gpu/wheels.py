"""Packages that a bare machine lacks, installed from wheels that were carried along (see bring_wheels.sh)."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path


def install_absent(wheels: Path, target: Path) -> list[str]:
    """Install the wheels of packages that are not installed at all, into a folder of their own.

    Returns:
        Their names, for people.
    Raises:
        RuntimeError: pip does not take them.
    """
    absent = [wheel for wheel in sorted(wheels.glob("*.whl")) if not _installed(wheel.name.split("-")[0])]
    if not absent:
        return []
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), *map(str, absent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pip did not take the wheels in {wheels}: {done.stderr.strip()[-600:]}")
    return ["-".join(wheel.name.split("-")[:2]) for wheel in absent]


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(re.sub(r"[-_.]+", "-", name))
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
