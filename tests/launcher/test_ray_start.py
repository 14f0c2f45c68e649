"""Ways in which Ray does not start; each is one message with the way out."""

import pytest

from launcher.exit_codes import STOPPED
from launcher.exits import guarded
from launcher.pool import ray_start
from launcher.pool.ray_start import RayNotStarted, start_ray
from launcher.processes import held_port

LOCAL = [
    (TimeoutError("The current node timed out during startup. This could happen because the raylet failed"), "is busy"),
    (RuntimeError("Failed to register worker to Raylet: IOError"), "is busy"),
    (
        ValueError("Attempting to cap object store memory usage at 1 bytes, but the minimum allowed is 78643200"),
        "shm-size",
    ),
    (ValueError("The configured object store size (9 GiB) exceeds /dev/shm size (64 MiB)"), "shm-size"),
    (OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /long"), "RAY_TMPDIR"),
    (PermissionError(13, "Permission denied", "/tmp/ray"), "RAY_TMPDIR to a short path of your own"),
    (OSError(28, "No space left on device"), "Make room"),
    (SystemExit(1), "infoprompt doctor"),
    (KeyError("what nobody foresaw"), "infoprompt doctor"),
]
JOINED = [
    (ConnectionError("Could not find any running Ray instance. Please specify"), "unset RAY_ADDRESS"),
    (RuntimeError("Failed to connect to GCS at address 10.0.0.9:6379 within 5 seconds"), "unset RAY_ADDRESS"),
    (RuntimeError("Version mismatch: The cluster was started with:\n  Ray: 2.0\n  Python: 3.9"), "constraints.txt"),
    (type("AuthenticationError", (Exception,), {})("Token is not valid"), "auth_token"),
    (RuntimeError("rpc: InvalidAuthToken"), "auth_token"),
]
AGAIN = ("is busy", "unset RAY_ADDRESS", "infoprompt doctor")


def fail(monkeypatch, *errors: BaseException) -> list[dict]:
    """Have `ray.init` raise these in turn, and then succeed; returns what it is called with."""
    calls: list[dict] = []
    left = list(errors)

    def init(**options):
        calls.append(options)
        if left:
            raise left.pop(0)

    monkeypatch.setattr(ray_start.ray, "init", init)
    monkeypatch.setattr(ray_start.ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray_start, "_check_listening", lambda address: None)
    return calls


@pytest.mark.parametrize(("address", "error", "way"), [
    *((None, *case) for case in LOCAL), *(("10.0.0.9:6379", *case) for case in JOINED),
], ids=lambda value: getattr(value, "args", [None])[0] and str(value)[:30])  # fmt: skip
def test_a_failed_start_is_one_message_with_the_way_out(monkeypatch, capsys, address, error, way):
    calls = fail(monkeypatch, error, error)

    @guarded
    def command() -> None:
        start_ray(address, str, num_cpus=2)

    with pytest.raises(SystemExit) as ended:
        command()
    said = capsys.readouterr().err
    assert ended.value.code == STOPPED
    assert way in said
    assert said.count("\n") == 1
    assert said.startswith(f"error: The Ray cluster at {address}" if address else "error: Ray did not start here: ")
    slow = address is not None and not isinstance(error, OSError)
    assert len(calls) == (2 if way in AGAIN and not slow else 1)


def test_a_start_that_times_out_once_is_tried_once_more(monkeypatch):
    calls, said = fail(monkeypatch, TimeoutError("timed out")), []
    start_ray(None, said.append, address="local")
    assert calls == [{"address": "local"}] * 2
    assert said == ["Ray did not start: the machine is busy, or short of memory; trying once more"]


def test_ctrl_c_is_no_failed_start(monkeypatch):
    calls = fail(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        start_ray(None, str)
    assert len(calls) == 1


def test_an_address_where_nobody_listens_is_named_without_asking_ray(monkeypatch):
    monkeypatch.setattr(ray_start.ray, "init", lambda **options: pytest.fail("Ray asks for minutes"))
    monkeypatch.setattr(ray_start.ray, "shutdown", lambda: None)
    said: list[str] = []
    with held_port() as port:  # bound, and nobody listens
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
            with pytest.raises(RayNotStarted, match=rf"at {address} cannot be joined: it does not answer .* unset RAY"):
                start_ray(address, said.append)
    assert said == ["Ray did not start: it does not answer; trying once more"] * 2


def test_an_address_without_a_port_is_left_to_ray(monkeypatch):
    asked: list[dict] = []
    monkeypatch.setattr(ray_start.ray, "init", lambda **options: asked.append(options))
    for address in ("auto", "local", None):
        start_ray(address, str)
    assert len(asked) == 3
