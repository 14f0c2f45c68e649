"""The representation loss contrasted within the batch."""

import json
import math

import pytest
import torch

from infoprompt.config import ConfigError, build_config, override_config
from infoprompt.data.batch import Noise
from infoprompt.objective.encoding import Latent
from infoprompt.objective.representation_information import RepresentationInformation
from infoprompt.settings import ObjectiveSettings
from infoprompt.train import run

CLASSES = 4


class ReadsTheFirst(torch.nn.Module):
    """A critic whose direction is the first prompt vector times a strength; the offset differs by row."""

    def __init__(self, strength):
        super().__init__()
        self.strength = strength

    def forward(self, prompt_BPE):
        return self.strength * prompt_BPE[:, 0], torch.arange(len(prompt_BPE)) / 10.0


class NoiseOf:
    """Of a batch what the term reads."""

    def __init__(self, latent_BZ):
        self.noise = Noise(latent_BZ=latent_BZ)


def term(class_B, strength, estimator="infonce", **settings):
    """The term where prompt and latent both say an example's class and nothing else."""
    objective = ObjectiveSettings(
        representation_estimator=estimator, representation_negatives="batch", latent_size=CLASSES, **settings
    )
    module = RepresentationInformation(objective, CLASSES, 1.0, None)
    module.critic = ReadsTheFirst(strength)
    onehot_BZ = torch.nn.functional.one_hot(class_B, CLASSES).float()
    latent = Latent(onehot_BZ, torch.full_like(onehot_BZ, -50.0))
    return module(onehot_BZ.unsqueeze(1), latent, None, NoiseOf(torch.randn(len(class_B), CLASSES)))


@pytest.mark.parametrize("impl", ["chunked", "reference"])
def test_what_prompt_and_representation_share_is_the_entropy_of_the_classes(impl):
    balanced_B = torch.arange(32) % CLASSES
    shared = term(balanced_B, strength=60.0, kernels=impl)
    # log(32) - log(8): of 32 candidates the critic leaves the 8 of the class
    assert shared.value.item() == pytest.approx(math.log(CLASSES), abs=1e-4)
    assert shared.ceiling.item() == pytest.approx(math.log(32), abs=1e-5)
    assert term(balanced_B, strength=0.0, kernels=impl).value.item() == pytest.approx(0, abs=1e-5)
    # a class of its own for every example: all that the batch can show
    assert term(torch.arange(CLASSES), 60.0, kernels=impl).value.item() == pytest.approx(math.log(CLASSES), abs=1e-4)


def test_the_cap_and_other_estimators_work_as_for_other_negatives():
    balanced_B = torch.arange(32) % CLASSES
    assert term(balanced_B, 0.0, representation_loss_cap=1.0).loss.item() == pytest.approx(1.0)
    for estimator in ("nwj", "dv", "mine", "tuba", "interpolated", "flo"):
        assert torch.isfinite(term(balanced_B, 0.5, estimator).loss)


def test_settings_that_leave_no_negatives_are_refused():
    base = {"objective": {"representation_negatives": "batch"}}
    for sizes in ({"batch_size": 1}, {"batch_size": 4, "micro_batch_size": 1}):
        with pytest.raises(ConfigError, match="has no others to be told from"):
            build_config({**base, "data": sizes})
    with pytest.raises(ConfigError, match="representation_negatives is batch, which has none"):
        build_config({"objective": {"representation_negatives": "batch", "representation_estimator": "jsd"}})


def test_a_run_records_bound_and_ceiling_and_needs_no_unprompted_states(toy_settings, tmp_path):
    overrides = ["objective.representation_negatives=batch", "optim.max_steps=3", "prompt.kind=static"]
    result = run(override_config(build_config(toy_settings), overrides))
    history = json.loads((tmp_path / "run/history.json").read_text())
    first = next(row for row in history if "train/loss" in row)
    assert first["train/mi_representation_infonce_ceiling"] == pytest.approx(math.log(8), abs=1e-5)
    assert first["train/mi_representation_infonce_bound"] <= math.log(8)
    assert result.encoder_passes == 1
