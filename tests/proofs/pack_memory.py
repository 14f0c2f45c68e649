"""What a pack of runs takes beside one run, at ZeRO stage 3: peak memory of each rank, over one parted backbone.

    python tests/proofs/pack_memory.py [--size 465M] [--members 1 8] [--ranks 2]

Prompt tuning (20 vectors, 8 rows, four updates) on a Llama of random weights in bfloat16. Growth is of resident memory
from before the backbone is loaded to its peak (VmHWM), of processes that have imported everything.
"""

import argparse
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from infoprompt.config import build_config
from tests.proofs.zero3_memory import MIB, SHAPES, _status, leave, make_backbone, outputs_of_ranks

WORDS = "good bad great awful film movie plot actor story scene".split()


def growth(folder: str, num_members: int) -> tuple[int, int]:
    """MiB of this rank while so many runs train side by side, and of its share of the backbone."""
    import deepspeed  # noqa: F401  its modules are not what is measured

    import infoprompt.engine.deepspeed_engine  # noqa: F401
    from infoprompt.engine.ranks import start_ranks
    from infoprompt.model.backbone import cache
    from infoprompt.packed import run_packed

    rows = str(Path(folder) / "rows.jsonl")
    configs = [
        build_config(
            {
                "seed": seed,
                "run": {"output_dir": str(Path(folder) / f"run{seed}"), "save_artifact": False},
                "backbone": {"name": folder, "dtype": "bfloat16"},
                "data": {"train": rows, "validation": rows, "batch_size": 8},
                "prompt": {"kind": "static", "length": 20},
                "head": {"pooling": "last"},
                "objective": {"head_weight": 0, "representation_weight": 0},
                "optim": {"max_steps": 4},
                "evaluation": {"batch_size": 8},
                "checkpoint": {"enabled": False},
                "tracking": {"enabled": False},
                "engine": {"kind": "deepspeed", "zero_stage": 3, "device": "cpu"},
            }
        )
        for seed in range(num_members)
    ]
    start_ranks(configs[0].engine).barrier()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    results = run_packed(configs, num_members)
    assert not any(isinstance(result, Exception) for result in results), results
    ((backbone, _),) = cache._kept.values()
    share = sum(parameter.ds_tensor.nbytes for parameter in backbone.parameters())
    return _status("VmHWM") - before, share // MIB


def measure(folder: str, num_members: int, num_ranks: int) -> list[tuple[int, int]]:
    """Growth and share of each rank, in processes of their own."""
    code = "from tests.proofs import pack_memory as p; "
    code += f"print('GROWTH', *p.growth({folder!r}, {num_members}), flush=True); p.leave()"
    found = [re.search(r"GROWTH (\d+) (\d+)", output) for output in outputs_of_ranks(code, num_ranks)]
    return [(int(match[1]), int(match[2])) for match in found if match]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="465M", choices=SHAPES)
    parser.add_argument("--members", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--ranks", type=int, default=2)
    options = parser.parse_args(arguments)
    print("model, runs in the pack, rank, share of the backbone in MiB, peak growth in MiB")
    with tempfile.TemporaryDirectory() as folder:
        make_backbone(Path(folder), options.size)
        lines = [{"text": f"{one} {two}", "label": number % 2} for number, one in enumerate(WORDS) for two in WORDS]
        (Path(folder) / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:24]))
        for num_members in options.members:
            for rank, (peak, share) in enumerate(measure(folder, num_members, options.ranks)):
                print(f"{options.size:5} {num_members:4} {rank:4} {share:6} {peak:6}", flush=True)
    return 0


__all__ = ["growth", "leave", "main", "measure"]

if __name__ == "__main__":
    raise SystemExit(main())
