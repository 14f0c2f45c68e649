"""Every kind of prompt, and full fine-tuning, train under ZeRO on two processes as in plain torch on one."""

import json
from pathlib import Path
from typing import Any

import pytest

from infoprompt.config import build_config, override_config
from infoprompt.engine import deepspeed_config
from infoprompt.engine.ranks import stop_ranks
from infoprompt.progress import Progress
from infoprompt.settings import PROMPT_KINDS
from infoprompt.train import run

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.timeout(1200)]

KINDS = {
    "prefix": ["prompt.kind=prefix"],
    "lpt": ["prompt.kind=lpt", "prompt.template=front", "prompt.bottleneck=8"],
    "ipt": ["prompt.kind=ipt", "prompt.mode=prefix", "prompt.init=random"],
    "unpadded": ["prompt.kind=prefix", "backbone.unpadded=true"],
    "fine_tuning": ["prompt.kind=none", "backbone.frozen=false"],
    "fine_tuning_of_words": ["prompt.kind=none", "backbone.frozen=false", "head.kind=label_words", "head.pooling=mask"],
}
KINDS |= {kind: [f"prompt.kind={kind}"] for kind in PROMPT_KINDS if kind not in KINDS}
ALL_STAGES = ("prefix", "lpt", "ipt", "fine_tuning")
"""The others differ under stage 3 alone, which has a prompt whole only where it must."""


class Killed(Exception):
    """The run ends here, between two resume states."""


def _end_at_update_4(progress: Progress, scores: dict[str, float]) -> None:
    if progress.step == 4:
        raise Killed


def run_kinds(settings: dict[str, Any], engines: list[tuple[str, int]], folder: str) -> dict[Any, Any]:
    """What each kind leaves under each engine and stage: history, scores on test rows, and tensors of the artifact."""
    from safetensors.torch import load_file

    deepspeed_config.PERSISTENCE_NUMEL = 0  # part even weights as small as these
    left = {}
    for kind, overrides in KINDS.items():
        for engine, stage in engines:
            if stage == 2 and kind not in ALL_STAGES:
                continue
            out = Path(folder) / f"{kind}-{engine}{stage}"
            config = override_config(
                build_config(settings),
                [*overrides, f"engine.kind={engine}", f"engine.zero_stage={stage}", f"run.output_dir={out}"],
            )
            if kind == "fine_tuning" and engine == "deepspeed":  # load what was saved, a trained backbone in parts too
                with pytest.raises(Killed):
                    run(config, report=_end_at_update_4)
                stop_ranks()
            result = run(config, resume="auto")
            stop_ranks()
            history = json.loads((out / "history.json").read_text())
            left[kind, stage] = history, result.test, load_file(out / "artifact" / "prompt.safetensors")
    return left


def test_every_kind_has_the_curve_of_plain_torch_on_one_process(run_distributed, tiny_bert, toy_settings, tmp_path):
    settings = {
        **toy_settings,
        "backbone": {"name": _without_dropout(tiny_bert, tmp_path)},
        "objective": {"head_weight": 0, "representation_weight": 0},
        "optim": {"lr": 1e-3, "max_steps": 4},
        "data": {**toy_settings["data"], "few_shot": {"per_class": 20}, "micro_batch_size": 2},
        "evaluation": {"every_steps": 2},
        "engine": {"device": "cpu"},
    }
    (truth,) = run_distributed(
        __file__, "run_kinds", settings, [("plain", 0)], str(tmp_path / "one"), world_size=1, seconds=280
    )
    engines = [("deepspeed", 2), ("deepspeed", 3)]
    found, _ = run_distributed(__file__, "run_kinds", settings, engines, str(tmp_path / "two"))
    for (kind, stage), (history, test, tensors) in found.items():
        expected_history, expected_test, expected_tensors = truth[kind, 0]
        assert [row["step"] for row in history] == [row["step"] for row in expected_history]
        assert len({row["train/loss"] for row in history if "train/loss" in row}) == 4
        # float32 sums in another order: 1e-6 at first, and AdamW's division lets it grow over the updates
        for row, expected in zip(history, expected_history, strict=True):
            assert row == pytest.approx(expected, rel=2e-3, abs=2e-4), (kind, stage)
        assert test == pytest.approx(expected_test), (kind, stage)
        assert tensors.keys() == expected_tensors.keys()
        assert any("backbone" in name for name in tensors) == ("fine_tuning" in kind)
        for name, tensor in tensors.items():
            assert (tensor - expected_tensors[name]).abs().max() < 2e-3, (kind, stage, name)


def _without_dropout(folder: str, tmp_path: Path) -> str:
    """A copy of a model whose units are never dropped: which ones are differs between one process and two."""
    copy = tmp_path / "backbone"
    copy.mkdir()
    for file in Path(folder).iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    config = json.loads((copy / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (copy / "config.json").write_text(json.dumps(config))
    return str(copy)
