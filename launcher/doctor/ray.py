"""What the doctor finds about Ray: the version, both sides' tokens, and what a submitted job would carry."""

import os
import subprocess
import urllib.error
import urllib.request
from importlib import metadata
from pathlib import Path

ANSWER_SECONDS = 2.0
MOST_UPLOADED = 100 * 2**20
"""Ray's job server refuses a larger working directory with HTTP 413."""

Finding = tuple[bool, str, str]
"""Whether all is well, what was found, and the way out."""


def ray_version() -> str | None:
    """The installed one."""
    try:
        return metadata.version("ray")
    except metadata.PackageNotFoundError:
        return None


def token() -> Finding:
    """Whether this client sends a token, and the cluster asks for one."""
    has = bool(os.environ.get("RAY_AUTH_TOKEN")) or (Path.home() / ".ray" / "auth_token").exists()
    mode = os.environ.get("RAY_AUTH_MODE", "not set")
    sends = has and mode == "token"
    address = _job_server()
    asks = _asks_for_token(address) if address else None
    here = f"this side: {'a token' if has else 'no token'}, RAY_AUTH_MODE is {mode}"
    there = "" if asks is None else f"; {address} asks for {'a' if asks else 'no'} token"
    found = f"address {os.environ.get('RAY_ADDRESS', 'not set: a sweep starts its own')}; {here}{there}"
    if asks and not has:
        way = "Copy the cluster's ~/.ray/auth_token to this machine's, and set RAY_AUTH_MODE=token."
        return False, found, f"`ray job submit` would be refused. {way}"
    if (asks or (asks is None and has)) and not sends:
        return False, found, "`ray job submit` would be refused by a cluster with a token. Set RAY_AUTH_MODE=token."
    if mode == "token" and not has:
        return False, found, "RAY_AUTH_MODE=token needs a token: `ray get-auth-token --generate`, or unset it."
    return True, found, ""


def upload(folder: Path) -> Finding | None:
    """What `ray job submit --working-dir FOLDER` would send; None where there is no git to say what is left out."""
    command = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    files = [folder / name.decode() for name in done.stdout.split(b"\0") if name]
    sizes = {path: path.stat().st_size for path in files if path.is_file() and not path.is_symlink()}
    total = sum(sizes.values())
    found = f"`ray job submit --working-dir .` sends {total / 2**20:.1f} MiB of {folder}"
    if total <= MOST_UPLOADED:
        return True, found, ""
    largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
    names = ", ".join(f"{path.relative_to(folder)} ({sizes[path] / 2**20:.0f} MiB)" for path in largest)
    return (
        False,
        found,
        f"Ray refuses more than {MOST_UPLOADED // 2**20} MiB. Name the largest in .rayignore or .gitignore, or move "
        f"them to a folder that all nodes share: {names}",
    )


def _job_server() -> str | None:
    address = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS", "")
    return address if address.startswith("http") else None


def _asks_for_token(address: str) -> bool | None:
    """None if it does not answer."""
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/jobs/", timeout=ANSWER_SECONDS):
            return False
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except (OSError, ValueError):
        return None
