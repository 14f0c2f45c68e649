"""The forward pass: batches of one member, or of several that share the backbone, in one pass of it.

Batches of several stand below each other, padded to the longest. Prompt vectors go to their slots. Prefixes are filled
up to the longest with keys that their rows do not see. What enters between the layers is placed member by member.

Shapes: B examples, L positions, P prompt vectors, C classes, E embedding width, D hidden width, H key-value heads,
K head width.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infoprompt.data.batch import Batch
from infoprompt.model.insert import insert_prompt
from infoprompt.model.prompts.kind import DeepPrompt, PromptParts
from infoprompt.objective.encoding import Encoding

if TYPE_CHECKING:
    from infoprompt.model.member import Member


@dataclass(frozen=True)
class Pass:
    """What a pass gives a member for its own rows."""

    batch: Batch
    """As long as the states."""
    made: PromptParts
    """The member's prompt."""
    embeddings_BLE: Tensor
    """Word embeddings of the positions, before the prompt was placed."""
    states_BLD: Tensor
    logits_BC: Tensor | None = None
    """Label scores, where the head made the pass itself."""


class SharedModel(nn.Module):
    """Members over one backbone; one run is a single member."""

    def __init__(self, members: "Sequence[Member]") -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, places: Sequence[int], batches: Sequence[Batch]) -> list[Encoding]:
        """The encoding of each batch by the member of that place, in as few passes as `shared_pass` takes."""
        members: list[Any] = [self.members[place] for place in places]
        return [members[0](batches[0])] if len(members) == 1 else shared_pass(members, batches)


def shared_pass(members: "Sequence[Member]", batches: Sequence[Batch]) -> list[Encoding]:
    """The encoding of each batch by its member, as it alone gives it; to rounding where padding is not left out.

    Unprompted batches share a pass. So do prompted ones, but for those whose head makes a pass of its own. Prompts of
    kind `lpt` that enter at unlike layers take a pass for each layer: below it nobody may see a prompt's slots. Kept
    states that are all that is read take none.

    Args:
        members: over one backbone, all in training or all in evaluation.
        batches: one for each.
    """
    made = []
    for member, batch in zip(members, batches, strict=True):
        with member.draws():
            made.append(member.make_prompt(batch))
    sharing: dict[Hashable, list[int]] = {}
    for index, member in enumerate(members):
        sharing.setdefault(_pass_of(index, member, batches[index], made[index]), []).append(index)
    encodings: dict[int, Encoding] = {}
    for name, chosen in sharing.items():
        if name == "none":
            for index in chosen:
                with members[index].draws():
                    encodings[index] = members[index].read_kept(batches[index])
            continue
        own_batches, own_made = [batches[index] for index in chosen], [made[index] for index in chosen]
        with members[chosen[0]].draws():  # a backbone that draws is its member's own
            passed = _passed([members[index] for index in chosen], own_batches, own_made)
        for index, own in zip(chosen, passed, strict=True):
            with members[index].draws():
                encodings[index] = members[index].read(own)
    return [encodings[index] for index in range(len(members))]


def _pass_of(index: int, member: "Member", batch: Batch, made: PromptParts) -> Hashable:
    """Batches of equal value share a pass."""
    if batch.unprompted:
        return "plain"
    if member.prompt is None and batch.pooled_BD is not None:
        return "none"
    device = batch.input_ids_BL.device
    pads = device.type == "cpu" and not member.backbone.leaves_out_padding(device)
    if member.head.passes_itself or (member.training and pads):
        return "alone", index  # padded to another length, its numbers would not be those that it has alone
    return "prompted", 0 if made.deep is None else made.deep.first_layer, batch.lower_BLD is None


def _passed(members: "Sequence[Member]", batches: Sequence[Batch], made: Sequence[PromptParts]) -> list[Pass]:
    """One pass that the members share."""
    backbone, head = members[0].backbone, members[0].head
    padded, joined = _below_each_other(batches)
    embeddings_BLE = backbone.embed(joined.input_ids_BL)
    vectors_BPE = _input_vectors(padded, made)
    inputs_BLE = embeddings_BLE
    if vectors_BPE is not None:
        inputs_BLE = insert_prompt(embeddings_BLE, vectors_BPE, joined.slot_BL)
    deep, logits_BC = _deep(batches, made, keep_apart=backbone.leaves_out_padding(embeddings_BLE.device)), None
    if head.passes_itself and not batches[0].unprompted:
        logits_BC, states_BLD = head.score_pass(backbone, inputs_BLE, joined, deep)
    else:
        read = [member.reads_BL(batch) for member, batch in zip(members, padded, strict=True)]
        states_BLD = backbone(inputs_BLE, joined, deep, torch.cat(read))
    return [
        Pass(batch, prompt, _own(embeddings_BLE, rows, batch), _own(states_BLD, rows, batch), logits_BC)
        for batch, prompt, rows in zip(batches, made, _rows(batches), strict=True)
    ]


def _below_each_other(batches: Sequence[Batch]) -> tuple[Sequence[Batch], Batch]:
    """The batches padded to one length, and all of them as one."""
    if len(batches) == 1:
        return batches, batches[0]
    longest = max(batch.length for batch in batches)
    padded = [batch.padded(longest) for batch in batches]
    return padded, Batch.joined(padded)


