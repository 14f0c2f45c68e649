"""A run that a signal tells to end, and states that are saved by time."""

import os
import signal
from pathlib import Path

import pytest

import infoprompt.result
from infoprompt.config import build_config, override_config
from infoprompt.engine.plain_engine import PlainEngine
from infoprompt.progress import LeftOff
from infoprompt.stopping import Preempted, forget
from infoprompt.train import run
from launcher.exits import SIGNALS, signals_heard

CHANGES = ["optim.max_steps=8", "evaluation.every_steps=4"]


@pytest.fixture(autouse=True)
def _nothing_heard():
    yield
    forget()


def config_of(toy_settings, folder: Path, *changes: str):
    return override_config(build_config(toy_settings), [*CHANGES, f"run.output_dir={folder}", *changes])


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.partition("-")[2]) for path in (folder / "checkpoints").glob("step-*"))


def signal_before_update(monkeypatch, step: int, number: int) -> None:
    """Have a signal arrive while update number `step` is made."""
    original, calls = PlainEngine.step, []

    def interrupted(*arguments):
        calls.append(None)
        if len(calls) == step:
            os.kill(os.getpid(), number)
        return original(*arguments)

    monkeypatch.setattr(PlainEngine, "step", interrupted)


def interrupted_run(config) -> Preempted:
    with pytest.raises(Preempted) as caught, signals_heard():
        run(config)
    return caught.value


@pytest.mark.parametrize("number", SIGNALS)
def test_the_state_of_the_update_is_saved_and_the_run_goes_on_as_if_never_stopped(
    toy_settings, tmp_path, monkeypatch, number
):
    with monkeypatch.context() as patched:
        signal_before_update(patched, 3, number)
        left = interrupted_run(config_of(toy_settings, tmp_path / "run"))
    assert (left.number, left.step, left.saved) == (number, 3, True)
    assert steps(tmp_path / "run") == [3]
    forget()
    run(config_of(toy_settings, tmp_path / "run"), resume="auto")
    if number == signal.SIGTERM:
        run(config_of(toy_settings, tmp_path / "whole"))
        for file in ("history.json", "artifact/prompt.safetensors"):
            assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


def test_a_signal_in_an_evaluation_is_heeded_at_the_next_update(toy_settings, tmp_path):
    config = config_of(toy_settings, tmp_path / "run")

    def report(progress, scores):
        if progress.step == 4:
            os.kill(os.getpid(), signal.SIGUSR1)
        return "go"

    with pytest.raises(Preempted), signals_heard():
        run(config, report=report)
    assert steps(tmp_path / "run")[-1] == 5


def test_a_signal_in_the_last_evaluation_or_the_test_leaves_the_state_of_the_last_update(
    toy_settings, tmp_path, monkeypatch
):
    config = config_of(toy_settings, tmp_path / "run")

    def report(progress, scores):
        if progress.done:
            os.kill(os.getpid(), signal.SIGTERM)
        return "go"

    with pytest.raises(Preempted) as caught, signals_heard():
        run(config, report=report)
    assert caught.value.step == 8
    with monkeypatch.context() as patched:
        patched.setattr(infoprompt.result, "save_artifact", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Preempted) as caught, signals_heard():
            run(config, resume="auto")
    assert not (tmp_path / "run/result.json").exists()
    forget()
    assert run(config, resume="auto").steps == 8


def test_without_resume_states_nothing_is_saved(toy_settings, tmp_path, monkeypatch):
    signal_before_update(monkeypatch, 3, signal.SIGTERM)
    assert not interrupted_run(config_of(toy_settings, tmp_path / "run", "checkpoint.enabled=false")).saved
    assert steps(tmp_path / "run") == []


@pytest.mark.parametrize(("minutes", "saved"), [("1e-9", [6, 7]), ("null", [4]), ("10", [4])])
def test_states_are_saved_by_time_too(toy_settings, tmp_path, minutes, saved):
    config = config_of(toy_settings, tmp_path / "run", f"checkpoint.every_minutes={minutes}")
    pause = config_of(toy_settings, tmp_path / "run", f"checkpoint.every_minutes={minutes}", "evaluation.every_steps=7")
    with pytest.raises(LeftOff):
        run(pause if len(saved) == 2 else config, report=lambda progress, scores: "stop")
    assert steps(tmp_path / "run") == saved
