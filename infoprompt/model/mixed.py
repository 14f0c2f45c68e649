"""One encoder pass for rows whose prompts, heads and inputs belong to different models over one backbone.

Input vectors that are the same for all examples come from one stacked table by one gather; what is made from the
example is made for its own model's rows. Prefixes are filled up to the longest with keys that their rows do not see;
what enters between the layers is placed model by model.

Letters: B rows, L positions, P prompt vectors, E embedding width, D hidden width, A models, H key-value heads,
K head width, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from infoprompt.data.batch import Batch
from infoprompt.model.backbone import Backbone
from infoprompt.model.insert import insert_prompt, pool
from infoprompt.model.prompted import PromptedModel
from infoprompt.model.prompts.kind import DeepPrompt, PromptParts
from infoprompt.model.prompts.static import StaticPrompt


@dataclass(frozen=True)
class Part:
    """The rows of one model in a mixed batch."""

    index: int
    """Which model."""
    batch: Batch
    """Its rows, as it would read them alone."""


@dataclass(frozen=True)
class _Placed:
    """A part among the others."""

    part: Part
    rows: slice
    """Its rows in the mixed batch."""
    batch: Batch
    """Padded to the mixed batch's length."""
    made: PromptParts
    """Its prompt; without input vectors where those are in the table."""


class MixedModel:
    """Several prompted models over one backbone; predicts only."""

    def __init__(self, models: Sequence[PromptedModel]) -> None:
        self.models = models
        self.backbone: Backbone = models[0].backbone
        assert all(model.backbone is self.backbone for model in models)
        self.table_APE = _static_table(models, self.backbone)

    def mixes(self, index: int) -> bool:
        """Whether a model's rows can share a pass: it has a prompt, and scores no whole texts behind the input."""
        model = self.models[index]
        return model.prompt is not None and not model.head.passes_itself

    @torch.inference_mode()
    def scores(self, parts: Sequence[Part]) -> list[Tensor]:
        """Label scores of each part, as its model alone gives them, float32; one pass.

        A pass more for each further layer at which prompts of kind `lpt` enter: below that layer nobody may see their
        slots, and the backbone takes one such layer a pass.
        """
        made = [self._made(part) for part in parts]
        first_layers = [0 if parts_made.deep is None else parts_made.deep.first_layer for parts_made in made]
        results: list[Tensor] = [torch.empty(0)] * len(parts)
        for first_layer in sorted(set(first_layers)):
            chosen = [i for i, layer in enumerate(first_layers) if layer == first_layer]
            scores = self._pass([parts[i] for i in chosen], [made[i] for i in chosen], first_layer)
            for i, scores_BC in zip(chosen, scores, strict=True):
                results[i] = scores_BC
        return results

    @torch.inference_mode()
    def plain_states(self, parts: Sequence[Part]) -> list[tuple[Tensor, Tensor]]:
        """Of unprompted batches, each text's summary state and its pooled one, each [B, D], float32; one pass."""
        placed = _placed(parts, [PromptParts()] * len(parts))
        mixed = Batch.joined([item.batch for item in placed])
        states_BLD = self.backbone(self.backbone.embed(mixed.input_ids_BL), mixed)
        pairs = []
        for item in placed:
            own_BLD, pooling = states_BLD[item.rows], self.models[item.part.index].pooling
            pairs.append((pool(own_BLD, item.batch, self.backbone.summary), pool(own_BLD, item.batch, pooling)))
        return pairs

    def _made(self, part: Part) -> PromptParts:
        prompt = self.models[part.index].prompt
        assert prompt is not None
        if isinstance(prompt, StaticPrompt):
            return PromptParts()  # in the table
        made: PromptParts = prompt(part.batch)
        return made

    def _pass(self, parts: Sequence[Part], made: Sequence[PromptParts], first_layer: int) -> list[Tensor]:
        placed = _placed(parts, made)
        mixed = Batch.joined([item.batch for item in placed])
        embeddings_BLE = insert_prompt(
            self.backbone.embed(mixed.input_ids_BL), self._input_vectors(placed), mixed.slot_BL
        )
        deeps = [item.made.deep for item in placed]
        prefix, prefix_seen_BP = _prefixes(placed, [() if deep is None else deep.prefix for deep in deeps])
        apart, apart_seen_BP = _prefixes(placed, [() if deep is None else deep.apart for deep in deeps])
        deep = DeepPrompt(prefix, prefix_seen_BP, apart, apart_seen_BP, _layers(placed), first_layer=first_layer)
        states_BLD = self.backbone(embeddings_BLE, mixed, deep)
        return [self.models[item.part.index].read_out(states_BLD[item.rows], item.batch)[0].float() for item in placed]

    def _input_vectors(self, placed: Sequence[_Placed]) -> Tensor:
        """Input vectors of every row, [B, P, E]; those that a row does not have are never read."""
        counts = torch.tensor([len(item.batch) for item in placed], device=self.table_APE.device)
        index_A = torch.tensor([item.part.index for item in placed], device=self.table_APE.device)
        vectors_BPE = self.table_APE[index_A.repeat_interleave(counts)]
        longest = max((item.made.input_BPE.shape[1] for item in placed if item.made.input_BPE is not None), default=0)
        vectors_BPE = F.pad(vectors_BPE, (0, 0, 0, max(0, longest - vectors_BPE.shape[1])))
        for item in placed:
            if item.made.input_BPE is not None:
                vectors_BPE[item.rows, : item.made.input_BPE.shape[1]] = item.made.input_BPE
        return vectors_BPE


