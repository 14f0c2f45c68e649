"""Seconds of a run beside training, with the backbone read anew and kept from the run before.

    python tests/proofs/kept_backbone.py [--runs 7] [--layers 24] [--width 1024]

The backbone is a BERT of 24 layers and width 1024 (303 M parameters, bfloat16) with random weights.

Exits with 1 if the kept one is no quicker.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from infoprompt.config import build_config
from infoprompt.embedded import backbone_source
from infoprompt.model.backbone import cache
from infoprompt.train import run


def make_backbone(folder: Path, layers: int, width: int) -> None:
    """A large model of random weights with MiniLM's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(backbone_source("minilm"))
    size = {"num_hidden_layers": layers, "num_attention_heads": 16, "intermediate_size": 4 * width}
    model = BertModel(BertConfig(vocab_size=len(tokenizer), hidden_size=width, **size), add_pooling_layer=False)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def seconds_beside_training(place: Path, name: str) -> float:
    """Of a run of two updates."""
    rows = place / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"text": f"a {word} film", "label": word}) + "\n" for word in ("good", "bad") * 8)
    )
    config = build_config(
        {
            "backbone": {"name": str(place / "backbone"), "dtype": "bfloat16"},
            "data": {"train": str(rows), "validation": str(rows), "batch_size": 4},
            "optim": {"max_steps": 2},
            "engine": {"kind": "plain"},
            "tracking": {"enabled": False},
            "run": {"output_dir": str(place / name)},
        }
    )
    started = time.perf_counter()
    result = run(config)
    return time.perf_counter() - started - result.seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the medians of both; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=1024)
    options = parser.parse_args(arguments)
    seconds: dict[str, list[float]] = {"read anew": [], "kept": []}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_backbone(place / "backbone", options.layers, options.width)
        for number in range(options.runs + 1):
            cache.forget()
            for name, taken in seconds.items():
                taken.append(seconds_beside_training(place, f"{name} {number}"))
    medians = {name: statistics.median(taken[1:]) for name, taken in seconds.items()}  # the first run imports
    for name, taken in seconds.items():
        print(f"{name:10} median {medians[name]:.2f} s   ({' '.join(f'{one:.2f}' for one in taken[1:])})")
    return 0 if medians["kept"] < medians["read anew"] else 1


if __name__ == "__main__":
    sys.exit(main())
