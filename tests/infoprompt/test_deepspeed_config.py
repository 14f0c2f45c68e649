import subprocess
import sys
from typing import Any

import pytest

from infoprompt.config import ConfigError, DataSettings, RunConfig, build_config
from infoprompt.engine.deepspeed_config import accumulation_steps, deepspeed_config, loading_config


def config(stage: int = 0, max_grad_norm: float = 1.0, dtype: str = "float32", **data: Any) -> RunConfig:
    return build_config(
        {
            "data": {"batch_size": 32, "micro_batch_size": 4} | data,
            "optim": {"max_grad_norm": max_grad_norm},
            "engine": {"zero_stage": stage},
            "backbone": {"dtype": dtype},
        }
    )


@pytest.mark.parametrize(
    ("batch_size", "micro_batch_size", "world_size", "steps"),
    [(8, None, 1, 1), (8, None, 4, 1), (8, 2, 1, 4), (8, 2, 2, 2), (8, 2, 4, 1), (64, 8, 8, 1)],
)
def test_accumulation_follows_from_the_batch_and_the_ranks(batch_size, micro_batch_size, world_size, steps):
    data = DataSettings(batch_size=batch_size, micro_batch_size=micro_batch_size)
    assert accumulation_steps(data, world_size) == steps


def test_a_batch_that_cannot_be_cut_is_refused_with_the_sizes_that_can():
    with pytest.raises(ConfigError) as refused:
        accumulation_steps(DataSettings(batch_size=48, micro_batch_size=4), 8)
    assert str(refused.value) == (
        "data.batch_size is 48, but 8 ranks x data.micro_batch_size 4 = 32 examples per forward must divide it. "
        "Use 32 or 64."
    )
    with pytest.raises(ConfigError, match=r"batch_size is 8, but 3 ranks must divide it\. Use 6 or 9\."):
        accumulation_steps(DataSettings(batch_size=8), 3)
    with pytest.raises(ConfigError, match=r"Use 16\."):
        accumulation_steps(DataSettings(batch_size=8, micro_batch_size=8), 2)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("micro_batch_size", [None, 4])
def test_the_three_batch_sizes_fit_each_other_as_deepspeed_asks(world_size, micro_batch_size):
    made = deepspeed_config(config(micro_batch_size=micro_batch_size), world_size, "cpu")
    micro, steps = made["train_micro_batch_size_per_gpu"], made["gradient_accumulation_steps"]
    assert micro * steps * world_size == made["train_batch_size"] == 32


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_no_stage_casts_the_model(stage):
    made = deepspeed_config(config(stage, dtype="bfloat16"), 1, "cpu")
    assert made["zero_optimization"]["stage"] == stage
    assert not {"fp16", "bf16", "data_types", "torch_autocast"} & made.keys()


def test_deepspeed_does_not_clip_since_it_would_by_the_norm_of_all_members():
    assert deepspeed_config(config(max_grad_norm=0.5), 1, "cpu")["gradient_clipping"] == 0


@pytest.mark.parametrize(("dtype", "enabled"), [("float32", False), ("bfloat16", True)])
def test_a_backbone_loaded_in_parts_gets_its_own_dtype(dtype, enabled):
    assert loading_config(config(3, dtype=dtype), 1, "cpu")["bf16"] == {"enabled": enabled}


def test_settings_are_worked_out_without_torch_or_deepspeed():
    code = (
        "import sys, infoprompt.engine.deepspeed_config; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'deepspeed')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
