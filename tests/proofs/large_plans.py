"""What training a prompt takes for the large backbones of configs/backbones, on 1, 8 and 64 GPUs: a Markdown table.

    python -m tests.proofs.large_plans [--device h100] [--backbone llama_3_1_8b ...]

Nothing is measured: `infoprompt plan` counts, of published shapes. 20 prompt vectors, 8 inputs of 128 positions a rank
and update, bfloat16. The large ones are at ZeRO stage 3, as their configs say.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from infoprompt.config import load_config
from launcher.plan.plan import make_plan

CONFIGS = Path(__file__).parents[2] / "configs" / "backbones"
BACKBONES = (
    *("roberta_large", "deberta_v3_large", "modernbert_large"),
    *("t5_11b", "llama_3_1_8b", "qwen3_32b", "llama_3_1_70b"),
)
RANKS = (1, 8, 64)
TRIALS = 16
INPUTS = 8
"""Of a rank."""


def settings(ranks: int) -> list[str]:
    """Of a run of prompt tuning."""
    rows = ["data.task=banking77", f"data.batch_size={INPUTS * ranks}"]
    return [*rows, "prompt.kind=static", "objective.head_weight=0", "objective.representation_weight=0"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="h100")
    parser.add_argument("--backbone", nargs="+", default=BACKBONES, choices=BACKBONES)
    given = parser.parse_args(arguments)
    logging.getLogger("launcher.plan.model").setLevel(logging.ERROR)  # that no hub is there
    names = ("backbone", "parameters", "ZeRO", "GPUs", "GiB a GPU", "fits", "weights", "gathered", "activations")
    names += ("working", "ms an update", "GiB fetched", f"{TRIALS} in one pass, GiB", f"{TRIALS} runs, GiB")
    print(f"| {' | '.join(names)} |\n|{' --- |' + ' ---: |' * (len(names) - 1)}")
    for name in given.backbone:
        for ranks in RANKS:
            config = load_config(CONFIGS / f"{name}.yaml", settings(ranks))
            plan = make_plan(config, given.device, ranks)
            memory = plan.memory
            together = memory.base + memory.weights + memory.gathered + memory.kernels + TRIALS * memory.member
            sizes = [memory.weights, memory.gathered, memory.activations, memory.working]
            cells = [name, f"{plan.body_parameters / 1e9:.2f} B", config.engine.zero_stage, ranks, gib(memory.peak)]
            cells += ["yes" if plan.runs_that_fit else "**no**", *map(gib, sizes), f"{1000 * plan.step_seconds:.0f}"]
            cells += [gib(plan.fetched_bytes), gib(together), gib(TRIALS * memory.peak)]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return 0


def gib(size: int) -> str:
    """Two digits behind the point."""
    return f"{size / 2**30:.2f}"


if __name__ == "__main__":
    sys.exit(main())
