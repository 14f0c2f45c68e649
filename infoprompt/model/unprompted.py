"""States of the plain texts: computed once per (backbone, template, texts), kept, and read by every later run.

The frozen backbone's unprompted pass is a constant of the data set, so a training step needs one encoder pass.

Letters: B examples, D hidden width, N rows of the data set.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from infoprompt.data.batch import Batch
from infoprompt.data.loader import Rows, evaluation_batches
from infoprompt.objective.encoding import Encoding

log = logging.getLogger(__name__)
T = TypeVar("T")


class Peers(Protocol):
    """What is needed of the other ranks; `engine.ranks.Ranks` is one."""

    @property
    def rank(self) -> int:
        """Index of this rank."""

    @property
    def local_rank(self) -> int:
        """Index among the ranks of this machine."""

    @property
    def world_size(self) -> int:
        """How many ranks there are."""

    def all_true(self, flag: bool) -> bool:
        """Whether the flag is set on every rank."""

    def gather_objects(self, value: T) -> list[T]:
        """The value of every rank, on every rank."""


def cache_dir() -> Path:
    """Where states are kept: INFOPROMPT_CACHE, else ~/.cache/infoprompt."""
    return Path(os.environ.get("INFOPROMPT_CACHE") or Path.home() / ".cache" / "infoprompt")


def with_unprompted_states(
    rows: Rows, infer: Callable[[Batch], Encoding], peers: Peers, *, backbone_key: str, batch_size: int
) -> Rows:
    """The rows with `first_ND` and `pooled_ND` filled in, read from the cache where it has them.

    Args:
        rows: tokenized data set.
        infer: the model's forward without gradient; every rank calls it equally often.
        peers: the ranks, which share the work.
        backbone_key: names whatever the states depend on besides the tokens: weights, dtype, pooling.
        batch_size: examples per rank per forward.
    """
    if not len(rows):
        return rows
    plain = replace(rows, texts=[text.without_prompt() for text in rows.texts])
    path = cache_dir() / "unprompted" / f"{_content_hash(plain, backbone_key)}.safetensors"
    states = _read(path)
    if not peers.all_true(states is not None):
        states = _compute(plain, infer, peers, batch_size)
        if peers.local_rank == 0:
            _write(path, states)
    assert states is not None
    return replace(rows, first_ND=states["first"], pooled_ND=states["pooled"])


def with_other_states(rows: Rows) -> Rows:
    """The rows with `first_ND` of the example before, the first with that of the last: a control.

    Of multiple choice, each choice gets the state of the choice in its place.
    """
    if rows.first_ND is None:
        return rows
    return replace(rows, first_ND=rows.first_ND.roll(rows.num_choices, dims=0))


def text_states(rows: Rows, infer: Callable[[Batch], Encoding], peers: Peers, batch_size: int) -> Tensor:
    """Pooled states of a few plain texts, [N, D], not kept; every rank takes part."""
    plain = replace(rows, texts=[text.without_prompt() for text in rows.texts])
    return _compute(plain, infer, peers, batch_size)["pooled"]


def _compute(rows: Rows, infer: Callable[[Batch], Encoding], peers: Peers, batch_size: int) -> dict[str, Tensor]:
    parts: list[tuple[Sequence[int], Tensor, Tensor]] = []
    for batch in evaluation_batches(rows, batch_size, peers.rank, peers.world_size):
        encoding = infer(replace(batch, plain=True))
        assert encoding.first_BD is not None
        parts.append((batch.row_B.tolist(), encoding.first_BD.cpu(), encoding.pooled_BD.cpu()))
    _, first_BD, pooled_BD = parts[0]  # both entities' states are twice as wide as the first token's
    states = {
        name: torch.zeros(len(rows.texts), part_BD.shape[1])
        for name, part_BD in (("first", first_BD), ("pooled", pooled_BD))
    }
    for rank_parts in peers.gather_objects(parts):
        for indices, first_BD, pooled_BD in rank_parts:
            known = [i for i, row in enumerate(indices) if row >= 0]
            target = [indices[i] for i in known]
            states["first"][target] = first_BD[known]
            states["pooled"][target] = pooled_BD[known]
    return states


def _content_hash(rows: Rows, backbone_key: str) -> str:
    digest = hashlib.sha256(backbone_key.encode())
    for text in rows.texts:
        read_at = text.entities if backbone_key.endswith(" entities") else text.mask_index
        digest.update(json.dumps([text.input_ids, text.segments, read_at]).encode())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Tensor] | None:
    if not path.is_file():
        return None
    try:
        states: dict[str, Tensor] = load_file(path)  # maps the file: ranks and trials of a node share its pages
    except (SafetensorError, OSError) as error:
        log.warning("The kept states %s cannot be read (%s); they are computed again.", path, error)
        return None
    return states


def _write(path: Path, states: dict[str, Tensor]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock", timeout=60):
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            save_file(states, temporary)
            temporary.replace(path)
    except OSError as error:
        log.warning(
            "The unprompted states could not be kept in %s (%s); the next run computes them again.", path, error
        )
