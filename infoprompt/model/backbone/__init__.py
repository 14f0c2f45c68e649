"""The language model that reads a prompt: found, loaded, kept between runs, with prompts between its layers."""

from infoprompt.model.backbone.load import load_backbone

__all__ = ["load_backbone"]
