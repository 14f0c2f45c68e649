"""Artifacts made by hand, nothing trained."""

import pytest
import torch


@pytest.fixture
def make_artifact(tmp_path):
    """A function that writes an artifact with random values over a backbone's folder and loads it.

    It takes the folder, a name, settings by section, and fields of the task.
    """
    from infoprompt.artifact import Artifact
    from infoprompt.artifact_files import save_artifact
    from infoprompt.config import build_config
    from infoprompt.data.task import Task
    from infoprompt.model.backbone.load import load_backbone
    from infoprompt.model.build import backbone_needs, build_member

    def make(backbone: str, /, name: str = "artifact", task: dict | None = None, seed: int = 0, **sections) -> Artifact:
        fields = {
            "name": "toy",
            "labels": ("bad", "good", "other"),
            "label_texts": ("bad", "good", "other film"),
            "metrics": ("accuracy",),
            "kind": "single",
        }
        values = {"backbone": {"name": backbone}, "objective": {"head_weight": 0, "representation_weight": 0}}
        config = build_config({**values, **sections})
        made = Task(**{**fields, **(task or {})})
        lm_head = config.head.kind in ("label_words", "text", "choice_text")
        loaded = load_backbone(config.backbone, needs=backbone_needs(config), lm_head=lm_head)
        model = build_member(config, loaded, made)
        generator = torch.Generator().manual_seed(seed)
        state = {
            parameter_name: 0.5 * torch.randn(parameter.shape, generator=generator)
            for parameter_name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        folder = tmp_path / name
        save_artifact(folder, state, config, made, fingerprint=loaded.fingerprint(), scores={})
        return Artifact.from_pretrained(folder)

    return make
