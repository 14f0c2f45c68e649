"""The passes of a run over tensors without values: what each takes."""

from dataclasses import dataclass
from typing import Any

import torch

from infoprompt.config import RunConfig
from infoprompt.data.batch import Batch
from infoprompt.model.member import Member
from infoprompt.model.shared import SharedModel
from infoprompt.objective.total import information_objective
from infoprompt.progress import Progress
from launcher.plan.heap import Heap
from launcher.plan.rows import Batches
from launcher.plan.tally import Operation, Tally

KERNEL_BYTES = 1 << 20
"""Measured: 57 MB stayed after updates of 8 lengths with 7 kinds of products each, on a Xeon with AMX."""
MOST_KERNELS = 1024
"""oneDNN's own limit."""


@dataclass(frozen=True)
class Passes:
    """What the passes of a run take, beside weights and what is trained."""

    forward_flops: int
    """Of an update, on one rank."""
    backward_flops: int
    operations: dict[Operation, int]
    """Of an update: how often each."""
    kept_bytes: int
    """Most that a forward pass leaves for backward."""
    step_bytes: int
    """Most that tensors hold in an update."""
    inference_bytes: int
    """Most that tensors hold in a pass without gradient."""
    heap_bytes: int
    """Most that a process on a CPU holds of the system for these tensors."""
    kernel_bytes: int
    """What a CPU's compiled kernels take: oneDNN keeps one for each shape of a product of bfloat16 matrices."""


def count_passes(config: RunConfig, member: Member, batches: Batches) -> Passes:
    """Count the passes of a run in its order: plain texts, updates, scoring."""
    model = SharedModel([member])
    plain, run, scoring = (_Runner(config, model, Heap()) for _ in range(3))
    inferred = [plain.inference(batches.plain)] if batches.plain is not None else []
    forward, backward, operations, kept, step = run.update(batches.typical)
    *_, most_kept, most_held = run.update(batches.largest)
    run.update(batches.typical)
    inferred.append(scoring.inference(batches.evaluated))
    times = batches.accumulation
    return Passes(
        forward_flops=forward * times,
        backward_flops=backward * times,
        operations={operation: count * times for operation, count in operations.items()},
        kept_bytes=max(kept, most_kept),
        step_bytes=max(step, most_held),
        inference_bytes=max(inferred),
        # small blocks that stay lie between what each kind of pass has left, so none takes another's place
        heap_bytes=sum(runner.heap.peak_bytes for runner in (plain, run, scoring)),
        # the products of two lengths were counted
        kernel_bytes=KERNEL_BYTES * min(len(run.products) * batches.shapes // 2 + len(scoring.products), MOST_KERNELS),
    )


class _Runner:
    def __init__(self, config: RunConfig, model: SharedModel, heap: Heap) -> None:
        self.config = config
        self.model = model
        self.heap = heap
        self.tallies = 0
        self.products: set[tuple[Any, ...]] = set()

    def inference(self, batch: Batch) -> int:
        self.model.eval()
        tally = self._tally()
        with torch.no_grad(), tally:
            self.model([0], [batch])
        self._replay(tally)
        return tally.peak_bytes

    def update(self, batch: Batch) -> tuple[int, int, dict[Operation, int], int, int]:
        """FLOPs forward and backward, all operations, most bytes kept for backward, most bytes held."""
        self.model.train()
        tally = self._tally()
        with tally:
            forward, kept = self._pass(batch, tally)
        for parameter in self.model.parameters():
            parameter.grad = None
        self._replay(tally)
        return forward, tally.flops - forward, dict(tally.operations), kept, tally.peak_bytes

    def _pass(self, batch: Batch, tally: Tally) -> tuple[int, int]:
        (encoding,) = self.model([0], [batch])
        terms = information_objective(encoding, batch, self.config.objective, Progress(1, 1))
        forward, kept = tally.flops, tally.held_bytes
        terms.total.backward()
        return forward, kept

    def _tally(self) -> Tally:
        self.tallies += 1
        return Tally((*self.model.parameters(), *self.model.buffers()))

    def _replay(self, tally: Tally) -> None:
        self.products |= tally.bfloat16_products
        living = set()
        for block, size in tally.changes:
            key = self.tallies, block
            if size >= 0:
                self.heap.allocate(key, size)
                living.add(key)
            else:
                self.heap.free(key)
                living.discard(key)
        for key in living:  # gradients, which the next update makes again
            self.heap.free(key)
