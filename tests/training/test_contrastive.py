"""Runs trained by pairs of rows, whose head is fitted at each evaluation."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from infoprompt.artifact import Artifact
from infoprompt.config import ConfigError, build_config, override_config
from infoprompt.data.splits import load_splits
from infoprompt.model.fitted_heads import TrainingRows, logistic_regression
from infoprompt.objective.task import contrastive_loss
from infoprompt.progress import LeftOff
from infoprompt.train import run

PAIRS = ["objective.task=contrastive", "head.fit=logistic_regression"]
NO_TERMS = ["objective.head_weight=0", "objective.representation_weight=0"]
BODY = ["prompt.kind=none", "backbone.frozen=false", "optim.lr=1e-3"]
PROMPT = ["prompt.kind=adaption_prompt", "prompt.length=8"]


def config(toy_settings, *overrides):
    given = [*PAIRS, *NO_TERMS, "optim.max_steps=12", "evaluation.every_steps=4", *overrides]
    return override_config(build_config(toy_settings), given)


def test_the_loss_is_the_squared_error_of_each_cosine():
    states_BD = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0], [3.0, 0.0], [1.0, 2.0], [-2.0, -4.0]])
    batch = SimpleNamespace(label_B=torch.tensor([0, 0, 1, 2, 1, 1]))
    expected = ((0.5**0.5 - 1) ** 2 + 0**2 + (-1 - 1) ** 2) / 3
    assert float(contrastive_loss(torch.from_numpy(states_BD), batch)) == pytest.approx(expected)


@pytest.mark.parametrize("body", [BODY, PROMPT], ids=["backbone", "prompt"])
def test_pairs_are_learnt_and_the_head_is_a_logistic_regression_on_the_trained_states(toy_settings, body):
    settings = config(toy_settings, *body)
    result = run(settings)
    history = (Path(result.output_dir) / "history.json").read_text()
    losses = [row["train/contrastive"] for row in json.loads(history) if "train/contrastive" in row]
    assert len(losses) == 12
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    artifact = Artifact.from_pretrained(result.artifact)
    rows = artifact.encode(load_splits(settings.data, settings.data_seed).train)
    with torch.no_grad():
        states_MD = artifact.model(rows.batch(range(len(rows)))).pooled_BD
    start = artifact.model.head.linear
    weight_CD, bias_C = logistic_regression(TrainingRows(rows.labels, 2, states_MD), (start.weight, start.bias))
    # float32 states of other batches
    torch.testing.assert_close(weight_CD, start.weight.detach(), rtol=1e-2, atol=1e-3 * float(weight_CD.abs().max()))
    torch.testing.assert_close(bias_C, start.bias.detach(), rtol=1e-2, atol=1e-3 * float(bias_C.abs().max()))


def test_a_run_left_off_and_gone_on_with_ends_as_one_never_left(toy_settings, tmp_path):
    whole = run(config(toy_settings, *BODY, f"run.output_dir={tmp_path / 'whole'}"))
    parted = config(toy_settings, *BODY, f"run.output_dir={tmp_path / 'parted'}")
    with pytest.raises(LeftOff):
        run(parted, report=lambda progress, scores: "pause")
    resumed = run(parted, resume="auto")
    tensors = [load_file(Path(result.artifact) / "prompt.safetensors") for result in (whole, resumed)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert whole.dev == resumed.dev


def test_passes_without_padding_and_in_micro_batches_see_the_same_pairs(toy_settings, tmp_path):
    found = []
    for name, overrides in {"whole": [], "micro": ["data.micro_batch_size=2"]}.items():
        result = run(config(toy_settings, *PROMPT, *overrides, f"run.output_dir={tmp_path / name}"))
        found.append(load_file(Path(result.artifact) / "prompt.safetensors"))
    for name, tensor in found[0].items():
        if not name.startswith("head."):
            # float32 sums in another order, which AdamW's division lets grow
            torch.testing.assert_close(tensor, found[1][name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["prompt.kind=none"], r"objective\.task is contrastive, but prompt\.kind is none"),
        ([*PROMPT, "head.fit=gradient"], r"head\.fit gradient, and pairs of rows train no head"),
        ([*PROMPT, "head.fit=start"], r"head\.fit start, and pairs of rows train no head"),
        ([*PROMPT, "data.batch_size=9"], r"data\.batch_size is 9, and a pair has two rows. Use 10"),
        ([*PROMPT, "objective.kl_weight=0.1"], r"objective\.kl_weight is 0.1"),
    ],
)
def test_what_does_not_go_with_pairs_is_refused(toy_settings, overrides, told):
    with pytest.raises(ConfigError, match=told):
        config(toy_settings, *overrides)


def test_a_pair_that_two_passes_would_part_is_refused(toy_settings, monkeypatch):
    settings = config(toy_settings, *PROMPT, "data.batch_size=6")
    monkeypatch.setattr("infoprompt.build_setup.accumulation_steps", lambda data, world_size: 2)  # as of two ranks
    with pytest.raises(ConfigError, match=r"data\.batch_size is 6, but .* Use a multiple of 4"):
        run(settings)
