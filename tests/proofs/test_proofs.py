"""The proofs still run, at a size of seconds; `make proofs` runs them whole. The one on Ray is among Ray's tests."""

import json

import pytest
import torch
from safetensors.torch import save_file

from launcher.sweeps.journal import RunState, TrialState, save_trial
from launcher.sweeps.plan import load_sweep
from tests.proofs import fault_sweep, kept_backbone, wrong_pools
from tests.proofs.fault_sweep import NUM_EVALUATIONS, NUM_TRIALS, STEPS, SweepRun


def test_a_backbone_is_timed_read_anew_and_kept(capsys):
    code = kept_backbone.main(["--runs", "1", "--layers", "1"])
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
