"""What a run works with."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from infoprompt.config import PromptSettings, RunConfig
from infoprompt.data.batch import Batch
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.loader import TrainLoader
from infoprompt.data.tasks import Task
from infoprompt.data.template import Template
from infoprompt.engine.interface import Engine
from infoprompt.engine.pack import Asking
from infoprompt.evaluate import Evaluation, evaluate, evaluate_given
from infoprompt.model.member import Member
from infoprompt.objective.encoding import Encoding
from infoprompt.ranks import Ranks

SHARES_ROWS = 2048
"""Enough to know a class's share to one per cent."""


@dataclass(frozen=True)
class Setup:
    """What a run works with."""

    config: RunConfig
    task: Task
    engine: Engine
    member: Member
    train: TrainLoader
    dev: EncodedDataset
    test: EncodedDataset
    fingerprint: str
    template: Template
    class_weight_C: Tensor | None = None
    """See `data.class_weights`."""
    given: Mapping[str, list[int]] | None = None
    """Classes of the rows of `test` and `dev`, where `evaluation.predictions` gives them in place of the model."""

    @property
    def ranks(self) -> Ranks:
        """The ranks of this run."""
        return self.engine.ranks

    @property
    def metric(self) -> str:
        """The metric that chooses the best state."""
        return self.config.evaluation.metric or self.task.metrics[0]

    def infer(self, batch: Batch) -> Encoding:
        """Forward without gradient."""
        return self.engine.infer({0: batch.to(self.ranks.device)})[0]

    def of(self, rows: Mapping[str, EncodedDataset], kept_texts: np.ndarray | None = None) -> "Setup":
        """The same with other rows: `training`, `dev`, `test` and `unlabelled`."""
        pool = self.train.pool
        if pool is not None:
            pool = replace(pool, rows=rows["unlabelled"], kept=pool.kept if kept_texts is None else kept_texts)
        train = replace(self.train, rows=rows["training"], pool=pool)
        return replace(self, train=train, dev=rows["dev"], test=rows["test"])

    def tags(self) -> dict[str, str]:
        """What a table of runs is read and sorted by: task, rows, backbone and prompt."""
        prompt = self.config.prompt
        length = f" {prompt.length}" if isinstance(prompt, PromptSettings) else ""
        return {
            "task": self.task.name,
            "task.kind": self.task.kind,
            "rows.train": str(len(self.train.rows)),
            "rows.dev": str(len(self.dev)),
            "rows.test": str(len(self.test)),
            **(
                {"rows.unlabelled": str(len(self.train.pool.kept)), "unlabelled": self.pool_name}
                if self.train.pool
                else {}
            ),
            "backbone": self.config.backbone.name,
            "prompt": f"{prompt.kind}{length}",
        }

    @property
    def pool_name(self) -> str:
        """`rest`, `transductive` or `file`: where the texts without labels come from; empty where there are none."""
        source = self.config.data.unlabelled
        if self.train.pool is None:
            return ""
        return str(source) if source in ("rest", "transductive") else "file"

    @property
    def spelled_out(self) -> RunConfig:
        """The config with the words around a text, and the demonstrations, in place of what says where they are."""
        if self.template.pattern is None:
            return self.config
        data = self.template.pattern.spelled_out(self.config.data)
        return self.config.model_copy(update={"data": data})

    def class_shares(self) -> Tensor:
        """Mean prediction for the texts without labels, at most the first `SHARES_ROWS`, [C]; all ranks take part."""
        assert self.train.pool is not None
        return self.mean_prediction(self.train.pool.rows, self.train.pool.kept[:SHARES_ROWS])

    def mean_prediction(self, texts: EncodedDataset, kept: np.ndarray) -> Tensor:
        """Mean probability of each class over some texts, [C]; all ranks take part."""
        size, ranks = self.config.evaluation.batch_size, self.ranks
        filled = np.append(kept, np.full(-len(kept) % (size * ranks.world_size), -1))
        total_C = torch.zeros(self.task.num_classes)
        for rows in filled.reshape(-1, ranks.world_size, size)[:, ranks.rank]:
            known = torch.from_numpy(rows >= 0)
            encoding = self.infer(texts.batch(rows))
            total_C = total_C + encoding.logits_BC.float().cpu().softmax(1)[known].sum(0)
        parts: list[Tensor] = ranks.gather_objects(total_C)
        return torch.stack(parts).sum(0) / len(kept)

    def untouched_parameters(self) -> int:
        """Trained parameters that the training rows cannot change, such as a table's rows for other tokens."""
        prompt = self.member.prompt
        if prompt is None:
            return 0
        real = self.train.rows.without_prompt().texts.input_ids
        return sum(parameter.numel() for parameter in prompt.parameters()) - prompt.touched_parameters(real)

    def evaluate(self, rows: EncodedDataset) -> Asking[Evaluation]:
        """Scores on rows; all ranks take part."""
        name = "test" if rows is self.test else "dev"
        if self.given is not None:
            return evaluate_given(self.given.get(name), rows, self.task)
        return (yield from evaluate(self.engine, rows, self.task, self.config.evaluation.batch_size, name))
