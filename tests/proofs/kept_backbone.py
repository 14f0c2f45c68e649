"""Seconds of a run beside training, with the backbone read anew and kept from the run before.

    python tests/proofs/kept_backbone.py

The backbone is a BERT of 24 layers and width 1024 (303 M parameters, bfloat16) with random weights.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertConfig, BertModel

from infoprompt.config import build_config
from infoprompt.model.backbone import cache
from infoprompt.model.backbone.load import EMBEDDED, backbone_source
from infoprompt.train import run

RUNS = 7


def make_backbone(folder: Path) -> None:
    """A large model of random weights with MiniLM's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(backbone_source(EMBEDDED))
    size = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    model = BertModel(BertConfig(vocab_size=len(tokenizer), **size), add_pooling_layer=False)
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


def main() -> None:
    """Print the medians of both."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        make_backbone(place / "backbone")
        anew, kept = [], []
        for number in range(RUNS + 1):
            cache.forget()
            anew.append(seconds_beside_training(place, f"anew_{number}"))
            kept.append(seconds_beside_training(place, f"kept_{number}"))
        for name, seconds in (("read anew", anew), ("kept", kept)):
            shown = " ".join(f"{one:.2f}" for one in seconds[1:])  # the first run imports
            print(f"{name:10} median {statistics.median(seconds[1:]):.2f} s   ({shown})")


if __name__ == "__main__":
    main()
