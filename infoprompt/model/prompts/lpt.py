"""Late prompt tuning: an instance-dependent prompt that enters at a middle layer.

Shapes: B examples, L positions, P prompt vectors, D hidden width, R bottleneck width.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from infoprompt.config import ConfigError
from infoprompt.data.batch import Batch
from infoprompt.model.insert import pool
from infoprompt.model.prompts.instance import start_generator
from infoprompt.model.prompts.kind import DeepPrompt, Prompt, PromptContext, PromptKind, PromptParts
from infoprompt.settings.prompt import LptSettings


class LatePrompt(Prompt):
    """W_up ReLU(W_down h) at the input of one layer, h the state that stands for the text there.

    Below that layer the slots are attended by nobody, so the states there are those of the plain text, and no gradient
    goes further down. One encoder pass. Source: LPT, Liu et al. 2022, the naive prompt generator. Departures: h is
    normalised, and the output is in units of its spread.
    """

    def __init__(self, context: PromptContext, length: int, bottleneck: int, layer: int) -> None:
        super().__init__()
        self.down = nn.Linear(context.hidden_size, bottleneck)
        self.up = nn.Linear(bottleneck, length * context.hidden_size)
        self.shape_PD = (length, context.hidden_size)
        self.embedding_size = context.embedding_size
        self.summary = context.summary
        self.first_layer = layer
        start_generator(self.down, self.up, 1.0, context.generator)

    def forward(self, batch: Batch) -> PromptParts:
        """Empty slots at the input, and the vectors for the layer."""
        empty_BPE = self.up.bias.new_zeros(1, 1, 1).expand(len(batch), self.shape_PD[0], self.embedding_size)
        return PromptParts(
            empty_BPE, DeepPrompt(layers={self.first_layer: self._at_layer}, first_layer=self.first_layer)
        )

    def _at_layer(self, states_BLD: Tensor, batch: Batch) -> Tensor:
        state_BD = pool(states_BLD, batch, self.summary).detach()
        made_BPD = self.up(F.relu(self.down(F.layer_norm(state_BD, state_BD.shape[-1:])))).unflatten(1, self.shape_PD)
        return state_BD.std(1)[:, None, None] * made_BPD


def build(settings: LptSettings, context: PromptContext) -> LatePrompt:
    """A generator at layer `prompt.layer`; raises ConfigError where the backbone has no such layer."""
    layer = context.num_layers // 2 if settings.layer is None else settings.layer
    if layer >= context.num_layers:
        raise ConfigError(
            f"prompt.layer is {layer}, but the backbone has {context.num_layers} layers, counted from 0. "
            "Use a lower one."
        )
    return LatePrompt(context, settings.length, settings.bottleneck, layer)


KIND = PromptKind(build, needs=lambda settings: frozenset({"layers"}), embeds=lambda settings: False)
