"""What the machines of a run must have in common: the same software, and the output folder at the same place."""

import hashlib
import platform
import socket
import time
import uuid
from pathlib import Path

from infoprompt.config import ConfigError
from infoprompt.output import on_first, write_first_file
from infoprompt.ranks import Ranks
from infoprompt.tracking.environment import package_version

SEEN_SECONDS = 10.0
"""For a file of the first rank to be seen on another machine: a shared folder may be late."""
PACKAGES = ("torch", "transformers", "deepspeed")


def software() -> dict[str, str]:
    """What computes here, by name; `code` tells versions of this project apart that have the same number."""
    packages = {name: package_version(name) or "not installed" for name in ("infoprompt", *PACKAGES)}
    code = hashlib.sha256()
    package = Path(__file__).parent
    for path in sorted(package.rglob("*.py")):
        code.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python, **packages, "the code of infoprompt": code.hexdigest()[:12]}


def check_software(ranks: Ranks) -> None:
    """Raise ConfigError, on every rank, where two of them have unlike software; every rank calls it."""
    if ranks.world_size == 1:
        return
    found: dict[str, dict[str, str]] = {}
    for rank, (host, own) in enumerate(ranks.gather_objects((socket.gethostname(), software()))):
        found[host if found.get(host, own) == own else f"{host} (rank {rank})"] = own
    if message := unlike(found):
        raise ConfigError(message)


def unlike(found: dict[str, dict[str, str]]) -> str:
    """What differs between machines, by host name, and the way out; empty if nothing does."""
    first, *others = found.values()
    differing = [name for name in first if any(other.get(name) != first[name] for other in others)]
    if not differing:
        return ""
    told = "; ".join(
        f"{name} is {', '.join(f'{own.get(name)} on {host}' for host, own in found.items())}" for name in differing
    )
    return (
        f"The machines have unlike software: {told}. All ranks of a run need the same. Install the same commit with "
        "the same constraints.txt on each, or start all from a folder that they share."
    )


def check_folder(ranks: Ranks, folder: Path, timeout_seconds: float) -> None:
    """Raise ConfigError, on every rank, where one does not see the output folder; every rank calls it.

    Args:
        ranks: this run's; the first one has made the folder.
        folder: `run.output_dir`.
        timeout_seconds: how long a collective may wait.
    """
    if ranks.world_size == 1:
        return
    sign = folder / f".seen-{uuid.uuid4().hex}"
    on_first(ranks, lambda: write_first_file(sign, ""))
    sign = folder / ranks.broadcast_object(sign.name)
    deadline = time.monotonic() + min(SEEN_SECONDS, timeout_seconds / 2)
    while not (seen := sign.exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    answers = ranks.gather_objects((socket.gethostname(), str(folder.absolute()), seen))
    if ranks.is_first:
        sign.unlink(missing_ok=True)
    blind = {f"{path} on {host}" for host, path, seen in answers if not seen}
    if blind:
        host, path, _ = answers[0]
        raise ConfigError(
            f"run.output_dir is {path} on {host}, but what is written there is not seen in {', '.join(sorted(blind))}. "
            "All machines of a run need it at the same place. Give a folder that they share."
        )
