"""One process writes to a folder; the lock of a dead one is taken over."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from infoprompt import folder_lock
from infoprompt.config import ConfigError
from infoprompt.folder_lock import _this_process, beside, held, inside, require_free_below, taken_over
from infoprompt.output import claimed_output_dir

HOLD = """
import sys, time
from pathlib import Path
from infoprompt.folder_lock import held
with held(Path(sys.argv[1]), "x is y"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
# All wait for the same moment, then try: whoever gets the lock says so and keeps it.
RACE = """
import sys, time
from pathlib import Path
from infoprompt.config import ConfigError
from infoprompt.folder_lock import held
print("ready", flush=True)
sys.stdin.readline()
try:
    with held(Path(sys.argv[1]), "x is y"):
        print("won", flush=True)
        sys.stdin.readline()
except ConfigError:
    print("refused", flush=True)
"""


class Alone:
    is_first = True

    def broadcast_object(self, value):
        return value


@pytest.fixture
def lock(tmp_path) -> Path:
    return inside(tmp_path)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(folder_lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(folder_lock, "SILENT_SECONDS", 0.6)
    monkeypatch.setattr(folder_lock, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(folder_lock, "DYING_SECONDS", 0.02)


def python(code: str, *arguments: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, **options)


def left_by(lock: Path, **changes) -> None:
    lock.write_text(json.dumps(asdict(replace(_this_process(), **changes))))


def test_a_folder_that_is_held_is_refused_with_who_holds_it_and_the_way_out(lock):
    with (
        held(lock, "run.output_dir is runs/x"),
        pytest.raises(ConfigError) as refused,
        held(lock, "run.output_dir is y"),
    ):
        pass
    text = str(refused.value)
    assert text.startswith("run.output_dir is y, but a run of process")
    assert f"process {os.getpid()} on {os.uname().nodename} has been writing there since 20" in text
    assert "Wait for its end or stop it, or give another folder." in text
    with held(lock, "x is y"):
        pass
    assert not lock.exists()


def test_a_lock_is_given_back_when_the_body_fails(lock):
    with pytest.raises(KeyboardInterrupt), held(lock, "x is y"):
        raise KeyboardInterrupt
    assert not lock.exists()


def test_the_lock_of_a_killed_process_is_taken_over_at_once(lock):
    other = python(HOLD, str(lock), "100")
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ConfigError, match=f"process {other.pid} on"), held(lock, "x is y"):
        pass
    other.kill()
    start = time.monotonic()
    with held(lock, "x is y"):  # nobody has waited for it: its id is in use
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    other.communicate()
    assert time.monotonic() - start < folder_lock.SILENT_SECONDS / 2


@pytest.mark.parametrize(
    "changes",
    [{"started": "1"}, {"boot": "before"}, {"pid": 2**22 + 1}],
    ids=["another process has its id", "the machine was started again", "it is gone"],
)
def test_a_dead_process_of_this_machine_is_told_from_a_living_one(lock, changes):
    left_by(lock, **changes)
    with held(lock, "x is y"):
        assert json.loads(lock.read_text())["id"]


@pytest.mark.parametrize("changes", [{"host": "far", "boot": "its own"}, {"namespace": "a container's"}])
def test_of_another_machine_the_lock_is_watched(lock, quick, changes):
    left_by(lock, **changes)
    os.utime(lock, (0, 2**33))  # a clock that is wrong must not matter
    start = time.monotonic()
    with held(lock, "x is y"):
        pass
    assert time.monotonic() - start >= folder_lock.SILENT_SECONDS

    left_by(lock, **changes)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.02):
            os.utime(lock)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(ConfigError, match="process"), held(lock, "x is y"):
            pass
    finally:
        ended.set()
        thread.join()


def test_a_lock_that_is_held_moves(lock, quick):
    with held(lock, "x is y"):
        before = lock.stat().st_mtime_ns
        deadline = time.monotonic() + 30
        while lock.stat().st_mtime_ns == before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert lock.stat().st_mtime_ns != before


def test_the_same_run_elsewhere_takes_over_without_waiting_and_the_first_notices(lock):
    with held(lock, "x is y", owner="sweep s"):
        assert taken_over(lock) is None
        left_by(lock, host="far", owner="sweep s")
        assert taken_over(lock).host == "far"
        with held(lock, "x is y", owner="sweep s"):
            assert json.loads(lock.read_text())["pid"] == os.getpid()
        left_by(lock, host="far", owner="sweep s")
    assert lock.exists()  # it is another's, who gives it back


@pytest.mark.parametrize("stale", [False, True])
def test_of_several_starts_at_the_same_time_one_wins(lock, stale):
    if stale:
        left_by(lock, started="1")
    others = [python(RACE, str(lock)) for _ in range(3)]
    assert [other.stdout.readline() for other in others] == ["ready\n"] * 3
    for other in others:
        other.stdin.write("\n")
        other.stdin.flush()
    said = sorted(other.stdout.readline() for other in others)
    for other in others:
        other.communicate("\n", timeout=60)
    assert said == ["refused\n"] * 2 + ["won\n"]
    assert not lock.exists()


@pytest.mark.parametrize("content", ["", "[]", "{", "\0\1", "null"])
def test_a_lock_without_a_process_holds_nothing(lock, content):
    lock.write_text(content)
    with held(lock, "x is y"):
        pass


def test_a_lock_in_any_folder_below_is_seen(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    require_free_below(tmp_path, "x is y")
    for path in (inside(tmp_path / "a/b"), beside(tmp_path / "a/table")):
        with held(path, "x is y"), pytest.raises(ConfigError, match=r"x is y, but a run of process"):
            require_free_below(tmp_path, "x is y")


def claimed(folder: Path, keep: bool = False):
    return claimed_output_dir(folder, keep=keep, ranks=Alone())


@pytest.mark.parametrize("keep", [False, True])
def test_an_earlier_run_is_moved_aside_and_a_live_one_never(tmp_path, keep):
    folder = tmp_path / "run"
    with claimed(folder):
        (folder / "config.yaml").write_text("first")
        with pytest.raises(ConfigError, match="a run of process"), claimed(folder, keep):
            pass
    below = held(inside(folder / "compare/other"), "x is y")
    with below, pytest.raises(ConfigError, match=r"compare/other/\.lock"), claimed(folder, keep):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    with claimed(folder):
        assert not (folder / "config.yaml").exists()
    assert (tmp_path / "run.1/config.yaml").read_text() == "first"
    assert not inside(tmp_path / "run.1").exists()
    assert not inside(folder).exists()