def _rows(batches: Sequence[Batch]) -> list[slice]:
    """Where the rows of each batch stand among those of all."""
    ends = [sum(map(len, batches[: index + 1])) for index in range(len(batches))]
    return [slice(end - len(batch), end) for end, batch in zip(ends, batches, strict=True)]


def _own(states_BLD: Tensor, rows: slice, batch: Batch) -> Tensor:
    """A batch's rows of what all have, as if they had been alone: sums over them add in the same order."""
    alone = rows.stop - rows.start == len(states_BLD)
    return states_BLD if alone else states_BLD[rows, : batch.length].contiguous()


def _input_vectors(batches: Sequence[Batch], made: Sequence[PromptParts]) -> Tensor | None:
    """Input vectors of every row, [B, P, E], with zeros, which no slot takes, up to the longest prompt's."""
    given = [prompt.input_BPE for prompt in made if prompt.input_BPE is not None]
    if len(batches) == 1 or not given:
        return given[0] if given else None
    longest = max(vectors_BPE.shape[1] for vectors_BPE in given)
    filled = []
    for batch, prompt in zip(batches, made, strict=True):
        own_BPE = given[0].new_zeros(len(batch), 0, given[0].shape[2]) if prompt.input_BPE is None else prompt.input_BPE
        filled.append(F.pad(own_BPE, (0, 0, 0, longest - own_BPE.shape[1])))
    return torch.cat(filled)


def _deep(batches: Sequence[Batch], made: Sequence[PromptParts], *, keep_apart: bool) -> DeepPrompt | None:
    """What enters below the input; `keep_apart`: attention reads each prompt's keys and values as they are."""
    deeps = [prompt.deep for prompt in made]
    first = next((deep for deep in deeps if deep is not None), None)
    if len(batches) == 1 or first is None:
        return first
    layers = _layers(batches, deeps)
    if keep_apart:
        owners = tuple((rows.start, deep) for rows, deep in zip(_rows(batches), deeps, strict=True))
        has_keys = any(deep is not None and (deep.prefix or deep.adapter_kv) for deep in deeps)
        return DeepPrompt(layers=layers, first_layer=first.first_layer, owners=owners if has_keys else ())
    prefix, prefix_seen_BP = _prefixes(batches, [() if deep is None else deep.prefix for deep in deeps])
    adapter_kv, adapter_seen_BP = _prefixes(batches, [() if deep is None else deep.adapter_kv for deep in deeps])
    return DeepPrompt(prefix, prefix_seen_BP, adapter_kv, adapter_seen_BP, layers, first_layer=first.first_layer)


_Layers = tuple[tuple[Tensor, Tensor], ...]
"""Keys and values of each layer."""


def _prefixes(batches: Sequence[Batch], prefixes: Sequence[_Layers]) -> tuple[_Layers, Tensor | None]:
    """Keys and values of every row, each [B, H, P, K], and which of them a row has, [B, P]."""
    some = next((prefix for prefix in prefixes if prefix), None)
    if some is None:
        return (), None
    longest = max(prefix[0][0].shape[2] for prefix in prefixes if prefix)
    empty = torch.zeros_like(some[0][0][:1, :, :0])

    def rows_of(layer: int, side: int) -> Tensor:
        filled = []
        for batch, prefix in zip(batches, prefixes, strict=True):
            own = prefix[layer][side] if prefix else empty
            filled.append(F.pad(own, (0, 0, 0, longest - own.shape[2])).expand(len(batch), -1, -1, -1))
        return torch.cat(filled)

    sizes = [prefix[0][0].shape[2] if prefix else 0 for prefix in prefixes]
    counts = torch.tensor([len(batch) for batch in batches])
    size_B1 = torch.tensor(sizes).repeat_interleave(counts)[:, None].to(empty.device)
    seen_BP = torch.arange(longest, device=empty.device) < size_B1
    return tuple((rows_of(layer, 0), rows_of(layer, 1)) for layer in range(len(some))), seen_BP


_Entering = tuple[slice, Batch, DeepPrompt]
"""Rows, their batch, and the prompt that enters them between the layers."""


def _layers(
    batches: Sequence[Batch], deeps: Sequence[DeepPrompt | None]
) -> dict[int, Callable[[Tensor, Batch], Tensor]]:
    """At each layer that a prompt enters: the vectors for all slots; those of other rows stay what they are."""
    entering = [
        (rows, batch, deep)
        for rows, batch, deep in zip(_rows(batches), batches, deeps, strict=True)
        if deep is not None and deep.layers
    ]
    layers = {layer for _, _, deep in entering for layer in deep.layers}
    return {layer: partial(_at_layer, layer, entering) for layer in layers}


def _at_layer(layer: int, entering: Sequence[_Entering], states_BLD: Tensor, joined: Batch) -> Tensor:
    num_slots = int(joined.slot_BL.max()) + 1
    slot_P1 = torch.arange(num_slots, device=states_BLD.device)[:, None]
    place_BP = (joined.slot_BL[:, None, :] == slot_P1).long().argmax(2)
    vectors_BPD = states_BLD.gather(1, place_BP.unsqueeze(-1).expand(-1, -1, states_BLD.shape[2]))
    for rows, batch, deep in entering:
        if layer not in deep.layers:
            continue
        made_BPD = deep.layers[layer](_own(states_BLD, rows, batch), batch).to(states_BLD.dtype)
        own_BPD = vectors_BPD[rows, : made_BPD.shape[1]]
        own_BPD.copy_(own_BPD + made_BPD if deep.adds else made_BPD)
    return vectors_BPD
