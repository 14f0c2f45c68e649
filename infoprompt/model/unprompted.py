"""States of the plain texts: computed once per (backbone, template, texts), kept, and read by every later run.

The frozen backbone's unprompted pass is a constant of the data set, so a training step needs one encoder pass.

Shapes: B examples, D hidden width, M rows of the data set.
"""

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from infoprompt.bar import track
from infoprompt.cache_folder import cache_dir
from infoprompt.data.batch import Batch
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.loader import evaluation_batches, num_batches
from infoprompt.kept_tensors import NewStates, read_states
from infoprompt.kept_tensors import write_states as _write  # its name here, which code written for it replaces
from infoprompt.objective.encoding import Encoding
from infoprompt.ranks import Ranks

log = logging.getLogger(__name__)

NAMES = ("first", "pooled")
MOST_HELD_BYTES = 64 * 2**20
"""States that a process holds in memory while they are computed; more go into the file as they come."""
BLOCK = 2**20
"""Numbers that are converted at a time, where a copy of all would take several times their memory."""


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
    states = read_states(path, dict.fromkeys(NAMES, (len(plain.texts), 2)))
    if not ranks.all_true(states is not None):
        states = _computed_and_kept(path, plain, infer, ranks, batch_size)
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
    return _compute(_parts(plain, infer, ranks, batch_size), len(plain.texts))["pooled"]


_Part = tuple[Tensor, Tensor, Tensor]
"""Rows, and their first and pooled states."""


def _parts(rows: EncodedDataset, infer: Callable[[Batch], Encoding], ranks: Ranks, batch_size: int) -> Iterator[_Part]:
    """The states of all rows, on every rank, as many at a time as may be held."""
    own: list[_Part] = []
    num_batches_left = num_batches(rows, batch_size, ranks.world_size)
    batches = evaluation_batches(rows, batch_size, ranks.rank, ranks.world_size)
    for batch in track(batches, num_batches_left, "states of the plain texts, batches"):
        encoding = infer(replace(batch, unprompted=True))
        assert encoding.summary_BD is not None
        # both entities' states are twice as wide as the first token's
        states = encoding.summary_BD.float().cpu(), encoding.pooled_BD.float().cpu()
        own.append((batch.row_B, *states))
        num_batches_left -= 1
        # the same on every rank, however many rows its last batch has
        held_bytes = len(own) * ranks.world_size * batch_size * sum(states_BD[0].nbytes for states_BD in states)
        if not num_batches_left or held_bytes >= MOST_HELD_BYTES:
            for row_B, summary_BD, pooled_BD in itertools.chain(*ranks.gather_objects(own)):
                known_B = row_B >= 0
                yield row_B[known_B], summary_BD[known_B], pooled_BD[known_B]
            own = []


def _fill(states: dict[str, Tensor], parts: Iterable[_Part]) -> None:
    for row_B, summary_BD, pooled_BD in parts:
        states["first"][row_B] = summary_BD
        states["pooled"][row_B] = pooled_BD


def _compute(parts: Iterator[_Part], num_rows: int) -> dict[str, Tensor]:
    """The states in memory: what those that go into a file at once must equal."""
    first = next(parts)
    states = {name: torch.zeros(num_rows, part.shape[1]) for name, part in zip(NAMES, first[1:], strict=True)}
    _fill(states, itertools.chain([first], parts))
    return states


def _computed_and_kept(
    path: Path, plain: EncodedDataset, infer: Callable[[Batch], Encoding], ranks: Ranks, batch_size: int
) -> dict[str, Tensor]:
    parts, num_rows = _parts(plain, infer, ranks, batch_size), len(plain.texts)
    first = next(parts)
    parts = itertools.chain([first], parts)
    if num_rows * sum(states_BD[0].nbytes for states_BD in first[1:]) > MOST_HELD_BYTES:
        shapes = {name: (num_rows, states_BD.shape[1]) for name, states_BD in zip(NAMES, first[1:], strict=True)}
        new = _new_file(path, shapes) if ranks.local_rank == 0 else None
        if ranks.all_true(new is not None or ranks.local_rank != 0):
            for part in parts:  # every rank takes part in making them
                if new is not None:
                    _fill(new.tensors, [part])
            if new is not None:
                new.keep()
            ranks.barrier()
            states = read_states(path, {name: (rows, 2) for name, (rows, _) in shapes.items()})
            if ranks.all_true(states is not None):
                assert states is not None
                return states
            parts = _parts(plain, infer, ranks, batch_size)
    held = _compute(parts, num_rows)
    if ranks.local_rank == 0:
        _write(path, held)
    return held


def _new_file(path: Path, shapes: dict[str, tuple[int, int]]) -> NewStates | None:
    """A file for the states; None where it would not be read, or there is no room for it."""
    try:
        return NewStates(path, {name: (torch.float32, shape) for name, shape in shapes.items()})
    except OSError as error:
        log.warning("States of the plain texts stay in memory: %s cannot be written (%s).", path, error)
        return None


def content_hash(rows: EncodedDataset, backbone_key: str) -> str:
    """SHA-256 over whatever the states depend on."""
    digest = hashlib.sha256(backbone_key.encode())
    texts = rows.texts
    read_at = texts.marked_M2 if backbone_key.endswith(" entities") else texts.mask_index_M
    for numbers in (texts.input_ids.starts, texts.input_ids.values_T, texts.segments.values_T, read_at):
        digest.update(f" {numbers.shape}".encode())
        whole = np.promote_types(numbers.dtype, np.int32)  # whatever type they fit in
        for start in range(0, len(numbers), BLOCK):
            digest.update(numbers[start : start + BLOCK].astype(whole).data)
    return digest.hexdigest()
