"""States below the first layer that a prompt enters: there they are those of the plain text, so they are kept.

They are computed once on each node, in one process, and every rank and later run maps the file.

Shapes: B examples, L positions, T real tokens, D hidden width.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch

from infoprompt.bar import track
from infoprompt.cache_folder import cache_dir
from infoprompt.data.batch import Batch
from infoprompt.data.dataset import EncodedDataset, LowerStates
from infoprompt.data.loader import evaluation_batches, num_batches
from infoprompt.kept_tensors import read_states, write_states
from infoprompt.model.backbone.backbone import Backbone
from infoprompt.model.unprompted import content_hash
from infoprompt.ranks import Ranks

log = logging.getLogger(__name__)

NAME = "lower"


def with_lower_states(
    parts: Sequence[EncodedDataset],
    backbone: Backbone,
    layer: int,
    ranks: Ranks,
    *,
    backbone_key: str,
    batch_size: int,
    most_bytes: int,
) -> list[EncodedDataset]:
    """The data sets with `lower` filled in, if all of them together take no more than so many bytes.

    Args:
        parts: tokenized data sets.
        backbone: frozen, and whole on every rank.
        layer: the first that a prompt enters.
        ranks: every one calls it.
        backbone_key: names whatever the states depend on besides the tokens and the layer.
        batch_size: examples per forward.
        most_bytes: of the states, on disk and mapped.
    """
    plain = [part.without_prompt() for part in parts]
    num_bytes = (
        sum(len(part.texts.input_ids.values_T) for part in plain) * backbone.hidden_size * backbone.dtype.itemsize
    )
    if not backbone.can_start_at(layer) or num_bytes > most_bytes:
        return list(parts)
    return [
        _filled(part, rows, backbone, layer, ranks, backbone_key, batch_size) if len(part) else part
        for part, rows in zip(parts, plain, strict=True)
    ]


def _filled(
    part: EncodedDataset,
    plain: EncodedDataset,
    backbone: Backbone,
    layer: int,
    ranks: Ranks,
    backbone_key: str,
    batch_size: int,
) -> EncodedDataset:
    path = cache_dir() / "lower" / f"{content_hash(plain, f'{backbone_key} layer {layer}')}.safetensors"
    expected = {NAME: (len(plain.texts.input_ids.values_T), 2)}
    if ranks.local_rank == 0 and read_states(path, expected) is None:
        write_states(path, {NAME: _computed(plain, backbone, layer, ranks.device, batch_size)})
    ranks.barrier()
    states = read_states(path, expected)
    if not ranks.all_true(states is not None):  # the file could not be kept, and the reason was told
        return part
    assert states is not None
    return replace(part, lower=LowerStates(states[NAME], plain.texts.input_ids.starts))


@torch.no_grad()
def _computed(
    plain: EncodedDataset, backbone: Backbone, layer: int, device: torch.device, batch_size: int
) -> torch.Tensor:
    starts = torch.from_numpy(plain.texts.input_ids.starts)
    states_TD = torch.zeros(int(starts[-1]), backbone.hidden_size, dtype=backbone.dtype)
    batches = evaluation_batches(plain, batch_size, 0, 1)
    for batch in track(batches, num_batches(plain, batch_size, 1), "states of the lower layers, batches"):
        on_device: Batch = batch.to(device)
        states_BLD = backbone.states_below(layer, backbone.embed(on_device.input_ids_BL), on_device).cpu()
        for states_LD, real_L, row in zip(states_BLD, batch.real_BL, batch.row_B.tolist(), strict=True):
            if row >= 0:
                states_TD[starts[row] : starts[row + 1]] = states_LD[real_L]
    return states_TD
