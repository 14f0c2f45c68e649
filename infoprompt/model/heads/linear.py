"""A linear layer on the pooled state; of tags on the state of each word.

Shapes: B examples (or their choices), C classes, D hidden width, S words.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprompt.config import ConfigError, RunConfig
from infoprompt.data.batch import Batch
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.task import Task
from infoprompt.model.gaussian import GaussianLayer
from infoprompt.model.heads.kind import ALL_KINDS, WHOLE_TEXTS, Head, HeadContext, HeadKind, Reading
from infoprompt.settings.head import LinearSettings


class LinearHead(Head):
    """Scores x . w_c + b_c of the pooled state itself; the rows of its weight are the class vectors."""

    def __init__(self, hidden_size: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, num_classes)
        nn.init.zeros_(self.linear.bias)

    def forward(self, reading: Reading) -> Tensor:
        """See `Head`."""
        batch = reading.batch
        if batch.word_BS is not None:
            assert reading.states_BLD is not None
            scores_BSC: Tensor = self.linear(first_token_states(reading.states_BLD, batch.word_BS))
            return scores_BSC
        scores_BC: Tensor = self.linear(reading.pooled_BD)
        return of_choices(scores_BC, batch)

    def class_vectors(self) -> Tensor:
        """See `Head`; [C, D]."""
        return self.linear.weight

    def start_from(self, states_CD: Tensor) -> dict[str, Tensor]:
        """See `Head`."""
        return {"linear.weight": label_state_weights(states_CD)}

    def linear_form(self, gaussian: GaussianLayer | None) -> tuple[Tensor, Tensor]:
        """See `Head`."""
        return self.linear.weight, self.linear.bias


def first_token_states(states_BLD: Tensor, word_BS: Tensor) -> Tensor:
    """State of each word's first token, [B, S, D], float32."""
    index_BSD = word_BS.clamp(min=0).unsqueeze(-1).expand(-1, -1, states_BLD.shape[-1])
    return states_BLD.gather(1, index_BSD).float()


def of_choices(scores_BC: Tensor, batch: Batch) -> Tensor:
    """The one score of each choice side by side, [B / choices, choices]; the scores as they are without choices."""
    return scores_BC.unflatten(0, (-1, batch.num_choices)).squeeze(-1) if batch.num_choices > 1 else scores_BC


def num_outputs(task: Task) -> int:
    """Scores that a linear head gives for a state: one per class; a single one for choices and for regression."""
    return 1 if task.kind in ("choice", "regression") else task.num_classes


def label_state_weights(state_CD: Tensor) -> Tensor:
    """Class vectors for a linear head from the label texts' pooled states, [C, D].

        w_c = 10 / r * h_c / |h_c|,  r the mean norm of the states

    So a state of norm r is scored by ten times its cosine to each label text: a zero-shot classifier to start from.
    """
    norm_C1 = state_CD.norm(dim=1, keepdim=True)
    return 10 / norm_C1.mean() * state_CD / norm_C1


BLOCK_ROWS = 65_536
"""Rows whose states are read from their file at a time."""


def class_means(label_CD: Tensor, rows: EncodedDataset) -> Tensor:
    """A state for each class: the sum of its rows' and its text's directions, [C, D].

        h_c = r (l_c / |l_c| + m_c / |m_c|),  m_c = sum of x / |x| over the class's rows

    with r the mean norm of the label texts' states; the text's direction alone where a class has no rows.

    Args:
        label_CD: pooled states of the label texts.
        rows: training rows with their pooled states.
    """
    assert rows.pooled_MD is not None
    sums_CD = torch.zeros_like(label_CD)
    for start in range(0, len(rows), BLOCK_ROWS):
        states_MD = F.normalize(rows.pooled_MD[start : start + BLOCK_ROWS].to(label_CD.dtype), dim=1)
        sums_CD.index_add_(0, torch.tensor(rows.labels[start : start + BLOCK_ROWS]), states_MD)
    return label_CD.norm(dim=1).mean() * (F.normalize(label_CD, dim=1) + F.normalize(sums_CD, dim=1))


def _starts_from_labels(config: RunConfig, task: Task) -> bool:
    return config.head.from_labels and num_outputs(task) > 1


def _build(config: RunConfig, context: HeadContext) -> LinearHead:
    _check_states_of_rows(config, context.task)
    head = LinearHead(context.pooled_size, num_outputs(context.task))
    if _starts_from_labels(config, context.task):
        nn.init.zeros_(head.linear.weight)
    return head


def _check_states_of_rows(config: RunConfig, task: Task) -> None:
    settings = config.head
    assert isinstance(settings, LinearSettings)
    asked = "head.init is class_means" if settings.init == "class_means" else None
    if settings.warm_start_steps:
        asked = f"head.warm_start_steps is {settings.warm_start_steps}"
    if asked and task.kind not in WHOLE_TEXTS:
        raise ConfigError(
            f"{asked}, but {task.name} is of the kind {task.kind}, whose rows have no class each. Set head.init to "
            "labels, and head.warm_start_steps to 0."
        )


KIND = HeadKind(_build, ALL_KINDS, reads_labels=_starts_from_labels)
