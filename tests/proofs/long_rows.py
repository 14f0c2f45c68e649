"""Memory and time of an update on long rows, by the form of attention.

    python tests/proofs/long_rows.py [--lengths 1024 4096] [--layers 4]

The backbone has MiniLM's shape (width 384, 12 heads) but random weights, and places for 4,096 positions. An update has
one row of that many positions, prompt included. Growth is the peak of resident memory (VmHWM) in two updates over what
was resident before them; the seconds are the second one's. `scores` is what the attention scores of one layer take.

Exits with 1 if an update of the longest rows in the fused form, with checkpointing, takes as much as these scores.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from infoprompt.config import compose_config, read_settings
from infoprompt.data.rows import Example
from infoprompt.data.splits import Splits
from infoprompt.data.task import Task
from infoprompt.embedded import backbone_source
from launcher.bench.ours import Training
from tests.proofs.zero3_memory import _status

ROOT = Path(__file__).parents[2]
HEADS, WIDTH, ROWS = 12, 384, 1
FORMS = {
    "sdpa": {"attention": "sdpa"},
    "eager": {"attention": "eager"},
    "sdpa, checkpointing": {"attention": "sdpa", "gradient_checkpointing": True},
}
METHODS = ("prompt_tuning", "prefix")


def make_backbone(folder: Path, layers: int, length: int) -> None:
    """A model of MiniLM's shape with random weights."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(backbone_source("minilm"), model_max_length=length)
    size = {"hidden_size": WIDTH, "num_hidden_layers": layers, "num_attention_heads": HEADS, "intermediate_size": 1536}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=length, **size)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def one(backbone: str, method: str, form: str, length: int) -> dict[str, float]:
    """Growth of this process in an update, in MiB, and the update's seconds."""
    rows = [Example("good film " * length, label=label) for label in ("bad", "good")]
    task = Task("long", ("bad", "good"), ("bad", "good"), ("accuracy",), "single")
    settings = {
        "backbone": {"name": backbone, "max_length": length, **FORMS[form]},
        "data": {"train": "not read", "batch_size": ROWS},
        "engine": {"kind": "plain", "device": "cpu"},
        "evaluation": {"test": False},
    }
    recipe = read_settings(ROOT / "configs" / "recipes" / f"{method}.yaml")
    training = Training.start(compose_config([recipe, settings], []), Splits(task, rows, rows[:2], [], "long rows"))
    made = next(iter(training.batches(0)))
    assert made[1][0].length == length
    ctypes.CDLL(None).malloc_trim(0)  # an update would else grow into what earlier work has freed, and show less
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    for _ in range(2):
        started = time.perf_counter()
        training.update(made)
    return {"growth": _status("VmHWM") - before, "seconds": time.perf_counter() - started}


def measure(backbone: Path, method: str, form: str, length: int) -> dict[str, float]:
    """The same in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", program(backbone, method, form, length)]
    return found_in(subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False))


def program(backbone: Path, method: str, form: str, length: int) -> str:
    """Python code that prints what `one` finds."""
    given = (str(backbone), method, form, length)
    return f"import json; from tests.proofs import long_rows as m; print('FOUND', json.dumps(m.one(*{given!r})))"


def found_in(done: "subprocess.CompletedProcess[str]") -> dict[str, float]:
    """What a process with that code has printed."""
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise SystemExit(1)
    found: dict[str, float] = json.loads(done.stdout.split("FOUND")[1])
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    options = parser.parse_args(arguments)
    right = True
    print(f"random weights, {options.layers} layers, width {WIDTH}, {HEADS} heads, {ROWS} row an update, float32, CPU")
    print("method         form                  length  growth MiB  scores MiB  update s")
    with tempfile.TemporaryDirectory() as folder:
        make_backbone(Path(folder), options.layers, max(options.lengths))
        for method in options.methods:
            for form in options.forms:
                for length in options.lengths:
                    found = measure(Path(folder), method, form, length)
                    scores = ROWS * HEADS * length**2 * 4 / 2**20
                    if form == "sdpa, checkpointing" and length == max(options.lengths):
                        right &= found["growth"] < scores
                    print(
                        f"{method:14} {form:21} {length:6,} {found['growth']:11,} {scores:11,.0f} "
                        f"{found['seconds']:9.2f}",
                        flush=True,
                    )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
