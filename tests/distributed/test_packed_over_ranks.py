"""Runs that share each pass over several ranks come to what each comes to alone on as many."""

import json
from pathlib import Path
from typing import Any

import pytest

from infoprompt.config import RunConfig, build_config
from infoprompt.engine.ranks import stop_ranks
from infoprompt.packed import run_packed
from infoprompt.progress import TrainingStopped
from infoprompt.train import run

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(600)]

NO_TERMS = {"head_weight": 0, "representation_weight": 0}
RUNS: dict[str, dict[str, Any]] = {
    "static": {"prompt": {"kind": "static", "length": 3}, "objective": NO_TERMS},
    "paper": {"objective": {"preset": "paper", "latent_size": 8}, "optim": {"max_steps": 4}},
    "mine": {"objective": {"head_estimator": "mine", "representation_estimator": "flo"}},
    "prefix": {"prompt": {"kind": "prefix", "length": 2}, "objective": NO_TERMS, "optim": {"lr": 0.1}},
    "label": {"prompt": {"kind": "none"}, "objective": {**NO_TERMS, "label_form": "plain"}},
}


ENGINES: dict[str, dict[str, Any]] = {
    "plain": {"kind": "plain"},
    **{f"zero{stage}": {"kind": "deepspeed", "zero_stage": stage} for stage in range(4)},
}


def train_both_ways(settings: dict[str, Any], folder: str) -> list[str]:
    """On a rank: every run alone, then all of them in three places; names of what differs."""
    different = []
    for kind, engine in ENGINES.items():

        def configs(where: str, kind: str = kind, engine: dict[str, Any] = engine) -> list[RunConfig]:
            return [
                build_config(
                    {
                        **settings,
                        **changes,
                        "optim": {"lr": 0.01, "max_steps": 6, **changes.get("optim", {})},
                        "engine": engine,
                        "run": {"output_dir": str(Path(folder) / kind / where / name)},
                    }
                )
                for name, changes in RUNS.items()
            ]

        for config in configs("alone"):
            run(config)
            stop_ranks()
        for config in configs("in_turn")[
            :2
        ]:  # the second finds the backbone, and its parts, as the first has left them
            run(config)
        stop_ranks()
        results = run_packed(configs("packed"), 3)
        stop_ranks()
        assert not any(isinstance(result, Exception) for result in results), results
        for name in RUNS:
            alone = Path(folder) / kind / "alone" / name
            for other in (Path(folder) / kind / where / name for where in ("in_turn", "packed")):
                for file in ("history.json", "artifact/prompt.safetensors"):
                    if other.exists() and (alone / file).read_bytes() != (other / file).read_bytes():
                        different.append(f"{other} {file}")
    return different


def test_a_pack_on_two_ranks_trains_each_run_as_alone(run_distributed, toy_settings, toy_data, tmp_path):
    data = {**toy_settings["data"], "unlabelled": toy_data["unlabelled"], "unlabelled_batch": 8, "micro_batch_size": 2}
    settings = {**toy_settings, "data": data, "evaluation": {"every_steps": 3}}
    assert run_distributed(__file__, "train_both_ways", settings, str(tmp_path)) == [[], []]


def train_after_others(settings: dict[str, Any], folder: str) -> list[list[dict[str, float]]]:
    """On a rank: the same run first, after another start of the ranks, and after runs that failed; each history."""

    def config(name: str, **optim: Any) -> RunConfig:
        own = {"optim": {"lr": 0.01, "max_steps": 4, **optim}, "run": {"output_dir": str(Path(folder) / name)}}
        return build_config({**settings, **RUNS["static"], **own, "engine": ENGINES["zero3"]})

    run(config("first"))
    stop_ranks()
    run(config("second"))
    for name in ("broken", "again"):
        with pytest.raises(TrainingStopped):
            run(config(name, lr=1e30))
    run(config("third"))
    stop_ranks()
    return [json.loads((Path(folder) / name / "history.json").read_text()) for name in ("first", "second", "third")]


def test_parts_of_a_backbone_serve_the_next_run_whatever_became_of_the_last(run_distributed, toy_settings, tmp_path):
    settings = {**toy_settings, "evaluation": {"every_steps": 2}}
    (found,) = run_distributed(__file__, "train_after_others", settings, str(tmp_path), world_size=1)
    assert found[0] == found[1] == found[2]
