"""Ray's start: tried once more where that may help, and one message with the way out where it does not come up."""

import logging
import socket
from collections.abc import Callable
from typing import Any

import ray

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
BUSY = "the machine is busy, or short of memory"


class RayNotStarted(RuntimeError):
    """Ray cannot be started, or a cluster not be joined."""


# Words of Ray's errors, in lower case; what is wrong; the way out; whether another try may help. The first that fits.
_KNOWN: tuple[tuple[tuple[str, ...], str, str, bool], ...] = (
    (
        ("version mismatch",),
        "the cluster has other versions of Ray or Python than this environment",
        "Install the cluster's versions here, or this environment's there: see constraints.txt",
        False,
    ),
    (
        ("authenticat", "auth token", "auth_token", "authtoken", "unauthorized", "permission_denied", "ray_auth"),
        "the access token is missing, or is not the cluster's",
        "Copy the cluster's ~/.ray/auth_token to this machine's and set RAY_AUTH_MODE=token, or unset RAY_AUTH_MODE "
        "for a Ray of your own; `infoprompt doctor` shows both sides",
        False,
    ),
    (
        ("minimum allowed is", "/dev/shm", "object store memory", "object_store_memory"),
        "there is too little shared memory (/dev/shm) for its object store",
        "Give the container more, as by `docker run --shm-size=1g`, or free some of it",
        False,
    ),
    (
        ("af_unix path", "path length", "file name too long"),
        "its folder for temporary files has too long a name for a socket",
        "Set RAY_TMPDIR to a short one, such as /tmp/ray_me",
        False,
    ),
    (
        ("no space left", "errno 28", "disk quota"),
        "the disk of its temporary files is full",
        "Make room, or set RAY_TMPDIR to a short path on another disk",
        False,
    ),
    (
        ("permission denied", "errno 13", "read-only file system"),
        "its temporary files cannot be written, for instance since another user's Ray has made the folder",
        "Set RAY_TMPDIR to a short path of your own",
        False,
    ),
    (("address already in use", "errno 98"), "a port is taken", "End the other Ray by `ray stop`", True),
)


def start_ray(address: str | None, say: Callable[[str], None], /, **options: Any) -> None:
    """`ray.init(**options)`, once more if a second try may help.

    Args:
        address: of the cluster to join, as RAY_ADDRESS says; None where Ray is started on this machine.
        say: tells people of the second try.
        options: for `ray.init`.
    Raises:
        RayNotStarted: with what is wrong and the way out.
    """
    for last in (False, True):
        try:
            _check_listening(address)
            ray.init(**options)
        except (Exception, SystemExit) as error:  # whatever Ray may raise; some of its failures end the process
            log.debug("Ray did not start", exc_info=True)
            ray.shutdown()  # half a start would be in the way of the next one
            what, way, again = explain_start(error, address)
            if last or not again:
                where = f"The Ray cluster at {address} cannot be joined" if address else "Ray did not start here"
                raise RayNotStarted(f"{where}: {what} ({_first_line(error)}). {way}.") from None
            say(f"Ray did not start: {what}; trying once more")
        else:
            return


def _check_listening(address: str | None) -> None:
    """Raise OSError if nobody listens there: Ray itself would ask for minutes."""
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():  # not `auto` or `local`
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def explain_start(error: BaseException, address: str | None) -> tuple[str, str, bool]:
    """What is wrong, the way out, and whether another try may help."""
    said = f"{type(error).__name__} {error}".lower()
    for words, what, way, again in _KNOWN:
        if any(word in said for word in words):
            return what, way, again
    if address is not None:
        return (
            "it does not answer",
            "Check RAY_ADDRESS and that the cluster runs (`ray status`), or unset RAY_ADDRESS to run "
            "on this machine alone",
            isinstance(error, OSError),  # that was quick; Ray's own answer takes minutes
        )
    if isinstance(error, TimeoutError) or any(word in said for word in ("timed out", "timeout", "register", "gcs")):
        return BUSY, "End what else runs, Ray processes that were left over among it (`ray stop`), and try again", True
    return "it says no more", "`infoprompt doctor` checks this machine; --debug shows where it failed", True


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return (text if len(text) <= 200 else f"{text[:199]}…").rstrip(".")
