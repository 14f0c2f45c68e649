"""The model's own probability of each choice of a row, behind the words before it; not trained.

Shapes: B examples (their choices), C classes (choices of an example), E embedding width, L positions, D hidden width.
"""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from infoprompt.config import RunConfig
from infoprompt.data.batch import Batch
from infoprompt.model.heads.kind import Head, HeadContext, HeadKind
from infoprompt.model.heads.linear import of_choices
from infoprompt.model.prompts.kind import DeepPrompt
from infoprompt.settings.head import ChoiceTextSettings

if TYPE_CHECKING:
    from infoprompt.model.backbone.backbone import Backbone


class ChoiceTextHead(Head):
    """Log probabilities of the choices, by the model itself, or their means over a choice's tokens.

    Source: Brown et al. 2020, arXiv:2005.14165, section 2.4, for both.
    """

    passes_itself: ClassVar[bool] = True

    def __init__(self, length_normalization: bool, num_biases: int) -> None:
        """Read choices. `num_biases`: of the places of a row's choices; none where something else is trained."""
        super().__init__()
        self.length_normalization = length_normalization
        self.bias_C = nn.Parameter(torch.zeros(num_biases)) if num_biases else None

    def score_pass(
        self, backbone: "Backbone", inputs_BLE: Tensor, batch: Batch, deep: DeepPrompt | None
    ) -> tuple[Tensor, Tensor]:
        """See `Head`; of each example its choices side by side, [B / choices, choices]."""
        scores_B, states_BLD = backbone.score_choices(inputs_BLE, batch, deep)
        if self.length_normalization:
            assert batch.marked_B2 is not None
            scores_B = scores_B / (batch.marked_B2.diff(dim=1).squeeze(1) + 1)
        scores_BC = of_choices(scores_B[:, None], batch)
        return scores_BC if self.bias_C is None else scores_BC + self.bias_C, states_BLD


def _build(config: RunConfig, context: HeadContext) -> ChoiceTextHead:
    settings = config.head
    assert isinstance(settings, ChoiceTextSettings)
    # A model that is asked as it is has this one parameter, which stays at zero, as with label words.
    return ChoiceTextHead(settings.length_normalization, context.task.num_classes if settings.fit == "start" else 0)


KIND = HeadKind(
    _build, tasks=frozenset({"choice"}), needs=frozenset({"choice_texts"}), lm_head=True, passes_itself=True
)
