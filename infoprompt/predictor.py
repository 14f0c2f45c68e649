"""From tokenised rows to an artifact's scores: the loop of prediction.

Shapes: B examples, C classes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Literal

from torch import Tensor

from infoprompt.data.batch import Batch
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.loader import shared_batches
from infoprompt.objective.encoding import Encoding

Infer = Callable[[Mapping[str, Batch]], Mapping[str, Encoding]]
"""The encoding of each batch by the member of that name, without gradient; it moves the batches to its device."""

States = Literal["own", "other"]
"""Whose plain text a member reads besides its input: the row's own, or for a control that of the row before."""


def scored_batches(
    rows: Mapping[str, EncodedDataset],
    infer: Infer,
    batch_size: int,
    *,
    reads: Mapping[str, States] | None = None,
) -> Iterator[list[tuple[str, Batch, Tensor]]]:
    """Every row once, in batches that all members share.

    Args:
        rows: of each member.
        infer: what makes the encodings.
        batch_size: rows per pass.
        reads: members for whose rows the states of plain texts are computed here, in a pass before.
    Yields:
        For each member with rows in a batch: its name, its rows of the batch, and their scores, [B, C] or of the form
        that its head gives, float32 on the CPU.
    """
    plain = {name: rows[name].without_prompt() for name in reads or {}}

    def plain_states(chosen: Mapping[str, list[int]]) -> Mapping[str, Encoding]:
        asked = {name: replace(plain[name].batch(own), unprompted=True) for name, own in chosen.items()}
        return infer(asked) if asked else {}

    for chosen in shared_batches(rows, batch_size, rank=0, world_size=1):
        batches = {name: rows[name].batch(own) for name, own in chosen.items()}
        given = batches
        for name, states in plain_states({name: own for name, own in chosen.items() if name in plain}).items():
            given = given | {name: replace(given[name], summary_BD=states.summary_BD, pooled_BD=states.pooled_BD)}
        others = {
            name: [(row - 1) % len(rows[name]) for row in own]
            for name, own in chosen.items()
            if reads and reads.get(name) == "other"
        }
        for name, states in plain_states(others).items():
            given = given | {name: replace(given[name], summary_BD=states.summary_BD)}
        encodings = infer(given)
        yield [(name, batch, encodings[name].logits_BC.float().cpu()) for name, batch in batches.items()]
