import json
import os
import sys
from pathlib import Path

import pytest

from infoprompt.config import ConfigError
from infoprompt.nodes import software
from launcher.doctor.hosts import examine_hosts, read_hostfile
from launcher.processes import held_port

FORM = "Each machine has a line `NAME slots=N`: its name as ssh knows it, and its number of ranks."


def test_machines_keep_their_order_and_comments_are_left_out(tmp_path):
    file = tmp_path / "hostfile"
    file.write_text("# ours\n\nnode2 slots=4 # the old one\nuser@node1  slots=8\n")
    assert list(read_hostfile(file).items()) == [("node2", 4), ("user@node1", 8)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node1", f"line 1 of FILE is 'node1', which is no machine. {FORM}"),
        ("node1 slots=\n", f"line 1 of FILE is 'node1 slots=', which is no machine. {FORM}"),
        ("node1 slots=8\nnode2 slots=8x", f"line 2 of FILE is 'node2 slots=8x', which is no machine. {FORM}"),
        ("node1 slots=0", "line 1 of FILE gives node1 slots=0, but each machine needs at least 1. Remove the line."),
        (
            "node1 slots=8\n\nnode1 slots=8",
            "line 3 of FILE names node1, as line 1 does. Write one line, with all slots of the machine.",
        ),
        ("# nothing\n", f"--hostfile is FILE, which names no machine. {FORM}"),
        (
            None,
            f"--hostfile is FILE, but there is no such file; `deepspeed` would train on this machine alone. {FORM}",
        ),
    ],
    ids=["no slots", "empty slots", "words behind", "zero", "twice", "empty", "missing"],
)
def test_a_wrong_host_file_is_refused_with_its_line(infoprompt, tmp_path, text, message):
    file = tmp_path / "hostfile"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_hostfile(file)
    assert str(refused.value) == message.replace("FILE", str(file))
    if text == "node1":
        done = infoprompt("doctor", "--hostfile", file)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"error: {refused.value}\n"


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """`ssh(script)` is what ssh does for now; a machine is this one, and pdsh is there."""

    def write(script: str) -> None:
        (tmp_path / "bin/ssh").write_text(f"#!/bin/sh\nfor last; do :; done\n{script}\n")
        (tmp_path / "bin/ssh").chmod(0o755)

    for name in ("bin", "project"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin/pdsh").write_text("#!/bin/sh\n")
    (tmp_path / "bin/pdsh").chmod(0o755)
    (tmp_path / "hostfile").write_text("node1 slots=1\nnode2 slots=1\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path / "project")
    return write


def answer(**changes) -> str:
    values = {"software": software(), "gpus": 0, "cores": 64, "sees": True, "taken": False, **changes}
    return f"cat <<'END'\n{json.dumps(values)}\nEND"


def test_machines_that_are_alike_and_ready_are_told_so(ssh, tmp_path):
    ssh('sh -c "$last"')
    with held_port() as port:
        pdsh, *machines = examine_hosts(tmp_path / "hostfile", port)
    assert pdsh.status == "ok"
    assert [(check.name, check.status, check.remedy) for check in machines] == [
        ("node1", "ok", ""),
        ("node2", "ok", ""),
    ]
    assert list((tmp_path / "project").iterdir()) == []


@pytest.mark.parametrize(
    ("script", "status", "told"),
    [
        (
            "echo 'ssh: Could not resolve hostname node1: Name or service not known' >&2; exit 255",
            "fail",
            "No login by ssh (ssh: Could not resolve hostname node1: Name or service not known). `ssh node1 true` must",
        ),
        ('cd /; sh -c "$(echo "$last" | sed \'s#project#elsewhere#\')"', "fail", "/project is not there. The project"),
        ("exit 72", "fail", f"{sys.executable} is not there. The environment must be at the same path"),
        (
            "echo ModuleNotFoundError: no torch >&2; exit 1",
            "fail",
            "infoprompt cannot be loaded there (ModuleNotFoundError: no torch). Install the same commit",
        ),
        (
            answer(software={**software(), "torch": "2.0"}),
            "fail",
            f"unlike software: torch is {software()['torch']} on this machine, 2.0 on node1.",
        ),
        (answer(gpus=4), "ok", ""),
        (answer(gpus=0, cores=0), "warn", "ranks will wait for each other's cores."),
        (answer(taken=True), "fail", "Another program listens on port 29500 there. Give a free one"),
        (answer(sees=False), "warn", "It does not see what is written in"),
    ],
    ids=["name", "folder", "python", "package", "torch", "gpus", "cores", "port", "shared"],
)
def test_what_would_fail_on_a_machine_is_told_with_the_way_out(ssh, tmp_path, script, status, told):
    ssh(script)
    first = examine_hosts(tmp_path / "hostfile", 29500)[1]
    assert (first.name, first.status) == ("node1", status)
    assert told in first.remedy


def test_more_slots_than_gpus_are_refused(ssh, tmp_path):
    ssh(answer(gpus=4))
    (tmp_path / "hostfile").write_text("node1 slots=8\n")
    assert examine_hosts(tmp_path / "hostfile", 29500)[1].remedy == (
        "slots=8, but each rank needs a GPU of its own. Write slots=4."
    )


def test_the_port_counts_on_the_first_machine_alone(ssh, tmp_path):
    ssh(answer(taken=True))
    assert [check.status for check in examine_hosts(tmp_path / "hostfile", 29500)] == ["ok", "fail", "ok"]


def test_a_host_file_without_pdsh_is_told(ssh, tmp_path, monkeypatch):
    ssh(answer())
    monkeypatch.setattr("shutil.which", lambda name: None)
    pdsh = examine_hosts(tmp_path / "hostfile", 29500)[0]
    assert (pdsh.status, "--no_ssh or torchrun" in pdsh.remedy) == ("fail", True)
