"""The golden runs: a name, and the settings in which it differs from the others."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NO_TERMS = {"head_weight": 0, "representation_weight": 0}


@dataclass(frozen=True)
class GoldenRun:
    """One run, or several that one command starts."""

    name: str
    settings: Mapping[str, Any]
    """Nested settings of a run; those of the toy task are added."""
    family: str = "bert"
    command: str = "here"
    """`here` (this process), `processes` (two ranks), `sweep` (four trials), or `study` (four final runs)."""


def _run(name: str, family: str = "bert", command: str = "here", **settings: Any) -> GoldenRun:
    return GoldenRun(name, settings, family, command)


def _static(**more: Any) -> dict[str, Any]:
    return {"prompt": {"kind": "static"}, "objective": NO_TERMS, **more}


ZERO = {"kind": "deepspeed", "zero_stage": 0}
RUNS = (
    _run("head_only", prompt={"kind": "none"}, objective=NO_TERMS),
    _run("static_linear", **_static()),
    _run("generator_analytic"),
    _run("generator_paper", objective={"preset": "paper", "latent_size": 8, "negatives": 4}, optim={"lr": 1e-3}),
    _run("generator_release", objective={"preset": "release", "latent_size": 8, "negatives": 4}, optim={"lr": 1e-3}),
    _run("label_words", **_static(head={"kind": "label_words", "pooling": "mask"})),
    _run("label_text", family="llama", **_static(head={"kind": "text"})),
    _run("prefix", prompt={"kind": "prefix"}, objective=NO_TERMS),
    _run("adaption_prompt", family="llama", prompt={"kind": "adaption_prompt"}, objective=NO_TERMS),
    _run("generator_layers", prompt={"kind": "instance_layers"}, objective=NO_TERMS),
    _run("late_prompt", prompt={"kind": "lpt"}, objective=NO_TERMS),
    _run("ipt", prompt={"kind": "ipt", "encoder": "cnn"}, objective=NO_TERMS),
    _run(
        "mine_and_flo",
        objective={"head_estimator": "mine", "representation_estimator": "flo", "latent_size": 8},
        optim={"lr": 1e-3, "max_steps": 8},
    ),
    _run("batch_negatives", objective={"representation_negatives": "batch", "latent_size": 8}),
    _run("accumulation", data={"batch_size": 8, "micro_batch_size": 2}),
    _run("full_fine_tuning", prompt={"kind": "none"}, objective=NO_TERMS, backbone={"frozen": False}),
    _run("zero_0", engine=ZERO),
    _run("two_ranks", command="processes"),
    _run("two_ranks_zero_0", command="processes", engine=ZERO),
    _run("two_ranks_zero_3", command="processes", engine={**ZERO, "zero_stage": 3}),
    _run("sweep", command="sweep", **_static()),
    _run("study", command="study", **_static()),
)
DRAWS_BY_SHAPE = ("full_fine_tuning",)
"""Runs with dropout in the backbone, which draws other units where padding is left out."""
