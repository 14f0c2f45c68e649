"""The proof of the GPU side runs, ends with the right code, and loses nothing that it has found."""

import json
import os
import subprocess
import sys
import zipfile

import pytest
import torch

from infoprompt.kernels.benchmark import measure
from infoprompt.kernels.contenders import Case, Contender
from tests.gpu import prove
from tests.gpu.prove import PARTS, ROOT, Part
from tests.gpu.record import End, Finding, Recorder, Records, read, write
from tests.gpu.report import written
from tests.gpu.speed import _add
from tests.gpu.wheels import install_absent

# The first process of a part does this instead, where it is one of these.
AT_START = """
import os, pathlib, sys, time
from tests.gpu.record import Recorder
if "slow" in sys.orig_argv:
    Recorder(pathlib.Path(sys.orig_argv[-2]), "slow").judge("early", 1.0, 2.0)
    time.sleep(600)
if "broken" in sys.orig_argv:
    print("no such kernel", file=sys.stderr, flush=True)
    os.abort()
if "accuracy" in sys.orig_argv:
    from infoprompt.kernels.pair_stats import op
    right = op.pair_stats
    def off_in_the_fourth_digit(*inputs, impl="auto", **options):
        stats = right(*inputs, impl=impl, **options)
        return stats if impl == "reference" else stats._replace(row_lse_N=stats.row_lse_N * 1.0001)
    op.pair_stats = off_in_the_fourth_digit
"""


@pytest.fixture
def at_start(tmp_path, monkeypatch):
    """Every Python that is started runs AT_START first."""
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "sitecustomize.py").write_text(AT_START)
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "first"), str(ROOT), before]))


