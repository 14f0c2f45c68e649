"""Times of contenders, turn by turn, so that a busy moment of the machine hits all of them."""

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from infoprompt.kernels.machine import synchronize
from infoprompt.kernels.memory import peak_bytes
from launcher.bench.contender import Contender, Missing
from launcher.bench.flops import done_flops


@dataclass
class Measured:
    """A line of a table."""

    lengths: str
    batch: int
    contender: str
    method: str
    seconds: list[float] = field(default_factory=list)
    """Of a step, batch making included: the mean over a round, for each round."""
    host_seconds: list[float] = field(default_factory=list)
    """Of making a step's batch, likewise."""
    examples: int = 0
    """Of a round."""
    tokens: int = 0
    """Real tokens of a round, without prompt vectors and padding."""
    steps: int = 0
    """Of a round."""
    peak_bytes: int | None = None
    """Most that tensors held at a time in the step with most positions, beyond what was there before."""
    useful_flops: int | None = None
    """Of a round: forward and back over real tokens and prompt vectors, once."""
    done_flops: int | None = None
    """Of a round, as torch counted them in the first."""
    loss: float | None = None
    """Of the last step."""
    problem: str | None = None
    """Why it did not run."""

    @property
    def median(self) -> float | None:
        """Seconds of a step, the median over rounds."""
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def host_share(self) -> float:
        """Share of the time in which the batch is made."""
        return sum(self.host_seconds) / sum(self.seconds)

    @property
    def useful_share(self) -> float | None:
        """Useful operations over those done; None where torch did not see all that were done."""
        if not self.useful_flops or not self.done_flops or self.useful_flops > 1.1 * self.done_flops:
            return None
        return min(1.0, self.useful_flops / self.done_flops)


def turns(
    contenders: Sequence[Contender], lines: Sequence[Measured], rounds: int, device: torch.device
) -> list[Measured]:
    """Time every contender in each round, the first one moving back by one place from round to round.

    Args:
        contenders: over the same rows.
        lines: of each contender, to be filled in.
        rounds: counted; one more comes first, which warms up, counts operations and finds the peak of memory.
        device: where they run.
    """
    able: list[tuple[Contender, Measured]] = []
    for contender, line in zip(contenders, lines, strict=True):
        try:
            _first_round(contender, line, device)
        except Exception as error:  # whatever another package raises, the others are still measured
            line.problem = reason(error)
        else:
            able.append((contender, line))
    for number in range(1, rounds + 1):
        places = range(len(able))
        for place in places:
            contender, line = able[(place + number) % len(able)]
            _round(contender, line, number, device)
    return list(lines)


def reason(error: Exception) -> str:
    """What went wrong, in a line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]


def attempt(name: str, method: str, build: Callable[[], Contender]) -> Contender | Missing:
    """The contender, or why it cannot be had."""
    try:
        return build()
    except Exception as error:  # a package may be absent, or not know the backbone
        return Missing(name, method, reason(error))


def _first_round(contender: Contender, line: Measured, device: torch.device) -> None:
    batches = list(contender.batches(0))
    line.steps = len(batches)

    def whole() -> None:
        for batch in batches:
            contender.update(batch)

    whole()  # compiles what is compiled
    with contextlib.suppress(Exception):  # torch's count may not see through what was compiled
        line.done_flops = done_flops(whole)
    largest: Any = max(batches, key=contender.positions)
    line.peak_bytes = peak_bytes(device, lambda: contender.update(largest))


def _round(contender: Contender, line: Measured, number: int, device: torch.device) -> None:
    host = 0.0
    synchronize(device)
    start = mark = time.perf_counter()
    for batch in contender.batches(number):
        host += time.perf_counter() - mark
        loss = contender.update(batch)
        mark = time.perf_counter()
    synchronize(device)
    line.seconds.append((time.perf_counter() - start) / line.steps)
    line.host_seconds.append(host / line.steps)
    line.loss = loss.item()
