"""Information-theoretic soft prompt tuning.

    from infoprompt import Artifact, load_config, run

    result = run(load_config("configs/quickstart.yaml", ["seed=1"]))
    print(Artifact.from_pretrained(result.artifact).predict(["some text"]))

The names load when first used, so that importing a part (`infoprompt.config`, say) does not load torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infoprompt.artifact import Artifact, Prediction
    from infoprompt.artifact_set import ArtifactSet
    from infoprompt.config import ConfigError, RunConfig, load_config
    from infoprompt.data.rows import Example, Span
    from infoprompt.progress import TrainingStopped
    from infoprompt.train import RunResult, run

__version__ = "0.1.0"

__all__ = [
    "Artifact",
    "ArtifactSet",
    "ConfigError",
    "Example",
    "Prediction",
    "RunConfig",
    "RunResult",
    "Span",
    "TrainingStopped",
    "load_config",
    "run",
]

_HOME = {
    "infoprompt.artifact": ("Artifact", "Prediction"),
    "infoprompt.artifact_set": ("ArtifactSet",),
    "infoprompt.config": ("ConfigError", "RunConfig", "load_config"),
    "infoprompt.data.rows": ("Example", "Span"),
    "infoprompt.progress": ("TrainingStopped",),
    "infoprompt.train": ("RunResult", "run"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'infoprompt' has no attribute {name!r}")
