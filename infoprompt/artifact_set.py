"""Several artifacts over one backbone, and batches whose rows use different ones.

Shapes: B rows, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from infoprompt.artifact import (
    Artifact,
    ArtifactError,
    Prediction,
    needs_unprompted_states,
    predicting_config,
    read_card,
)
from infoprompt.config import RunConfig
from infoprompt.data.batch import Batch
from infoprompt.data.loader import EncodedDataset
from infoprompt.data.rows import Example
from infoprompt.model.backbone.load import load_backbone
from infoprompt.model.build import backbone_needs
from infoprompt.model.heads.kind import head_kind
from infoprompt.model.shared import shared_pass
from infoprompt.objective.encoding import Encoding


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

        Rows of all artifacts share each batch and its encoder pass. Three do not mix, and read their own rows alone:
        `head.kind: text`, which scores texts behind the input; `prompt.kind: none`; and the control
        `prompt.source: other`, which reads another row's state.

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
        results: dict[int, Prediction] = {}
        scores = self._mixed_scores({name: part for name, part in rows.items() if self._mixes(name)}, batch_size)
        for name, own in chosen.items():
            if self._mixes(name):
                predictions = self[name].predictions(rows[name], scores[name])
            else:
                predictions = self[name].predict([examples[i] for i in own], batch_size)
            results |= dict(zip(own, predictions, strict=True))
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

    def _mixes(self, name: str) -> bool:
        model = self[name].model
        mixes = model.prompt is not None and not model.head.passes_itself
        return mixes and not self[name].config.mixes_rows

    def _mixed_scores(
        self, rows: Mapping[str, EncodedDataset], batch_size: int
    ) -> dict[str, list[tuple[Batch, Tensor]]]:
        """For each artifact its part of every batch, with the scores, float32 on the CPU."""
        order = [(part.length(row), name, row) for name, part in rows.items() for row in range(len(part))]
        order.sort()
        plain = {name: _without_prompt(part) for name, part in rows.items() if self._reads_unprompted(name)}
        found: dict[str, list[tuple[Batch, Tensor]]] = {name: [] for name in rows}
        for start in range(0, len(order), batch_size):
            own: dict[str, list[int]] = {}
            for _, name, row in order[start : start + batch_size]:
                own.setdefault(name, []).append(row)
            batches = self._batches(rows, plain, own)
            encodings = self._encodings(batches)
            for name, batch in batches.items():
                found[name].append((batch.to("cpu"), encodings[name].logits_BC.float().cpu()))
        return found

    def _batches(
        self, rows: Mapping[str, EncodedDataset], plain: Mapping[str, EncodedDataset], own: Mapping[str, list[int]]
    ) -> dict[str, Batch]:
        """Each artifact's batch of its own rows, with the unprompted states where it reads them; one pass for all."""
        device = next(self[next(iter(own))].model.parameters()).device
        batches = {name: rows[name].batch(indices).to(device) for name, indices in own.items()}
        reading = [name for name in own if name in plain]
        if reading:
            states = self._encodings(
                {name: replace(plain[name].batch(own[name]), unprompted=True).to(device) for name in reading}
            )
            for name, found in states.items():
                batches[name] = replace(batches[name], summary_BD=found.summary_BD, pooled_BD=found.pooled_BD)
        return batches

    @torch.inference_mode()
    def _encodings(self, batches: Mapping[str, Batch]) -> dict[str, Encoding]:
        encodings = shared_pass([self[name].model for name in batches], list(batches.values()))
        return dict(zip(batches, encodings, strict=True))

    def _reads_unprompted(self, name: str) -> bool:
        return needs_unprompted_states(self[name].config, self[name].task, training=False)


def _without_prompt(rows: EncodedDataset) -> EncodedDataset:
    return replace(rows, texts=[text.without_prompt() for text in rows.texts])


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
        if not config.backbone.frozen:
            raise ArtifactError(
                f"{name} has trained its backbone (backbone.frozen was false), which others cannot share. Load it "
                "alone, with Artifact.from_pretrained."
            )
