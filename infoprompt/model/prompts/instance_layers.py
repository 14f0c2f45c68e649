"""An instance-dependent prompt at every layer, made from the running states.

Shapes: B examples, L positions, P prompt vectors, E embedding width, D hidden width, R bottleneck width, N layers.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprompt.data.batch import Batch
from infoprompt.model.insert import pool
from infoprompt.model.prompts.instance import start_generator
from infoprompt.model.prompts.kind import DeepPrompt, Prompt, PromptContext, PromptKind, PromptParts
from infoprompt.model.prompts.start import start_vectors
from infoprompt.settings.prompt import InstanceLayersSettings


class InstanceLayersPrompt(Prompt):
    """At the input trained vectors; before every later layer  W_2 GELU(W_1 h) + b_layer  is added to the slots' states.

    h is the state that stands for the text at that layer. W_1 and W_2 are shared by the layers, b is each layer's own.
    One encoder pass, unlike the generator at the input layer. Source: IDPG, Wu et al. 2022, multi-layer form with plain
    matrices. Departures: h is normalised, and the output is in units of its spread.
    """

    def __init__(self, start_PE: Tensor, context: PromptContext, bottleneck: int) -> None:
        super().__init__()
        length = len(start_PE)
        self.vectors_PE = nn.Parameter(start_PE.clone())
        self.down = nn.Linear(context.hidden_size, bottleneck)
        self.up = nn.Linear(bottleneck, length * context.hidden_size)
        self.bias_NPD = nn.Parameter(torch.zeros(context.num_layers - 1, length, context.hidden_size))
        self.summary = context.summary
        start_generator(self.down, self.up, 0.1, context.generator)

    def forward(self, batch: Batch) -> PromptParts:
        """Input vectors, and what is added before each layer but the first."""
        layers = {layer + 1: partial(self._at_layer, layer) for layer in range(len(self.bias_NPD))}
        return PromptParts(self.vectors_PE.expand(len(batch), -1, -1), DeepPrompt(layers=layers, adds=True))

    def _at_layer(self, layer: int, states_BLD: Tensor, batch: Batch) -> Tensor:
        state_BD = pool(states_BLD, batch, self.summary)
        spread_B11 = state_BD.detach().std(1)[:, None, None]
        made_BPD = self.up(F.gelu(self.down(F.layer_norm(state_BD, state_BD.shape[-1:]))))
        return spread_B11 * (made_BPD.unflatten(1, self.bias_NPD.shape[1:]) + self.bias_NPD[layer])


def build(settings: InstanceLayersSettings, context: PromptContext) -> InstanceLayersPrompt:
    """A generator of width `prompt.bottleneck` shared by all layers."""
    start_PE = start_vectors(settings, context.vocabulary, context.generator)
    return InstanceLayersPrompt(start_PE, context, settings.bottleneck)


KIND = PromptKind(build, needs=lambda settings: frozenset({"layers"}))