@pytest.mark.slow
def test_a_dry_run_of_every_part_finds_nothing_wrong(tmp_path):
    names = [part.name for part in PARTS]
    halves = {"kernels": ["accuracy", "speed", "suite"], "models": ["training", "large", "versus_peft"]}
    assert {name for some in halves.values() for name in some} == set(names)
    running = {
        half: subprocess.Popen(
            [sys.executable, "-m", "tests.gpu.prove", "--dry", "--out", str(tmp_path / half), "--only", *some],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for half, some in halves.items()
    }
    for half, process in running.items():
        output, _ = process.communicate(timeout=280)
        log = (tmp_path / half / "log.txt").read_text()[-3000:]
        assert process.returncode == 0, f"{output}\n{log}"
        records = read(tmp_path / half)
        assert [(end.part, end.state) for end in records.ends] == [
            (name, "done") for name in names if name in halves[half]
        ]
        for name in halves[half]:
            numbers = [finding.value for finding in records.findings if finding.part == name]
            assert sum(value is not None for value in numbers) >= 3, name
        assert "none is wrong" in output
        assert records.about["commit"]
        whole = json.loads((tmp_path / half / "proof.json").read_text())
        assert (whole["wrong"], len(whole["findings"])) == (False, len(records.findings))
        assert "| what | value | right if | |" in (tmp_path / half / "proof.md").read_text()


def test_a_number_that_is_off_ends_with_1_and_is_named(at_start, tmp_path, capsys):
    assert prove.main(["--dry", "--only", "accuracy", "--out", str(tmp_path)]) == 1
    wrong = [finding.name for finding in read(tmp_path).findings if finding.wrong]
    assert all(name.startswith("pair_stats, ") for name in wrong), wrong
    assert "pair_stats, chunked, float16, (33, 40, 16), result 1" in wrong
    assert "WRONG pair_stats, triton, float32, (33, 40, 16), result 1" in capsys.readouterr().out
    assert "| **wrong** relative error" in (tmp_path / "proof.md").read_text()


def test_a_part_may_be_slow_broken_or_lack_a_package_and_the_others_count(at_start, tmp_path, monkeypatch, capsys):
    parts = (Part("slow", "", 1), Part("absent", "", 1, ("torch", "no_such_package")), Part("broken", "", 1))
    monkeypatch.setattr(prove, "PARTS", parts)
    # a third of the time is the first part's: eight seconds, and it takes one to start
    assert prove.main(["--dry", "--minutes", "0.4", "--out", str(tmp_path)]) == 1
    records = read(tmp_path)
    assert [(end.part, end.state) for end in records.ends] == [
        ("slow", "cut"),
        ("absent", "skipped"),
        ("broken", "failed"),
    ]
    assert [finding.name for finding in records.findings] == ["early"]
    output = capsys.readouterr().out
    assert "at its limit of 8 s" in output
    assert "absent: skipped, no_such_package not installed" in output
    assert "its process ended with -6; no such kernel" in output
    assert prove.main(["--dry", "--only", "slow", "absent", "--minutes", "0.05", "--out", str(tmp_path)]) == 0


def test_without_a_gpu_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert prove.main(["--only", "speed", "--out", str(tmp_path)]) == 2
    assert "torch sees no GPU here. Use --dry" in capsys.readouterr().err


def test_a_group_is_one_line_and_what_is_wrong_in_it_another(tmp_path):
    recorder = Recorder(tmp_path, "speed")
    recorder.judge("near", 0.9, 1.0, group="errors")
    recorder.judge("far", 1.0, 100.0, group="errors")
    recorder.judge("beyond", 3.0, 2.0, group="errors")
    recorder.judge("no number", float("nan"), 2.0)
    with recorder.trying("a step"):
        raise RuntimeError("out of memory\nand more")
    write(tmp_path, "end", vars(End("speed", "done")))
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write('{"finding": {"part": "sp')  # cut short
    table = written(read(tmp_path), tmp_path, "a command")
    lines = [" ".join(line.split()) for line in table.splitlines()]
    assert "errors 0.9 at most 1 the nearest to its limit of 2: near" in lines
    assert "WRONG beyond 3 at most 2" in lines
    assert "WRONG no number nan at most 2" in lines
    assert "WRONG a step - RuntimeError: out of memory" in lines
    assert lines[-1] == "5 numbers were checked and 3 are wrong."


def test_one_of_ours_that_cannot_run_is_wrong_and_anothers_is_not(tmp_path):
    def broken() -> torch.Tensor:
        raise RuntimeError("no such kernel")

    leaf = torch.ones(3, requires_grad=True)
    contenders = [Contender("ours", broken, ours=True), Contender("theirs", broken), Contender("plain", leaf.sum)]
    case = Case("toy", {"N": 3}, [leaf], contenders)
    _add(Recorder(tmp_path, "speed"), case, measure(case, 0), None)
    assert {finding.name: finding.wrong for finding in read(tmp_path).findings} == {
        "toy (N 3): ours": True,
        "toy (N 3): theirs": False,
        "toy (N 3): plain": False,
    }


def test_what_is_slow_is_not_wrong():
    slow = Records(findings=[Finding("speed", "ours", 1e9, "ms")], ends=[End("speed", "cut", 60.0)])
    assert not slow.wrong
    assert Records(ends=[End("speed", "failed")]).wrong


def test_of_the_wheels_carried_along_only_what_is_absent_is_installed(tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    name = "infoprompt_proof_example"
    with zipfile.ZipFile(wheels / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        info = f"{name}-1.0.dist-info"
        wheel.writestr(f"{name}.py", "ANSWER = 42\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    (wheels / "pytest-0.1-py3-none-any.whl").write_text("installed here, so this is never opened")
    assert install_absent(wheels, tmp_path / "site") == [f"{name}-1.0"]
    assert (tmp_path / "site" / f"{name}.py").read_text() == "ANSWER = 42\n"
    assert install_absent(tmp_path / "none", tmp_path / "site") == []
    (wheels / "broken_example-1.0-py3-none-any.whl").write_text("no archive")
    with pytest.raises(RuntimeError, match="pip did not take the wheels"):
        install_absent(wheels, tmp_path / "again")
