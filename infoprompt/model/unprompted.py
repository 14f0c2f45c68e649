"""States of the plain texts: computed once per (backbone, template, texts), kept, and read by every later run.

The frozen backbone's unprompted pass is a constant of the data set, so a training step needs one encoder pass.

Shapes: B examples, D hidden width, M rows of the data set.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from infoprompt.bar import track
from infoprompt.data.batch import Batch
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.loader import evaluation_batches, num_batches
from infoprompt.model.kept_states import cache_dir, read_states
from infoprompt.model.kept_states import write_states as _write  # its name here, which code written for it replaces
from infoprompt.objective.encoding import Encoding
from infoprompt.ranks import Ranks

NAMES = ("first", "pooled")


def with_unprompted_states(
    rows: EncodedDataset, infer: Callable[[Batch], Encoding], ranks: Ranks, *, backbone_key: str, batch_size: int
) -> EncodedDataset:
    """The rows with `summary_MD` and `pooled_MD` filled in, read from the cache where it has them.

    Args:
        rows: tokenized data set.
        infer: the model's forward without gradient; every rank calls it equally often.
        ranks: they share the work.
        backbone_key: names whatever the states depend on besides the tokens: weights, dtype, pooling.
        batch_size: examples per rank per forward.
    """
    if not len(rows):
        return rows
    plain = rows.without_prompt()
    path = cache_dir() / "unprompted" / f"{content_hash(plain, backbone_key)}.safetensors"
    states = read_states(path, NAMES, len(plain.texts))
    if not ranks.all_true(states is not None):
        states = _compute(plain, infer, ranks, batch_size)
        if ranks.local_rank == 0:
            _write(path, states)
    assert states is not None
    return replace(rows, summary_MD=states["first"], pooled_MD=states["pooled"])


def with_other_states(rows: EncodedDataset) -> EncodedDataset:
    """The rows with `summary_MD` of the example before, the first with that of the last: a control.

    Of multiple choice, each choice gets the state of the choice in its place.
    """
    if rows.summary_MD is None:
        return rows
    return replace(rows, summary_MD=rows.summary_MD.roll(rows.num_choices, dims=0))


def text_states(rows: EncodedDataset, infer: Callable[[Batch], Encoding], ranks: Ranks, batch_size: int) -> Tensor:
    """Pooled states of a few plain texts, [M, D], not kept; every rank takes part."""
    plain = rows.without_prompt()
    return _compute(plain, infer, ranks, batch_size)["pooled"]


def _compute(
    rows: EncodedDataset, infer: Callable[[Batch], Encoding], ranks: Ranks, batch_size: int
) -> dict[str, Tensor]:
    parts: list[tuple[Sequence[int], Tensor, Tensor]] = []
    batches = evaluation_batches(rows, batch_size, ranks.rank, ranks.world_size)
    for batch in track(batches, num_batches(rows, batch_size, ranks.world_size), "states of the plain texts, batches"):
        encoding = infer(replace(batch, unprompted=True))
        assert encoding.summary_BD is not None
        parts.append((batch.row_B.tolist(), encoding.summary_BD.cpu(), encoding.pooled_BD.cpu()))
    _, summary_BD, pooled_BD = parts[0]  # both entities' states are twice as wide as the first token's
    states = {
        name: torch.zeros(len(rows.texts), part_BD.shape[1])
        for name, part_BD in (("first", summary_BD), ("pooled", pooled_BD))
    }
    for rank_parts in ranks.gather_objects(parts):
        for indices, summary_BD, pooled_BD in rank_parts:
            known = [i for i, row in enumerate(indices) if row >= 0]
            target = [indices[i] for i in known]
            states["first"][target] = summary_BD[known]
            states["pooled"][target] = pooled_BD[known]
    return states


def content_hash(rows: EncodedDataset, backbone_key: str) -> str:
    """SHA-256 over whatever the states depend on."""
    digest = hashlib.sha256(backbone_key.encode())
    texts = rows.texts
    read_at = texts.entity_M2 if backbone_key.endswith(" entities") else texts.mask_index_M
    for numbers in (texts.input_ids.starts, texts.input_ids.values_T, texts.segments.values_T, read_at):
        digest.update(f" {numbers.shape}".encode())
        whole = np.promote_types(numbers.dtype, np.int32)  # whatever type they fit in
        digest.update(numbers.astype(whole).data)
    return digest.hexdigest()
