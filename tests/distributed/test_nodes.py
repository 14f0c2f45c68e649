"""What the machines of a run must have in common is looked at before anything is trained, and said once."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from infoprompt.config import ConfigError, build_config, dump_config
from infoprompt.engine.ranks import stop_ranks
from infoprompt.nodes import software, unlike

pytestmark = pytest.mark.distributed

ROOT = Path(__file__).parents[2]


def refused(settings: dict, what: str, other_folder: str = "") -> tuple[str, bool]:
    """On a rank: how a run ends where rank 1 differs, and whether another rank says it."""
    from infoprompt import nodes
    from infoprompt.train import run

    if os.environ["RANK"] == "1":
        if what == "folder":
            os.chdir(other_folder)  # `run.output_dir` is a relative path
        else:
            own = {**software(), what: "0.1"}
            nodes.software = lambda: own
    try:
        run(build_config(settings))
    except ConfigError as error:
        return str(error), getattr(error, "said", False)
    finally:
        stop_ranks()
    return "", False


@pytest.mark.parametrize("what", ["python", "torch", "deepspeed", "the code of infoprompt"])
def test_unlike_software_is_named_once(run_distributed, toy_settings, tmp_path, what):
    first, second = run_distributed(__file__, "refused", toy_settings, what)
    host = socket.gethostname()
    assert first[0] == second[0]
    assert f"unlike software: {what} is {software()[what]} on {host}, 0.1 on {host} (rank 1)." in first[0]
    assert "the same constraints.txt" in first[0]
    assert sorted(said for _, said in (first, second)) == [False, True]
    assert not (tmp_path / "run").exists()


def test_like_software_is_no_difference():
    assert unlike({"node1": software(), "node2": dict(software())}) == ""


def test_an_output_folder_that_a_machine_does_not_see_is_named_once(
    run_distributed, toy_settings, tmp_path, monkeypatch
):
    first_place, second_place = tmp_path / "a", tmp_path / "b"
    for place in (first_place, second_place):
        place.mkdir()
    monkeypatch.chdir(first_place)
    engine = {"kind": "plain", "timeout_seconds": 4}
    settings = {**toy_settings, "run": {"output_dir": "out"}, "engine": engine}
    first, second = run_distributed(__file__, "refused", settings, "folder", str(second_place))
    host = socket.gethostname()
    assert first[0] == second[0]
    assert f"run.output_dir is {first_place}/out on {host}, but what is written there is not seen in" in first[0]
    assert f"not seen in {second_place}/out on {host}. " in first[0]
    assert "Give a folder that they share." in first[0]
    assert sorted(said for _, said in (first, second)) == [False, True]
    assert [path.name for path in (first_place / "out").glob(".seen*")] == []


def test_a_port_that_another_program_listens_on_is_named(toy_settings, tmp_path):
    (tmp_path / "config.yaml").write_text(dump_config(build_config(toy_settings)))
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = str(other.getsockname()[1])
        place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        done = subprocess.run(
            [sys.executable, str(ROOT / "launcher/train.py"), str(tmp_path / "config.yaml")],
            env={**os.environ, **place}, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert errors == [
        f"error: MASTER_PORT is {port}, but another program listens on it on {socket.gethostname()}. A run needs a "
        "port of its own: give a free one, by --master_port=N of `deepspeed` or torchrun."
    ]
    assert "Traceback" not in done.stderr
