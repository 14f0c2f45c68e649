"""The proofs still run, at a size of seconds; `make proofs` runs them whole. The one on Ray is among Ray's tests."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from launcher.sweeps.journal import RunState, TrialState, save_trial
from launcher.sweeps.plan import load_sweep
from tests.proofs import fault_sweep, kept_backbone, large_tasks, long_rows, million_rows, wrong_pools
from tests.proofs.fault_sweep import NUM_EVALUATIONS, NUM_TRIALS, STEPS, SweepRun


def test_every_proof_whose_outcome_is_kept_is_one_of_make():
    (named,) = re.findall(r"^PROOFS := (.*)$", (long_rows.ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert {file.stem for file in Path(__file__).parent.glob("*.txt")} <= set(named.split())


def test_a_backbone_is_timed_read_anew_and_kept(capsys):
    code = kept_backbone.main(["--runs", "1", "--layers", "1", "--width", "64"])
    lines = capsys.readouterr().out.splitlines()
    anew, kept = (float(line.split("median ")[1].split()[0]) for line in lines[-2:])
    assert code in ((0, 1) if anew == kept else (int(kept > anew),))  # they are rounded


def test_the_sweep_of_the_faults_is_one(tmp_path):
    sweep = load_sweep(fault_sweep.write_sweep(tmp_path), ["output_dir=out", "placement=SPREAD"])
    assert (sweep.num_trials, sweep.settings.workers_per_trial, sweep.settings.placement) == (NUM_TRIALS, 2, "SPREAD")


@pytest.fixture
def runs(tmp_path):
    """Two sweeps of one trial that have come to the same."""
    both = [SweepRun(None, tmp_path / "sweep.yaml", name, "PACK") for name in ("without", "pack")]
    result = {"dev": {"accuracy": 0.5}, "steps": STEPS, "best_step": 20, "steps_to_95": 20, "metric": "accuracy"}
    for one in both:
        run = RunState(0, "finished", [(step, 0.5) for step in range(NUM_EVALUATIONS)], result)
        save_trial(one.folder, TrialState(0, {"seed": 0}, [run], "finished", score=0.5))
        artifact = one.folder / "trials/0000/seed_0/artifact"
        artifact.mkdir(parents=True)
        history = [{"step": step, "train/loss": 0.1, "dev/accuracy": 0.5} for step in range(STEPS)]
        artifact.with_name("history.json").write_text(json.dumps(history))
        save_file({"prompt": torch.ones(2)}, artifact / "prompt.safetensors")
    return both


def test_equal_sweeps_have_no_difference(runs):
    assert [one.equal for one in fault_sweep.compare(*runs)] == [True]


@pytest.mark.parametrize("what", ["losses", "evaluations", "tensors"])
def test_the_last_digit_of_a_number_is_a_difference(runs, what):
    place = runs[1].folder / "trials/0000/seed_0"
    if what == "tensors":
        save_file({"prompt": torch.tensor([1.0, 1.0 + 1e-6])}, place / "artifact/prompt.safetensors")
    else:
        rows = json.loads((place / "history.json").read_text())
        rows[7]["train/loss" if what == "losses" else "dev/accuracy"] += 1e-12
        (place / "history.json").write_text(json.dumps(rows))
    (difference,) = fault_sweep.compare(*runs)
    assert not difference.equal
    assert [name for name in ("evaluations", "losses", "tensors") if getattr(difference, name)] == [what]


def test_a_trial_that_failed_is_a_difference(runs):
    save_trial(runs[1].folder, TrialState(0, {"seed": 0}, [RunState(0)], "failed"))
    (difference,) = fault_sweep.compare(*runs)
    assert not difference.equal
    assert "is failed" in difference.problems[0]


def test_wrong_pools_need_their_data(monkeypatch, capsys):
    monkeypatch.delenv("INFOPROMPT_DATA", raising=False)
    assert wrong_pools.main([]) == 2
    assert "INFOPROMPT_DATA is not set" in capsys.readouterr().err


def test_a_run_on_many_rows_is_watched(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("INFOPROMPT_CACHE", str(tmp_path / "cache"))
    million_rows.make_backbone(tmp_path / "backbone")
    (tmp_path / "rows").mkdir()
    for seed, part in enumerate(("train", "validation", "test")):
        million_rows.write_rows(tmp_path / "rows" / f"{part}.csv", 24, 3, seed)
    million_rows.train_once(str(tmp_path / "rows"), "first", "head_only", 2 * million_rows.EVERY, 0.0)
    times, (end, test) = json.loads(capsys.readouterr().out.split("TIMES ")[1])
    assert times[0] < times[1] < end
    assert set(test) >= {"accuracy"}
    assert million_rows.own_mib(psutil.Process()) > 50


FOUND = million_rows.Measured(first_update_seconds=9, update_ms=2, end_seconds=1, total_seconds=20, own_mib=300)


@pytest.mark.parametrize(
    ("worse", "code"),
    [({}, 0), ({"own_mib": 701}, 1), ({"first_update_seconds": 61}, 1), ({"update_ms": 2.5}, 1), ({"own_mib": 699}, 0)],
)
def test_many_rows_that_take_more_than_they_may_fail_the_proof(worse, code, monkeypatch, capsys):
    def measure(place, name, method, updates):
        assert len((place / "train.csv").read_text().splitlines()) == 1 + int(place.name.split("-")[1])
        return replace(FOUND, **worse) if place.name == "rows-20" else FOUND

    monkeypatch.setattr(million_rows, "measure", measure)
    monkeypatch.setattr(million_rows, "make_backbone", lambda folder: None)
    assert million_rows.main(["--rows", "10", "20", "--methods", "prefix"]) == code
    assert capsys.readouterr().out.count("prefix ") == 4


@pytest.mark.parametrize(("worse", "code"), [({}, 0), ({"own_mib": 701}, 1), ({"end_seconds": 21}, 1)])
def test_large_tasks_that_take_more_than_they_may_fail_the_proof(worse, code, monkeypatch, capsys):
    def measure(place, name, method, updates):
        return replace(FOUND, **worse) if place.name.endswith("-7-10000") else FOUND

    monkeypatch.setattr(large_tasks, "measure", measure)
    monkeypatch.setattr(large_tasks, "make_backbone", lambda folder: None)
    given = ["--rows", "10", "--classes", "3", "7", "--test-rows", "1000", "10000"]
    assert large_tasks.main(given) == code
    assert capsys.readouterr().out.count("prompt_tuning ") == 4


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are asked of Linux")
def test_an_update_on_long_rows_is_measured(processes, tmp_path):
    long_rows.make_backbone(tmp_path, 1, 1024)
    codes = {form: long_rows.program(tmp_path, "prompt_tuning", form, 1024) for form in ("sdpa", "eager")}
    done = {form: processes.run([], long_rows.ROOT, os.environ, python=code) for form, code in codes.items()}
    found = {form: long_rows.found_in(one) for form, one in done.items()}
    assert found["eager"]["growth"] > found["sdpa"]["growth"] > 0
    assert found["sdpa"]["seconds"] > 0
