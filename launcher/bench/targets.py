"""What a step is to reach, and whether the measured tables do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from launcher.bench.lengths import QUANTILES, SHIPPED
from launcher.bench.measure import Measured

METHODS = ("prompt tuning", "prefix tuning", "InfoPrompt")
REAL = (*QUANTILES, *SHIPPED)


@dataclass(frozen=True)
class Target:
    """A number to reach."""

    what: str
    found: float | None
    """None where it was not measured."""
    bound: float
    at_least: bool = True

    @property
    def met(self) -> bool | None:
        """To the two digits that are shown; None where it was not measured."""
        if self.found is None:
            return None
        found = round(self.found, 2)
        return found >= self.bound if self.at_least else found <= self.bound

    def shown(self) -> str:
        """A line: target, found, met or missed."""
        verdict = {True: "met", False: "missed", None: "not measured"}[self.met]
        found = "-" if self.found is None else f"{self.found:.2f}"
        return f"  {self.what:72} {'>=' if self.at_least else '<='} {self.bound:4.2f}  {found:>6}  {verdict}"


class Tables:
    """The medians of measured lines."""

    def __init__(self, lines: Sequence[Measured]) -> None:
        self._seconds = {(line.lengths, line.batch, line.contender): line.median for line in lines}
        self.keys = list(dict.fromkeys((line.lengths, line.batch) for line in lines))

    def ratio(self, lengths: str, batch: int, other: str, own: str) -> float | None:
        """One contender's time over another's; None where either was not measured."""
        above = self._seconds.get((lengths, batch, other))
        below = self._seconds.get((lengths, batch, own))
        return None if above is None or below is None else above / below

    def of_methods(self, key: tuple[str, int], other: str, methods: Sequence[str]) -> Iterator[float]:
        """A contender's times over ours, of each method that both were measured for."""
        for method in methods:
            found = self.ratio(*key, f"{other}: {method}", f"ours: {method}")
            if found is not None:
                yield found

    def worst(self, keys: Sequence[tuple[str, int]], other: str, methods: Sequence[str] = METHODS) -> float | None:
        """The least of those over some tables."""
        return min((ratio for key in keys for ratio in self.of_methods(key, other, methods)), default=None)


def cpu_targets(lines: Sequence[Measured]) -> list[Target]:
    """The targets of a CPU, each the worst over methods and tables where there are several."""
    tables = Tables(lines)
    small, large = [("sst2", 8)], [("sst2", 32)]
    both = small + large
    overheads = [tables.ratio(*key, "ours: InfoPrompt", "ours: prompt tuning") for key in both]
    released = tables.worst(both, "released form")
    return [
        Target("ours, padded over ours: prompt tuning, sst2, 8", tables.worst(small, "ours, padded", METHODS[:1]), 1.7),
        Target(
            "ours, padded over ours: prompt tuning, sst2, 32", tables.worst(large, "ours, padded", METHODS[:1]), 2.3
        ),
        Target("ours, padded over ours: all methods and tables", tables.worst(tables.keys, "ours, padded"), 1.0),
        Target("PEFT over ours, sst2, 8", tables.worst(small, "PEFT"), 2.0),
        Target("PEFT over ours, sst2, 32", tables.worst(large, "PEFT"), 2.5),
        Target("PEFT, grouped by length over ours, sst2", tables.worst(both, "PEFT, grouped by length"), 1.3),
        Target(
            "InfoPrompt over prompt tuning, both ours, sst2",
            max((found for found in overheads if found is not None), default=None),
            1.1,
            at_least=False,
        ),
        Target("released form over ours: InfoPrompt, sst2", released, 4.0),
    ]


def gpu_targets(
    lines: Sequence[Measured], used: dict[str, float | None], over_kernels: dict[str, float | None]
) -> list[Target]:
    """The targets of a GPU.

    Args:
        lines: of all tables.
        used: share of the card's rate, of each backbone, at 32 x 256 positions.
        over_kernels: time of a step over that of its kernels, of each backbone, at 8 x 64 positions.
    """
    tables = Tables(lines)
    real = [key for key in tables.keys if key[0] in REAL]
    return [
        *[Target(f"share of the card's rate (MFU), 32 x 256, {name}", share, 0.5) for name, share in used.items()],
        *[
            Target(f"step over the sum of its kernels, 8 x 64, {name}", ratio, 1.3, at_least=False)
            for name, ratio in over_kernels.items()
        ],
        Target("PEFT over ours: lengths of real sets", tables.worst(real, "PEFT"), 1.5),
    ]
