"""The backbone of the run before in this process, for a run that asks for the same one.

What a run trains is never part of a frozen backbone, so the next run finds it as it was loaded. Workers of a sweep or a
study take run after run: they read, move and hash the weights once.
"""

import gc
from pathlib import Path

import torch

from infoprompt.config import BackboneSettings
from infoprompt.embedded import backbone_source
from infoprompt.model.backbone.backbone import Backbone
from infoprompt.model.backbone.load import Gather, check_config, load_backbone, whole

_Key = tuple[str, str, bool, tuple[tuple[str, int], ...]]
_kept: dict[_Key, tuple[Backbone, str]] = {}
"""At most one."""


def kept_backbone(
    settings: BackboneSettings,
    device: torch.device,
    gather: Gather = whole,
    *,
    needs: frozenset[str],
    lm_head: bool,
    parts: str = "",
) -> tuple[Backbone, str]:
    """Backbone and fingerprint of the last call, if no run trains it and nothing that it was loaded by is different.

    Arguments and errors are those of `load_backbone`. `parts` tells weights in parts from others, which those of an
    earlier process group are too.
    """
    key = (settings.model_dump_json() + parts, str(device), lm_head, _changed(settings))
    if key in _kept:
        check_config(settings.name, _kept[key][0].config, needs)
        return _kept[key]
    forget()
    backbone = load_backbone(settings, device, gather, needs=needs, lm_head=lm_head)
    read = backbone, backbone.fingerprint()
    if settings.trained_by is None:
        _kept[key] = read
    return read


def forget() -> None:
    """Let go of what is kept."""
    _kept.clear()
    gc.collect()  # an engine that is gone leaves cycles, and two backbones may not fit


def _changed(settings: BackboneSettings) -> tuple[tuple[str, int], ...]:
    """When each file of a model in a folder was written; a model of the hub is told by its revision."""
    folder = Path(backbone_source(settings.name))
    return tuple(sorted((path.name, path.stat().st_mtime_ns) for path in folder.glob("*") if path.is_file()))