@torch.no_grad()
def _static_table(models: Sequence[PromptedModel], backbone: Backbone) -> Tensor:
    """Input vectors of each model that has the same for all examples, [A, P, E]; zeros for the others."""
    prompts = [model.prompt for model in models]
    vectors = [prompt.vectors() if isinstance(prompt, StaticPrompt) else None for prompt in prompts]
    longest = max(1, *(0 if part is None else len(part) for part in vectors))
    device = next(backbone.parameters()).device
    table_APE = torch.zeros(len(models), longest, backbone.embedding_size, device=device)
    for row_PE, part in zip(table_APE, vectors, strict=True):
        if part is not None:
            row_PE[: len(part)] = part
    return table_APE


def _placed(parts: Sequence[Part], made: Sequence[PromptParts]) -> list[_Placed]:
    longest = max(part.batch.length for part in parts)
    placed, start = [], 0
    for part, prompt in zip(parts, made, strict=True):
        rows = slice(start, start + len(part.batch))
        placed.append(_Placed(part, rows, part.batch.padded(longest), prompt))
        start = rows.stop
    return placed


_Layers = tuple[tuple[Tensor, Tensor], ...]
"""Keys and values of each layer."""


def _prefixes(placed: Sequence[_Placed], prefixes: Sequence[_Layers]) -> tuple[_Layers, Tensor | None]:
    """Keys and values of every row, each [B, H, P, K], and which of them a row has, [B, P]."""
    some = next((prefix for prefix in prefixes if prefix), None)
    if some is None:
        return (), None
    longest = max(prefix[0][0].shape[2] for prefix in prefixes if prefix)
    empty = torch.zeros_like(some[0][0][:1, :, :0])

    def rows_of(layer: int, side: int) -> Tensor:
        filled = []
        for item, prefix in zip(placed, prefixes, strict=True):
            own = prefix[layer][side] if prefix else empty
            filled.append(F.pad(own, (0, 0, 0, longest - own.shape[2])).expand(len(item.batch), -1, -1, -1))
        return torch.cat(filled)

    sizes = [prefix[0][0].shape[2] if prefix else 0 for prefix in prefixes]
    counts = torch.tensor([len(item.batch) for item in placed])
    size_B1 = torch.tensor(sizes).repeat_interleave(counts)[:, None].to(empty.device)
    seen_BP = torch.arange(longest, device=empty.device) < size_B1
    return tuple((rows_of(layer, 0), rows_of(layer, 1)) for layer in range(len(some))), seen_BP


def _layers(placed: Sequence[_Placed]) -> dict[int, Callable[[Tensor, Batch], Tensor]]:
    """At each layer that a prompt enters: the vectors for all slots; those of other rows stay what they are."""
    with_layers = [item for item in placed if item.made.deep is not None and item.made.deep.layers]
    layers = {layer for item in with_layers if item.made.deep is not None for layer in item.made.deep.layers}
    return {layer: partial(_at_layer, layer, with_layers) for layer in layers}


def _at_layer(layer: int, placed: Sequence[_Placed], states_BLD: Tensor, batch: Batch) -> Tensor:
    num_slots = int(batch.slot_BL.max()) + 1
    slot_P1 = torch.arange(num_slots, device=states_BLD.device)[:, None]
    place_BP = (batch.slot_BL[:, None, :] == slot_P1).long().argmax(2)
    vectors_BPD = states_BLD.gather(1, place_BP.unsqueeze(-1).expand(-1, -1, states_BLD.shape[2]))
    for item in placed:
        deep = item.made.deep
        if deep is None or layer not in deep.layers:
            continue
        made_BPD = deep.layers[layer](states_BLD[item.rows], item.batch).to(states_BLD.dtype)
        own_BPD = vectors_BPD[item.rows, : made_BPD.shape[1]]
        own_BPD.copy_(own_BPD + made_BPD if deep.adds else made_BPD)
    return vectors_BPD
