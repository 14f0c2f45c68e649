"""What many classes and many test rows take: memory of the run, time of an update, rows scored a second.

    python tests/proofs/large_tasks.py [--classes 4 1000] [--test-rows 1000 100000] [--rows 20000]

Backbone, runs and memory are those of `million_rows.py`. `beyond` is what a run has more than the first one. Exits with
1 if that is more than 400 MiB, or fewer than 500 test rows are scored a second.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.proofs.million_rows import MOST_MIB, make_backbone, measure, write_rows

LEAST_RATE = 500
MANY = 10_000
"""From so many test rows on the rate is looked at: before, the rest of the run's end counts too much."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[4, 1000])
    parser.add_argument("--test-rows", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--methods", nargs="+", default=["prompt_tuning"])
    options = parser.parse_args(arguments)
    right, first = True, None
    print(f"{options.rows:,} training rows, {options.updates} updates")
    print("method         classes  test rows  own MiB  beyond  update ms  test rows/s  in all s")
    with tempfile.TemporaryDirectory() as folder:
        make_backbone(Path(folder) / "backbone")
        for method in options.methods:
            for classes in options.classes:
                for test_rows in options.test_rows:
                    place = Path(folder) / f"{method}-{classes}-{test_rows}"
                    place.mkdir()
                    sizes = {"train": options.rows, "validation": 64, "test": test_rows}
                    for seed, (part, count) in enumerate(sizes.items()):
                        write_rows(place / f"{part}.csv", count, classes, seed)
                    found = measure(place, "first", method, options.updates)
                    first = first or found
                    beyond, rate = found.own_mib - first.own_mib, test_rows / found.end_seconds
                    right &= beyond <= MOST_MIB and (test_rows < MANY or rate >= LEAST_RATE)
                    print(
                        f"{method:14} {classes:7,} {test_rows:10,} {found.own_mib:8.0f} {beyond:7.0f} "
                        f"{found.update_ms:10.2f} {rate:12,.0f} {found.total_seconds:9.0f}",
                        flush=True,
                    )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
