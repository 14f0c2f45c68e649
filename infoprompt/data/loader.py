"""Which rows are in which batch; order and noise depend on (seed, step) alone.

So a run can go on at any step, and the number of ranks changes no example's input.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from infoprompt.data.batch import Batch, Noise
from infoprompt.data.dataset import EncodedDataset
from infoprompt.data.pairs import PairDraw

Draw = Callable[[int, int], Noise]
"""Noise of an update: its number, counted from 0, and its inputs over all ranks."""


@dataclass(frozen=True)
class Pool:
    """Rows without labels that stand below the labelled ones of an update."""

    rows: EncodedDataset
    batch_size: int
    """Rows per update, over all ranks."""
    first_step: int
    """Updates, counted from 0, before it is read."""
    kept: np.ndarray
    """Which of the rows are read."""

    def rows_of(self, seed: int, step: int) -> np.ndarray:
        """Its rows in update `step`: one pass over all follows the other."""
        start, count = (step - self.first_step) * self.batch_size, len(self.kept)
        places = np.arange(start, start + self.batch_size)
        passes = places // count
        rows = np.empty_like(places)
        for each in np.unique(passes):
            rows[passes == each] = epoch_order(seed, int(each), count, _POOL)[places[passes == each] % count]
        return self.kept[rows]


@dataclass(frozen=True)
class TrainLoader:
    """The training batches of one rank."""

    rows: EncodedDataset
    batch_size: int
    """Examples per update, over all ranks."""
    accumulation: int
    """Micro-batches per update on each rank."""
    rank: int
    world_size: int
    seed: int
    draw: Draw | None = None
    """What draws the noise; None where nothing reads any."""
    pairs: PairDraw | None = None
    """What draws the rows, two by two; None where every epoch has each row once."""
    pool: Pool | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Updates per pass; the last one is filled up from the start of the pass."""
        return -(-len(self.rows) // self.batch_size)

    def micro_batches(self, step: int) -> Iterator[Batch]:
        """This rank's micro-batches of update `step`, counted from 0."""
        rows, pool = self._rows_of(step), self.pool
        if pool is not None and step < pool.first_step:
            pool = None
        below = np.empty(0, int) if pool is None else pool.rows_of(self.seed, step)
        num_inputs = self.batch_size * self.rows.num_choices
        noise = None if self.draw is None else self.draw(step, num_inputs + len(below))
        for index in range(self.accumulation):
            share = slice(*self._share(index, self.batch_size))
            inputs = slice(share.start * self.rows.num_choices, share.stop * self.rows.num_choices)
            batch = self.rows.batch(rows[share])
            batch = batch if noise is None else replace(batch, noise=noise.rows(inputs))
            if pool is not None:
                share = slice(*self._share(index, len(below)))
                others = pool.rows.batch(below[share])
                drawn = slice(num_inputs + share.start, num_inputs + share.stop)
                batch = batch.with_unlabelled(others if noise is None else replace(others, noise=noise.rows(drawn)))
            yield batch

    def _share(self, index: int, num_rows: int) -> tuple[int, int]:
        """Where this rank's micro-batch of that index starts and ends among the rows of an update."""
        size = num_rows // (self.world_size * self.accumulation)
        start = (self.rank * self.accumulation + index) * size
        return start, start + size

    def _rows_of(self, step: int) -> np.ndarray:
        if self.pairs is not None:
            return self.pairs.rows(self.seed, step, self.batch_size // 2)
        epoch, index = divmod(step, self.steps_per_epoch)
        places = np.arange(index * self.batch_size, (index + 1) * self.batch_size)
        return np.take(epoch_order(self.seed, epoch, len(self.rows)), places, mode="wrap")


_POOL = 7  # which of a seed's streams the order of rows without labels is drawn from


@functools.lru_cache(maxsize=4)  # else each update of an epoch would draw the order of all rows
def epoch_order(seed: int, epoch: int, num_rows: int, *stream: int) -> np.ndarray:
    """The rows in the order of an epoch, counted from 0."""
    order = np.random.default_rng([seed, epoch, *stream]).permutation(num_rows)
    order.flags.writeable = False
    return order


def shared_batches(
    rows: Mapping[str, EncodedDataset], batch_size: int, rank: int, world_size: int
) -> Iterator[dict[str, list[int]]]:
    """Every row once over all ranks, short rows together, the same number of batches on each rank.

    Yields:
        Which rows of each data set are in a batch; -1 is a filler, see `EncodedDataset.batch`.
    """
    names = sorted(rows)
    sizes = [len(rows[name]) for name in names]
    lengths = np.concatenate([rows[name].lengths_M for name in names])
    of_name, of_row = np.arange(len(names)).repeat(sizes), np.concatenate([np.arange(size) for size in sizes])
    by_length = np.argsort(lengths, kind="stable")
    chunk = batch_size * world_size
    for start in range(0, len(by_length), chunk):
        part = by_length[start : start + chunk]
        entries = [*zip(of_name[part].tolist(), of_row[part].tolist(), strict=True)]
        entries += [(entries[0][0], -1)] * (-len(part) % world_size)
        chosen: dict[str, list[int]] = {}
        for name, row in entries[rank::world_size]:
            chosen.setdefault(names[name], []).append(row)
        yield chosen


def evaluation_batches(rows: EncodedDataset, batch_size: int, rank: int, world_size: int) -> Iterator[Batch]:
    """The batches of `shared_batches` of one data set."""
    for chosen in shared_batches({"": rows}, batch_size, rank, world_size):
        yield rows.batch(chosen[""])


def num_batches(rows: EncodedDataset, batch_size: int, world_size: int) -> int:
    """How many batches each rank gets of `evaluation_batches`."""
    return -(-len(rows) // (batch_size * world_size))
