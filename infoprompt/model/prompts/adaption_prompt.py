"""Trained keys and values at every layer, with a softmax of their own.

Shapes: H key-value heads, K head width, N layers, P prompt vectors.
"""

import torch
from torch import Tensor, nn

from infoprompt.data.batch import Batch
from infoprompt.model.prompts.kind import DeepPrompt, Prompt, PromptContext, PromptKind, PromptParts
from infoprompt.settings.prompt import AdaptionPromptSettings


class AdaptionPrompt(Prompt):
    """What a position reads off P keys and values a layer is added to what it reads off the text.

    A prefix shares one softmax with the text, so it takes attention away from the text, and the more the shorter the
    text is; this one does neither. Values start at zero, so training starts from the unprompted model. Source:
    LLaMA-Adapter, Zhang et al. 2023 (arXiv:2303.16199). Departures: at every layer, keys and values are trained
    themselves instead of vectors that the layer projects, and zero values stand in for the gate.
    """

    def __init__(self, start_N2HPK: Tensor) -> None:
        super().__init__()
        self.table_N2HPK = nn.Parameter(start_N2HPK.clone())

    def forward(self, batch: Batch) -> PromptParts:
        """The same keys and values for every example."""
        adapter_kv = tuple((keys_HPK[None], values_HPK[None]) for keys_HPK, values_HPK in self.table_N2HPK)
        return PromptParts(deep=DeepPrompt(adapter_kv=adapter_kv))


def build(settings: AdaptionPromptSettings, context: PromptContext) -> AdaptionPrompt:
    """`prompt.length` random keys a layer, at the scale of a layer's own, with zero values."""
    shape = (context.num_layers, 2, context.num_kv_heads, settings.length, context.head_size)
    start_N2HPK = torch.randn(shape, generator=context.generator)
    start_N2HPK[:, 1] = 0
    return AdaptionPrompt(start_N2HPK)


KIND = PromptKind(
    build,
    slots=lambda settings: 0,
    needs=lambda settings: frozenset({"prefix"}),
    embeds=lambda settings: False,
)
