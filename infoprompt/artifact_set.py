"""Several artifacts over one backbone, and batches whose rows use different ones.

Shapes: B examples, C classes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from infoprompt.artifact import Artifact, Prediction, artifact_scores
from infoprompt.artifact_files import ArtifactError, predicting_config, read_card
from infoprompt.config import RunConfig
from infoprompt.data.batch import Batch
from infoprompt.data.rows import Example
from infoprompt.model.backbone.load import load_backbone
from infoprompt.model.build import backbone_needs
from infoprompt.model.heads.kind import head_kind


class ArtifactSet:
    """Artifacts by name; their prompts and heads are apart, their backbone is one."""

    def __init__(self, artifacts: Mapping[str, Artifact]) -> None:
        self.artifacts = dict(artifacts)
        backbones = {id(artifact.model.backbone) for artifact in self.artifacts.values()}
        assert len(backbones) == 1, "the artifacts are over several backbones"

    @classmethod
    def from_pretrained(
        cls, folders: Mapping[str, str | Path], backbone: str | None = None, device: str = "auto"
    ) -> "ArtifactSet":
        """Load the backbone once, and all artifacts over it.

        Args:
            folders: name to folder, as `Artifact.save_pretrained` wrote it.
            backbone: where the backbone is now, if not where it was in the first artifact's training.
            device: `auto`, `cpu` or `cuda`.
        Raises:
            ArtifactError: a folder is missing or damaged; the artifacts were made for different backbones, or one
                has trained its backbone.
            ConfigError: the backbone cannot be loaded.
        """
        if not folders:
            raise ArtifactError("There are no artifacts to load. Give at least one name and folder.")
        cards = {name: read_card(Path(folder)) for name, folder in folders.items()}
        configs = {name: predicting_config(card) for name, card in cards.items()}
        _check_one_backbone({name: card["backbone"]["fingerprint"] for name, card in cards.items()}, configs)
        settings = next(iter(configs.values())).backbone
        loaded = load_backbone(
            settings.model_copy(update={"name": backbone}) if backbone else settings,
            ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device,
            needs=frozenset().union(*(backbone_needs(config) for config in configs.values())),
            lm_head=any(head_kind(config.head.kind).lm_head for config in configs.values()),
        )
        fingerprint = loaded.fingerprint()
        return cls({name: Artifact.over(loaded, Path(folder), fingerprint) for name, folder in folders.items()})

    def __getitem__(self, name: str) -> Artifact:
        return self.artifacts[name]

    def __len__(self) -> int:
        return len(self.artifacts)

    def predict(
        self, examples: Sequence[Example | str], names: Sequence[str], batch_size: int = 64
    ) -> list[Prediction]:
        """What `artifacts[name].predict` gives for each example and its name, to rounding, in the order given.

        Rows of all artifacts share each batch, and its passes of the backbone as far as they can, see `shared_pass`.

        Args:
            examples: as for `Artifact.predict`.
            names: the artifact of each example.
            batch_size: rows per pass.
        Raises:
            ValueError: a name is unknown, there are more or fewer names than examples, or an example is not of the
                kind that its artifact was trained on.
        """
        chosen = self._rows_by_name(examples, names)
        rows = {name: self[name].read(examples[i] for i in own) for name, own in chosen.items()}
        scores: dict[str, list[tuple[Batch, Tensor]]] = {name: [] for name in rows}
        for scored in artifact_scores(self.artifacts, rows, batch_size):
            for name, batch, logits_BC in scored:
                scores[name].append((batch, logits_BC))
        results: dict[int, Prediction] = {}
        for name, own in chosen.items():
            results |= dict(zip(own, self[name].predictions(rows[name], scores[name]), strict=True))
        return [results[index] for index in range(len(examples))]

    def _rows_by_name(self, examples: Sequence[Example | str], names: Sequence[str]) -> dict[str, list[int]]:
        if len(names) != len(examples):
            raise ValueError(f"There are {len(examples)} examples and {len(names)} names. Give one name for each.")
        chosen: dict[str, list[int]] = {}
        for index, name in enumerate(names):
            if name not in self.artifacts:
                raise ValueError(
                    f"Example {index + 1} names the prompt {name!r}, but there are only {', '.join(self.artifacts)}."
                )
            self[name].check(examples[index], f"Example {index + 1}")  # its place among all, not among the name's own
            chosen.setdefault(name, []).append(index)
        return chosen


def _check_one_backbone(fingerprints: Mapping[str, str], configs: Mapping[str, RunConfig]) -> None:
    (first, fingerprint), *others = fingerprints.items()
    for name, other in others:
        if other != fingerprint:
            raise ArtifactError(
                f"{name} was made for another backbone ({configs[name].backbone.name!r}) than {first} "
                f"({configs[first].backbone.name!r}): their weights differ. Load it in a set of its own."
            )
        if configs[name].backbone.dtype != configs[first].backbone.dtype:
            raise ArtifactError(
                f"{name} has backbone.dtype {configs[name].backbone.dtype}, {first} has "
                f"{configs[first].backbone.dtype}, but they share one backbone. Load it in a set of its own."
            )
    for name, config in configs.items():
        if trained_by := config.backbone.trained_by:
            raise ArtifactError(
                f"{name} has trained its backbone ({trained_by}), which others cannot share. Load it alone, "
                " with Artifact.from_pretrained."
            )
