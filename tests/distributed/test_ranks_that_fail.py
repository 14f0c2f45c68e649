"""A rank that hangs, raises, or is told to end: what the others make of it."""

import os
import signal
import time
from pathlib import Path

import pytest

from infoprompt.config import build_config, override_config

pytestmark = pytest.mark.distributed

TIMEOUT = 4


def config_of(toy_settings, folder: Path, *changes: str):
    changed = ["optim.max_steps=8", "evaluation.every_steps=2", f"engine.timeout_seconds={TIMEOUT}", *changes]
    return override_config(build_config(toy_settings), [*changed, f"run.output_dir={folder}"])


def train_with(config, what: str):
    """On a rank: train; at update 4 rank 1 does `what`. Returns what came of it, and after how many seconds."""
    from infoprompt.train import run
    from launcher.exits import signals_heard

    rank = int(os.environ["RANK"])
    began = [0.0]

    def report(progress, scores):
        if progress.step == 4:
            began[0] = time.monotonic()
            if rank == 1 and what == "sleeps":
                time.sleep(TIMEOUT + 9)
            if rank == 1 and what == "raises":
                raise ZeroDivisionError("rows of rank 1 are bad")
            if rank == 1 and what == "is told":
                os.kill(os.getpid(), signal.SIGUSR1)
        return "go"

    try:
        with signals_heard():
            run(config, report=report)
    except BaseException as error:
        text, said = str(error), getattr(error, "said", None)
        return type(error).__name__, text, said, time.monotonic() - began[0], getattr(error, "step", None)
    return None


def test_a_rank_that_does_not_come_is_named_and_its_stack_is_kept(toy_settings, tmp_path, run_distributed):
    config = config_of(toy_settings, tmp_path / "run")
    (name, text, said, seconds, _), late = run_distributed(__file__, "train_with", config, "sleeps")
    assert (name, said) == ("RankLost", False)
    assert "Rank 1 did not come to update 5, though alive" in text
    assert f"engine.timeout_seconds is {TIMEOUT}" in text
    assert "--resume auto" in text
    assert seconds < TIMEOUT + 15
    assert "train_with" in (tmp_path / "run/stacks/rank-1.txt").read_text()  # where it slept
    assert "RuntimeError" in (tmp_path / "run/stacks/rank-0.txt").read_text()  # where gloo gave up
    assert late is None or late[0] == "RankLost"


def test_a_rank_that_raises_is_named_to_the_others_with_its_reason(toy_settings, tmp_path, run_distributed):
    config = config_of(toy_settings, tmp_path / "run", "engine.timeout_seconds=60")
    first, second = run_distributed(__file__, "train_with", config, "raises")
    assert second[0] == "ZeroDivisionError"
    assert (first[0], first[2]) == ("RankLost", True)  # rank 1 itself says it to people
    assert "Rank 1 failed" in first[1]
    assert "rows of rank 1 are bad" in first[1]


def test_a_signal_to_one_rank_has_all_leave_after_the_same_update(toy_settings, tmp_path, run_distributed):
    config = config_of(toy_settings, tmp_path / "run", "engine.timeout_seconds=60", "engine.kind=deepspeed")
    left = run_distributed(__file__, "train_with", config, "is told")
    assert [(name, step) for name, _, _, _, step in left] == [("Preempted", 5)] * 2
    assert (tmp_path / "run/checkpoints/step-00000005/manifest.json").is_file()
