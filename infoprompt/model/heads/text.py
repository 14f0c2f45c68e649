"""The model's own probability of the whole label text behind the input; not trained.

Shapes: B examples, C classes, D hidden width, E embedding width, L positions, V vocabulary, S words
"""

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from infoprompt.config import RunConfig
from infoprompt.data.batch import Batch
from infoprompt.model.heads.kind import HeadContext, HeadKind
from infoprompt.model.heads.label_tokens import VerbaliserHead, verbaliser
from infoprompt.model.prompts.kind import DeepPrompt
from infoprompt.settings.head import TextSettings

if TYPE_CHECKING:
    from infoprompt.model.backbone.backbone import Backbone


class TextHead(VerbaliserHead):
    """Log probabilities of the whole label texts, by the model itself."""

    passes_itself: ClassVar[bool] = True

    def __init__(self, *given: Any, length_normalization: bool = False, **named: Any) -> None:
        super().__init__(*given, **named)
        self.length_normalization = length_normalization

    def score_pass(
        self, backbone: "Backbone", inputs_BLE: Tensor, batch: Batch, deep: DeepPrompt | None
    ) -> tuple[Tensor, Tensor]:
        """See `Head`."""
        scores_BS, states_BLD = backbone.score_texts(inputs_BLE, batch, self.token_ids, deep)
        if self.length_normalization:
            scores_BS = scores_BS / scores_BS.new_tensor([len(ids) for ids in self.token_ids])
        return self.of_classes(scores_BS), states_BLD


def _build(config: RunConfig, context: HeadContext) -> TextHead:
    settings = config.head
    assert isinstance(settings, TextSettings)
    given = verbaliser(config, context, settings.end_token)
    return TextHead(**given, length_normalization=settings.length_normalization)


KIND = HeadKind(_build, needs=frozenset({"label_texts"}), lm_head=True, passes_itself=True)
