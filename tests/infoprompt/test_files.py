"""What is written aside and put in place is whole under its name, at whatever step its writer is killed."""

import json
import os
import subprocess
import sys
import threading

import pytest

from infoprompt import files
from infoprompt.files import heal, read_object, replace_file, whole_file, whole_folder

# Forks a writer for each step, and kills it there: a step is a call of the operating system that Python tells of.
KILLED_AT_EVERY_STEP = """
import json, os, sys
from pathlib import Path
from infoprompt import files

def write_folder(place):
    with files.whole_folder(place / "x") as new:
        (new / "a").write_text("new"); (new / "b").write_text("new")

def write_file(place):
    files.replace_file(place / "x", "new")

def content(path):
    if path.is_dir():
        return {one.name: one.read_text() for one in path.iterdir()}
    return path.read_text()

root, kind, exchange = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "exchange"
write = {"folder": write_folder, "file": write_file}[kind]
if not exchange:
    files._exchange = lambda one, other: False
step, found = 0, []
while True:
    place = root / str(step)
    place.mkdir()
    if kind == "folder":
        (place / "x").mkdir(); (place / "x" / "a").write_text("old")
    else:
        (place / "x").write_text("old")
    child = os.fork()
    if not child:
        left = [step]
        def kill(event, arguments):
            if event.startswith(("os.", "shutil.", "open", "fcntl.")):
                if left[0] == 0:
                    os._exit(9)
                left[0] -= 1
        sys.addaudithook(kill)
        write(place)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    here = sorted(one.name for one in place.iterdir())
    files.heal(place / "x")
    seen = content(place / "x")
    write(place)
    found.append([code, here, seen, content(place / "x"), sorted(one.name for one in place.iterdir())])
    if code == 0:
        break
    step += 1
print(json.dumps(found))
"""


@pytest.mark.parametrize(("kind", "how"), [("folder", "exchange"), ("folder", "two renames"), ("file", "exchange")])
def test_a_writer_killed_at_any_step_leaves_the_old_or_the_new_and_the_next_one_leaves_nothing_else(
    tmp_path, kind, how
):
    command = [sys.executable, "-c", KILLED_AT_EVERY_STEP, str(tmp_path), kind, how]
    steps = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    old, new = ({"a": "old"}, {"a": "new", "b": "new"}) if kind == "folder" else ("old", "new")
    assert [code for code, *_ in steps] == [9] * (len(steps) - 1) + [0]
    assert all(seen in (old, new) for _, _, seen, _, _ in steps), steps
    assert old in [seen for _, _, seen, _, _ in steps]
    assert steps[-2][2] == new
    assert all(after == new and left == ["x"] for _, _, _, after, left in steps), steps
    if how == "exchange":  # without two renames there is no moment at which the name is missing
        assert all("x" in here for _, here, *_ in steps)
    else:
        assert any("x" not in here for _, here, *_ in steps)


def test_a_body_that_fails_leaves_the_old_folder_and_nothing_else(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/a").write_text("old")

    def write() -> None:
        with whole_folder(tmp_path / "x") as new:
            (new / "a").write_text("new")
            raise OSError(28, "full")

    with pytest.raises(OSError, match="full"):
        write()
    assert (tmp_path / "x/a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_file_that_fails_leaves_the_old_one(tmp_path):
    (tmp_path / "x").write_text("old")

    def write() -> None:
        with whole_file(tmp_path / "x") as temporary:
            temporary.write_text("ne")
            raise OSError(28, "full")

    with pytest.raises(OSError, match="full"):
        write()
    assert (tmp_path / "x").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("exchange", [True, False])
def test_writers_at_the_same_time_do_not_mix(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    problems = []

    def write(number):
        try:
            for _ in range(5):
                with whole_folder(tmp_path / "x") as new:
                    (new / "a").write_text(str(number))
                    (new / "b").write_text(str(number))
                replace_file(tmp_path / "y", str(number) * 1000)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert (tmp_path / "x/a").read_text() == (tmp_path / "x/b").read_text()
    assert len(set((tmp_path / "y").read_text())) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "y"]


def test_a_name_that_a_kill_took_away_comes_back(tmp_path):
    (tmp_path / ".old-x").mkdir()
    heal(tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    (tmp_path / ".old-x").mkdir()
    heal(tmp_path / "x")  # the name is taken
    assert sorted(path.name for path in tmp_path.iterdir()) == [".old-x", "x"]


@pytest.mark.parametrize("text", ["[]", "3", "{", "", '{"a": "\\ud800', "[" * 100_000, '{"a": ' * 100_000, "\x00"])
def test_anything_but_an_object_is_refused(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"x\.json"):
        read_object(tmp_path / "x.json")


def test_a_link_is_replaced_and_what_it_names_stays(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far/a").write_text("old")
    (tmp_path / "x").symlink_to(tmp_path / "far")
    with whole_folder(tmp_path / "x") as new:
        (new / "a").write_text("new")
    assert not os.path.islink(tmp_path / "x")
    assert (tmp_path / "x/a").read_text() == "new"
    assert (tmp_path / "far/a").read_text() == "old"
