"""States of the plain texts: computed once per (backbone, template, texts), kept, and read by every later run.

The frozen backbone's unprompted pass is a constant of the data set, so a training step needs one encoder pass.

Shapes: B examples, D hidden width, M rows of the data set.
"""

import functools
import hashlib
import logging
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from infoprompt.bar import track
from infoprompt.data.batch import Batch
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.loader import evaluation_batches, num_batches
from infoprompt.files import whole_file
from infoprompt.objective.encoding import Encoding
from infoprompt.ranks import Ranks
from infoprompt.tensor_file import read_tensors, save_tensors

log = logging.getLogger(__name__)

NAMES = ("first", "pooled")


def cache_dir() -> Path:
    """Where states are kept: INFOPROMPT_CACHE, else ~/.cache/infoprompt."""
    return Path(os.environ.get("INFOPROMPT_CACHE") or Path.home() / ".cache" / "infoprompt")


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
    path = cache_dir() / "unprompted" / f"{_content_hash(plain, backbone_key)}.safetensors"
    states = _read(path, len(plain.texts))
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


def _content_hash(rows: EncodedDataset, backbone_key: str) -> str:
    digest = hashlib.sha256(backbone_key.encode())
    texts = rows.texts
    read_at = texts.entity_M2 if backbone_key.endswith(" entities") else texts.mask_index_M
    for numbers in (texts.input_ids.starts, texts.input_ids.values_T, texts.segments.values_T, read_at):
        digest.update(f" {numbers.shape}".encode())
        whole = np.promote_types(numbers.dtype, np.int32)  # whatever type they fit in
        digest.update(numbers.astype(whole).data)
    return digest.hexdigest()


def _read(path: Path, num_texts: int) -> dict[str, Tensor] | None:
    """The kept states of so many texts; None where there are none, or they are not what this user has written."""
    try:
        if not path.exists() or _writable_by_others(path):
            return None
        states = read_tensors(path)  # maps the file: ranks and trials of a node share its pages
        problem = _unfit(path, states, num_texts)
    except (OSError, ValueError) as error:
        problem = f"cannot be read ({error})"
    if problem is None:
        return states
    log.warning("The kept states %s %s; they are computed again.", path, problem)
    return None


def _writable_by_others(path: Path) -> bool:
    """Whether somebody else may have written a file, or may exchange it."""
    for place in (path, path.parent, path.parent.parent):
        status = place.stat()
        if status.st_uid not in (os.geteuid(), 0):
            _distrust(place, f"belongs to another user, of id {status.st_uid}")
            return True
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            _distrust(place, "can be written to by other users: chmod go-w mends it")
            return True
    return False


@functools.cache  # told once
def _distrust(place: Path, why: str) -> None:
    log.warning("Kept states are not read, and computed again: %s %s.", place, why)


def _unfit(path: Path, states: dict[str, Tensor], num_texts: int) -> str | None:
    with safe_open(path, framework="pt") as file:
        kept = file.metadata() or {}
    if {name: (len(states[name]), states[name].dim()) for name in states} != dict.fromkeys(NAMES, (num_texts, 2)):
        return f"do not have the names and rows of these {num_texts} texts"
    if kept.get("key") != path.stem or kept.get("sha256") != _digest(states):
        return "do not have the content they were written with, or are of an earlier version"
    return None


def _digest(states: dict[str, Tensor]) -> str:
    """SHA-256 over the states: about a second for a gigabyte, where computing them took minutes."""
    digest = hashlib.sha256()
    for name in NAMES:
        states_MD = states[name].contiguous()
        digest.update(f"{name} {states_MD.dtype} {list(states_MD.shape)}".encode())
        digest.update(states_MD.numpy().data)
    return digest.hexdigest()


def _write(path: Path, states: dict[str, Tensor]) -> None:
    try:
        path.parent.parent.parent.mkdir(parents=True, exist_ok=True)
        for folder in (path.parent.parent, path.parent):
            folder.mkdir(mode=0o755, exist_ok=True)  # whatever the umask says: see `_writable_by_others`
        with whole_file(path) as temporary:
            save_tensors(temporary, states, {"key": path.stem, "sha256": _digest(states)})
            temporary.chmod(0o644)
    except OSError as error:
        log.warning(
            "The unprompted states could not be kept in %s (%s); the next run computes them again.", path, error
        )
