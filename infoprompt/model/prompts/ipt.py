"""Instance-wise prompt tuning: the prompt is looked up by the example's own first token ids.

Shapes: B examples, L positions, P prompt vectors, E embedding width, H key-value heads, K head width, N layers,
V vocabulary, W width of a table row.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprompt.config import ConfigError
from infoprompt.data.batch import Batch
from infoprompt.model.prompt_table import build_encoder, load_table
from infoprompt.model.prompts.kind import DeepPrompt, Prompt, PromptContext, PromptKind, PromptParts
from infoprompt.model.prompts.prefix import PrefixPrompt, start_table
from infoprompt.settings.prompt import IptSettings

PREFIX_SCALE = 0.05


class TablePrompt(Prompt):
    """The rows of a trained table at the first P token ids, or what a small encoder makes of them.

    At the input the vectors take the slots. With a prefix they are added, times 0.05, to the first layer's keys and
    values, on top of trained keys and values at every layer. A text of fewer tokens is filled up with the padding id,
    whose row is trained like the others. Source: IPT (arXiv:2206.01958), in the form of the authors' released code,
    without its defects: the head is trained, and so is a pretrained table.
    """

    def __init__(
        self, table_VW: Tensor, length: int, pad_id: int, encoder: nn.Module | None, prefix: PrefixPrompt | None
    ) -> None:
        super().__init__()
        self.table_VW = nn.Parameter(table_VW.clone())
        self.encoder = encoder
        self.prefix = prefix
        self.length = length
        self.pad_id = pad_id

    def forward(self, batch: Batch) -> PromptParts:
        """Vectors for the slots, or keys and values."""
        rows_BPW = F.embedding(first_ids(batch, self.length, self.pad_id), self.table_VW)
        made_BPW = rows_BPW if self.encoder is None else self.encoder(rows_BPW)
        if self.prefix is None:
            return PromptParts(made_BPW)
        (keys_1HPK, values_1HPK), *rest = self.prefix.layers()
        heads, width = keys_1HPK.shape[1], keys_1HPK.shape[3]
        added = PREFIX_SCALE * made_BPW.unflatten(2, (2, heads, width)).permute(2, 0, 3, 1, 4)
        return PromptParts(deep=DeepPrompt(prefix=((keys_1HPK + added[0], values_1HPK + added[1]), *rest)))

    def touched_parameters(self, texts: Iterable[Sequence[int]]) -> int:
        """Parameters with only those table rows that the training texts look up."""
        seen = {token for text in texts for token in [*text[: self.length], *[self.pad_id] * (len(text) < self.length)]}
        return super().touched_parameters(()) - (len(self.table_VW) - len(seen)) * self.table_VW.shape[1]


def first_ids(batch: Batch, count: int, pad_id: int) -> Tensor:
    """The first `count` real token ids of each example, [B, P] int64, filled up with the padding id."""
    order_BL = torch.argsort((~batch.real_BL).long(), dim=1, stable=True)[:, :count]
    ids_BP = batch.input_ids_BL.gather(1, order_BL).where(batch.real_BL.gather(1, order_BL), pad_id)
    return F.pad(ids_BP, (0, count - ids_BP.shape[1]), value=pad_id)


def build(settings: IptSettings, context: PromptContext) -> TablePrompt:
    """A table and its encoder, random or pretrained, and the prefix below them in prefix mode.

    Raises:
        ConfigError: the start is none of this kind's, or the pretrained table is of another shape.
    """
    in_prefix = settings.mode == "prefix"
    width = 2 * context.num_kv_heads * context.head_size if in_prefix else context.embedding_size
    encoder = build_encoder(settings.encoder, width, settings.length)
    if settings.table is not None:
        shape = (context.vocabulary.table.num_embeddings, width)
        table_VW = load_table(settings, encoder, shape, context.vocabulary.tokenizer)
    else:
        table_VW = _start(settings, context, width)
    prefix = PrefixPrompt(start_table(settings, context)) if in_prefix else None
    return TablePrompt(table_VW, settings.length, context.vocabulary.tokenizer.pad_token_id, encoder, prefix)


def _start(settings: IptSettings, context: PromptContext, width: int) -> Tensor:
    table = context.vocabulary.table
    if settings.init == "random":
        return torch.rand(table.num_embeddings, width, generator=context.generator) - 0.5
    if settings.init == "vocabulary" and settings.mode == "prompt":
        return table.embedding_table()
    raise ConfigError(
        f"prompt.init is {settings.init} with prompt.mode {settings.mode}, but the table of kind ipt starts random "
        "(between -0.5 and 0.5, as published), or, in prompt mode, as a copy of the vocabulary. Use random."
    )


KIND = PromptKind(
    build,
    slots=lambda settings: settings.length if settings.mode == "prompt" else 0,
    needs=lambda settings: frozenset({"prefix"} if settings.mode == "prefix" else ()),
    embeds=lambda settings: settings.mode == "prompt",
)
