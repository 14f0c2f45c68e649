"""Where the first rank cannot save or go on, every rank ends with the same message, and none waits for another."""

import resource
from pathlib import Path

import pytest

from infoprompt.config import ConfigError, build_config
from infoprompt.engine.ranks import stop_ranks
from infoprompt.progress import TrainingStopped

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]


def said(config, **named) -> str:
    """How a run ends."""
    from infoprompt.train import run

    try:
        return f"{run(config, **named).steps} updates"
    except (ConfigError, TrainingStopped) as error:
        return f"{type(error).__name__}: {error}"


def run_into_trouble(settings: dict) -> list[str]:
    """One rank: the disk is full at the second state, then at the results; then all states are damaged."""
    from infoprompt import result, training_state

    save, finish, config = training_state.save_resume_state, result.save_artifact, build_config(settings)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(call, *arguments, **named):
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
        try:
            return call(*arguments, **named)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    def save_once(folder, state, keep):
        return full(save, folder, state, keep) if state.values["step"] == 2 else save(folder, state, keep)

    training_state.save_resume_state = save_once
    endings = [said(config)]
    training_state.save_resume_state = save
    result.save_artifact = lambda *arguments, **named: full(finish, *arguments, **named)
    endings.append(said(config, resume="auto"))
    result.save_artifact = finish
    from infoprompt.engine.ranks import start_ranks

    ranks = start_ranks(config.engine)
    if ranks.is_first:
        for file in Path(config.run.output_dir).glob("checkpoints/*/trained.safetensors"):
            file.write_bytes(b"x" * 50)
    ranks.barrier()
    endings.append(said(config, resume="auto"))
    stop_ranks()
    return endings


def test_every_rank_says_what_the_first_one_could_not_do(run_distributed, toy_settings):
    settings = {
        **toy_settings,
        "optim": {"lr": 1e-2, "max_steps": 3},
        "checkpoint": {"every_steps": 1},
        "prompt": {"kind": "static"},
        "objective": {"head_weight": 0, "representation_weight": 0},
    }
    first, second = run_distributed(__file__, "run_into_trouble", settings)
    assert first == second
    state, results, damaged = first
    assert state.startswith("TrainingStopped: The resume state of update 2 could not be written to ")
    assert results.startswith("TrainingStopped: The run has come to its end, but its results could not be written to ")
    assert damaged.startswith("ConfigError: --resume is auto and run.output_dir is ")
