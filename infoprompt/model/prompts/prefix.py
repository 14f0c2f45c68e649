"""Trained keys and values at every layer.

Shapes: B examples, H key-value heads, K head width, N layers, P prompt vectors.
"""

import torch
from torch import Tensor, nn

from infoprompt.data.batch import Batch
from infoprompt.model.prompts.kind import DeepPrompt, Prompt, PromptContext, PromptKind, PromptParts
from infoprompt.peft.read import prefix_start
from infoprompt.settings.prompt import PrefixSettings, PromptSettings

START_STD = 0.02


class PrefixPrompt(Prompt):
    """P keys and values a layer, the same for every example, that all positions attend to.

    Source: prefix tuning, Li and Liang 2021, without the network that only training has; P-tuning v2, Liu et al. 2022.
    """

    def __init__(self, start_N2HPK: Tensor) -> None:
        super().__init__()
        self.table_N2HPK = nn.Parameter(start_N2HPK.clone())

    def layers(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Keys and values of each layer, each [1, H, P, K]."""
        return tuple((keys_HPK[None], values_HPK[None]) for keys_HPK, values_HPK in self.table_N2HPK)

    def forward(self, batch: Batch) -> PromptParts:
        """The same keys and values for every example."""
        return PromptParts(deep=DeepPrompt(prefix=self.layers()))


def start_table(settings: PromptSettings, context: PromptContext) -> Tensor:
    """Small random keys and values, [N, 2, H, P, K]: at first the prefix only draws some attention away."""
    shape = (context.num_layers, 2, context.num_kv_heads, settings.length, context.head_size)
    return START_STD * torch.randn(shape, generator=context.generator)


def build(settings: PrefixSettings, context: PromptContext) -> PrefixPrompt:
    """A prefix of `prompt.length` keys and values a layer, small random ones or those of a PEFT folder."""
    if settings.start_from is not None:
        shape = (context.num_layers, context.num_kv_heads, context.head_size)
        return PrefixPrompt(prefix_start(settings.start_from, settings.length, *shape))
    return PrefixPrompt(start_table(settings, context))


KIND = PromptKind(
    build,
    slots=lambda settings: 0,
    needs=lambda settings: frozenset({"prefix"}),
    embeds=lambda settings: False,
)
