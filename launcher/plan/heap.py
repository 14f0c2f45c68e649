"""What a process holds of the system while tensors come and go on a CPU: glibc's heap, replayed.

PyTorch asks glibc for aligned memory. What is freed between blocks that live leaves holes, and these stay resident.
A hole of a block's own size does not take the next block of that size, for alignment asks for more. So a process holds
half as much again as its tensors do. Source: glibc 2.36, malloc.c: `_int_memalign`, `sysmalloc`, `systrim`.
"""

import bisect
from collections.abc import Hashable

ALIGNMENT = 64
"""PyTorch's, of every tensor on a CPU."""
HEADER = 16
SMALLEST = 32
FIRST_THRESHOLD = 128 << 10
"""M_MMAP_THRESHOLD: larger blocks are mapped alone, and given back when freed. It grows to the largest one freed."""
LAST_THRESHOLD = 32 << 20
TOP_PAD = 128 << 10


class Heap:
    """Blocks by key, best fit, neighbours joined when freed."""

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._threshold = self._trim = FIRST_THRESHOLD
        self._holes: list[tuple[int, int]] = []  # size and start, sorted
        self._starts: dict[int, int] = {}  # of each hole its size
        self._ends: dict[int, int] = {}  # of each hole its start
        self._blocks: dict[Hashable, tuple[int, int]] = {}
        self._mapped: dict[Hashable, int] = {}
        self._mapped_bytes = 0
        self._top = 0  # above it nothing is in use
        self._break = 0  # the system has given memory up to here

    def allocate(self, key: Hashable, num_bytes: int) -> None:
        """Find a place for a block."""
        size = max(-(-(num_bytes + HEADER) // HEADER) * HEADER, SMALLEST)
        asked = size + ALIGNMENT + SMALLEST
        index = bisect.bisect_left(self._holes, (asked, -1))
        if index < len(self._holes):
            hole, start = self._holes[index]
            self._close(start, hole)
            self._blocks[key] = start, size
            self._open(start + size, hole - size)
        elif self._break - self._top < asked >= self._threshold:
            self._mapped[key] = size
            self._mapped_bytes += size
        else:
            self._blocks[key] = self._top, size
            if self._break - self._top < asked:
                self._break = self._top + asked + TOP_PAD
            self._top += size
        self.peak_bytes = max(self.peak_bytes, self._break + self._mapped_bytes)

    def free(self, key: Hashable) -> None:
        """Let go of a block."""
        if key not in self._mapped:
            self._open(*self._blocks.pop(key))
            return
        size = self._mapped.pop(key)
        self._mapped_bytes -= size
        if self._threshold < size <= LAST_THRESHOLD:
            self._threshold, self._trim = size, 2 * size

    def _open(self, start: int, size: int) -> None:
        if start in self._ends:
            before = self._ends[start]
            start, size = before, size + self._close(before, start - before)
        if start + size in self._starts:
            after = start + size
            size += self._close(after, self._starts[after])
        if start + size == self._top:
            self._top = start
            if self._break - self._top > self._trim:
                self._break = self._top + TOP_PAD
        elif size:
            self._starts[start], self._ends[start + size] = size, start
            bisect.insort(self._holes, (size, start))

    def _close(self, start: int, size: int) -> int:
        del self._starts[start], self._ends[start + size]
        del self._holes[bisect.bisect_left(self._holes, (size, start))]
        return size
