"""What a run on a million short rows takes beside one on 10,000: memory, time to the first update, time of an update.

    python tests/proofs/million_rows.py [--rows 10000 1000000] [--classes 4] [--test-rows 200] [--methods head_only ...]

The backbone is a BERT of random weights, 2 layers of width 64, with MiniLM's tokenizer. Each run is a process of its
own, twice: the first time with an empty cache (the later methods find the rows there, but no tokens of theirs), the
second with what the first has kept. Memory is the peak of all processes' own pages (Pss_Anon
and Pss_Shmem), asked for ten times a second; pages of mapped files are left out, which the system takes back when it
needs them. `beyond` is what it has more than the run on the fewest rows.

Exits with 1 if a run takes more than 400 MiB beyond, a second run more than a minute to its first update, or an update
of the most rows 1.2 x as long as one of the fewest.
"""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from infoprompt.config import compose_config, read_settings
from infoprompt.embedded import backbone_source
from infoprompt.train import run

ROOT = Path(__file__).parents[2]
EVERY = 50
"""Updates between two looks at the clock, at each of which 64 rows are scored."""
MOST_MIB, MOST_SECONDS, MOST_RATIO = 400, 60, 1.2
WORDS = (
    "warm funny film dull far too long loved every minute hated story of a man who finds his way home through winter "
    "card payment refund stuck transfer balance top up exchange rate app phone lost stolen pin blocked and the"
).split()


@dataclass(frozen=True)
class Measured:
    """Of one run."""

    first_update_seconds: float
    update_ms: float
    """Mean of the quickest stretch, since the machine may have other work."""
    end_seconds: float
    """From the last update on: mostly scoring the test rows."""
    total_seconds: float
    own_mib: float
    """Peak of the pages of all its processes that are of no file."""


def write_rows(path: Path, rows: int, classes: int, seed: int) -> None:
    """Texts of 7 to 15 words, no two alike."""
    draws = random.Random(seed)
    with path.open("w") as file:
        file.write("text,label\n")
        for row in range(rows):
            text = " ".join(draws.choices(WORDS, k=draws.randint(6, 14)))
            file.write(f"{text} {seed} {row},class {row % classes:04d}\n")


def make_backbone(folder: Path) -> None:
    """A small model of random weights."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(backbone_source("minilm"))
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    BertModel(BertConfig(vocab_size=len(tokenizer), **size), add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def settings_of(place: Path, name: str, updates: int) -> dict[str, Any]:
    """Of a run on the rows in a folder."""
    return {
        "backbone": {"name": str(place.parent / "backbone")},
        "data": {part: str(place / f"{part}.csv") for part in ("train", "validation", "test")},
        "optim": {"max_steps": updates},
        "evaluation": {"every_steps": EVERY},
        "engine": {"kind": "plain", "device": "cpu"},
        "tracking": {"enabled": False},
        "run": {"output_dir": str(place / name)},
    }


def train_once(place: str, name: str, method: str, updates: int, started: float) -> None:
    """A run in this process; prints when it came to each look at the clock, and which score it ended with."""
    times: list[float] = []

    def note(progress: Any, scores: Any) -> None:
        times.append(time.time() - started)

    recipe = read_settings(ROOT / "configs" / "recipes" / f"{method}.yaml")
    result = run(compose_config([recipe, settings_of(Path(place), name, updates)], []), report=note)
    sys.stdout.write(f"\nTIMES {json.dumps([times, [time.time() - started, result.test]])}\n")


def own_mib(process: psutil.Process) -> float:
    """Pages of a process and all below it that are of no file, shared ones in part; 0 where one came or went meanwhile.

    A fork between two looks would count its shared pages whole in the parent, and in part in the child.
    """
    total = 0
    try:
        family = [process, *process.children(recursive=True)]
        for each in family:
            lines = Path(f"/proc/{each.pid}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon", "Pss_Shmem")))
        if family != [process, *process.children(recursive=True)]:
            return 0.0
    except (OSError, psutil.Error):  # one has ended
        return 0.0
    return total / 1024


def measure(place: Path, name: str, method: str, updates: int) -> Measured:
    """A run in a process of its own, watched."""
    started = time.time()
    given = (str(place), name, method, updates, started)
    code = f"from tests.proofs import million_rows as m; m.train_once(*{given!r})"
    environment = os.environ | {"INFOPROMPT_CACHE": str(place / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    peak = 0.0
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as child:
        process = psutil.Process(child.pid)
        while child.poll() is None:
            peak = max(peak, own_mib(process))
            time.sleep(0.1)
        assert child.stdout is not None
        output = child.stdout.read()
    times, (end, _) = json.loads(output.split("TIMES ")[1])
    update_ms = 1000 * min(after - before for before, after in itertools.pairwise(times)) / EVERY
    first = times[0] - EVERY * update_ms / 1000
    return Measured(first, update_ms, end - times[-1], time.time() - started, peak)


def mib_of(folder: Path, pattern: str) -> float:
    """Of the files in a folder."""
    return sum(file.stat().st_size for file in folder.glob(pattern) if file.is_file()) / 2**20


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--test-rows", type=int, default=200)
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--methods", nargs="+", default=["head_only", "prompt_tuning"])
    options = parser.parse_args(arguments)
    right = True
    print(f"{options.classes} classes, {options.test_rows:,} test rows, {options.updates} updates")
    print("method           rows  run     text MiB  own MiB  beyond  first update s  update ms  in all s  cache MiB")
    with tempfile.TemporaryDirectory() as folder:
        make_backbone(Path(folder) / "backbone")
        for method in options.methods:
            fewest: list[Measured] = []
            for rows in options.rows:
                place = Path(folder) / f"rows-{rows}"
                place.mkdir(exist_ok=True)
                sizes = {"train": rows, "validation": 64, "test": options.test_rows}
                for seed, (part, count) in enumerate(sizes.items()):
                    write_rows(place / f"{part}.csv", count, options.classes, seed)
                text_mib = mib_of(place, "*.csv")
                for number, name in enumerate(("first", "second")):
                    found = measure(place, f"{method}-{name}", method, options.updates)
                    fewest += [found] if rows == options.rows[0] else []
                    beyond = found.own_mib - fewest[0].own_mib
                    right &= beyond <= MOST_MIB and found.update_ms <= MOST_RATIO * fewest[number].update_ms
                    right &= number == 0 or found.first_update_seconds <= MOST_SECONDS
                    cache_mib = mib_of(place / "cache", "**/*")
                    print(
                        f"{method:14} {rows:>9,}  {name:6} {text_mib:9.1f} {found.own_mib:8.0f} {beyond:7.0f} "
                        f"{found.first_update_seconds:15.1f} {found.update_ms:10.2f} {found.total_seconds:9.0f} "
                        f"{cache_mib:10.0f}",
                        flush=True,
                    )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
